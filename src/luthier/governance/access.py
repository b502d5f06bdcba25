"""Who may do what: six roles, what each may do, and nothing else. Whatever is not in the table is denied.

A role is held in a scope: a project, an organisation (then in each of its projects) or the site (then everywhere). A key may do what
its user may do in the key's scope, and less where it was made for less. Not here: whose key it is (store/accounts), which route asks
for which permission (the server's tables).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from luthier.core.errors import SpecError, did_you_mean

SITE: Final = "site"
"""The scope above all organisations."""
KNOWN: Final = "known"
"""What everybody holds who was let in at all, whatever his key was made for: to ask who he is, and to leave."""

_VIEWER = frozenset({
    "models.read", "files.read", "jobs.read", "evals.read", "records.read", "rollouts.read", "status", "keys.own",
})  # fmt: skip
_ANNOTATOR = _VIEWER | {"chat", "feedback", "data.read"}
_TRAINER = _ANNOTATOR | {
    "files.write", "jobs.write", "evals.write", "models.write", "data.write", "approvals.read", "approvals.ask",
    "budgets.read", "policy.read", "webhooks.read",
}  # fmt: skip
_DEPLOYER = _VIEWER | {
    "chat", "rollouts.write", "approvals.read", "approvals.ask", "approvals.decide", "models.write", "metrics", "budgets.read",
    "policy.read", "webhooks.read",
}  # fmt: skip
_AUDITOR = _VIEWER | {
    "audit.read", "usage.read", "budgets.read", "policy.read", "approvals.read", "members.read", "keys.read", "webhooks.read", "metrics",
}  # fmt: skip
_ADMIN = _TRAINER | _DEPLOYER | _AUDITOR | {
    "members.write", "keys.write", "budgets.write", "policy.write", "webhooks.write", "projects.read", "projects.write", "audit.write",
    "organisations.write",
}  # fmt: skip

ROLES: dict[str, frozenset[str]] = {
    "viewer": _VIEWER,
    "annotator": _ANNOTATOR,
    "trainer": _TRAINER,
    "deployer": _DEPLOYER,
    "auditor": _AUDITOR,
    "admin": _ADMIN,
}
PERMISSIONS: frozenset[str] = frozenset().union(*ROLES.values())


def permissions_of(roles: Iterable[str], least: Iterable[str] | None = None) -> frozenset[str]:
    """What these roles may do together; `least`: what a key was made for, where it was made for less.

    >>> sorted(permissions_of(["annotator"], ["chat", "jobs.write"]))
    ['chat']
    """
    held = frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))
    return held if least is None else held & frozenset(least)


def check_role(role: str) -> str:
    """Raises SpecError."""
    if role not in ROLES:
        raise SpecError(f"there is no role {role!r}.", remedy=did_you_mean(role, list(ROLES)))
    return role


def check_permissions(asked: Iterable[str]) -> list[str]:
    """Sorted. Raises SpecError."""
    asked = list(asked)
    for one in asked:
        if one not in PERMISSIONS:
            raise SpecError(f"there is no permission {one!r}.", remedy=did_you_mean(one, sorted(PERMISSIONS)))
    if not asked:
        raise SpecError(
            "a key that may do nothing opens nothing.", remedy="Name a permission, or leave the list out."
        )
    return sorted(set(asked))


def table() -> str:
    """Roles and what each may do, as Markdown: a page of the documentation holds it, and a test compares.

    >>> table().splitlines()[0]
    '| permission | viewer | annotator | trainer | deployer | auditor | admin |'
    """
    rows = [["permission", *ROLES], ["---", *(":-:" for _ in ROLES)]]
    rows += [
        [f"`{one}`", *("●" if one in held else "" for held in ROLES.values())] for one in sorted(PERMISSIONS)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
