"""What a caller may in a scope that he names: a project, its organisation, the site, a user or a key. A route's permission is one in the
caller's project; whoever changes what holds for more than that must hold it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import NotAllowed, NotFound
from luthier.governance.access import SITE

from .rights import Rights, missing

if TYPE_CHECKING:
    from .site import Caller, Site


def project_of(caller: Caller) -> str:
    """Raises NotFound where none is named."""
    if caller.project is None:
        raise NotFound("no project is named.", remedy="Use a key of a project, or send OpenAI-Project.")
    return caller.project


def organisation_of(caller: Caller) -> str:
    if caller.organisation is None:
        raise NotFound("no organisation is named.", remedy="Use a key of a project or of an organisation.")
    return caller.organisation


def wider(site: Site, scope: str) -> list[str]:
    """A scope and those above it, the narrowest first. Of a user, that is the site: he may be in any organisation. Raises NotFound."""
    if scope == SITE:
        return [SITE]
    if scope.startswith("proj_"):
        return [scope, site.store.accounts.project(scope).organisation, SITE]
    if scope.startswith(("org_", "user_")):
        return [scope, SITE]
    found = site.store.accounts.key(scope)
    if found is None:
        raise _nowhere(scope)
    return [scope, *wider(site, found[0].scope)]


def roles_in(site: Site, caller: Caller, project: str) -> list[str]:
    """What he is in a project."""
    if caller.operator:
        return ["admin"]
    return site.store.accounts.roles(caller.user, wider(site, project))


def need(site: Site, caller: Caller, permission: str, scope: str) -> None:
    """Raises NotAllowed where he does not hold it in that scope; NotFound, in the words of a scope that does not exist, where it is no
    scope of his: his key does not reach it, or he is nothing there."""
    held = Rights(site.store.accounts, caller).held_in(wider(site, scope))
    own = scope in (SITE, caller.project, caller.organisation, caller.user, caller.key_id)
    if not own and not held:
        raise _nowhere(scope)
    if permission not in held:
        raise NotAllowed(
            f"{permission!r} is not held in {scope}.",
            remedy="Ask an admin of that scope, or use a key that reaches it.",
        )


def _nowhere(scope: str) -> NotFound:
    if scope.startswith(("proj_", "org_")):
        return missing(scope)
    return NotFound(
        f"there is no scope {scope[:40]!r}.",
        remedy="Name a project, an organisation, a user, a key's id, or `site`.",
    )
