"""`luthier org | project | user | key ...`: who may do what on a server, said on its own home by whoever may write it.

Over the network the same verbs are asked of the server (docs/access.md). What is done here is in the trail as done by `local`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from luthier.core.errors import SpecError

from .command import Nearest, as_json_option, one_line, put, put_json, told
from .moments import moment
from .traffic import DURATION

if TYPE_CHECKING:
    from luthier.app.api_keys import Made
    from luthier.app.site import Site

scope_option = click.option(
    "--scope", required=True, metavar="SCOPE", help="A project, an organisation, or `site`."
)
role_option = click.option(
    "--role", required=True, help="viewer, annotator, trainer, deployer, auditor or admin."
)


def site() -> Site:
    """The server's home. Raises SpecError for one that nobody has founded."""
    from luthier.app.site import Site

    found = Site.open()
    if not found.store.accounts.any():
        raise SpecError(
            "this home is no server's yet.",
            remedy="`luthier server init` makes the first project and its key.",
        )
    return found


def _rows(rows: Sequence[Any], plain: Callable[[Any], dict[str, Any]], as_json: bool, *columns: str) -> None:
    shown = [plain(one) for one in rows]
    if as_json:
        put_json(shown)
        return
    if not shown:
        put("none")
    for one in shown:
        put("  ".join(one_line(_cell(name, one[name]), 60) for name in columns))


def _cell(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return moment(value, "minutes")
    return ", ".join(value) if isinstance(value, list) else "-" if value is None else str(value)


def _one(value: dict[str, Any], as_json: bool, text: str) -> None:
    put_json(value) if as_json else put(text)


# -- organisations and projects -------------------------------------------------------------------------------------------


@click.group(cls=Nearest)
def org() -> None:
    """Organisations of a server: each has its projects, and no member of one sees another."""


@org.command(name="create")
@click.argument("title")
@as_json_option
@told
def create_org(title: str, as_json: bool) -> None:
    """A new organisation."""
    from luthier.server.platform.account_wire import organisation_plain

    at = site()
    made = at.accounts.create_organisation(at.operator(), title)
    _one(organisation_plain(made), as_json, made.id)


@org.command(name="list")
@as_json_option
@told
def list_orgs(as_json: bool) -> None:
    """All of them."""
    from luthier.server.platform.account_wire import organisation_plain

    at = site()
    rows = at.accounts.organisations(at.operator())
    _rows(rows, organisation_plain, as_json, "id", "created_at", "title")


@org.command(name="rename")
@click.argument("organisation")
@click.argument("title")
@told
def rename_org(organisation: str, title: str) -> None:
    """Another title."""
    at = site()
    at.accounts.retitle_organisation(at.operator(), organisation, title)


@org.command(name="end")
@click.argument("organisation")
@told
def end_org(organisation: str) -> None:
    """End one that has no project any more."""
    at = site()
    at.accounts.end_organisation(at.operator(), organisation)


@click.group(cls=Nearest)
def project() -> None:
    """Projects of a server: each is a home of its own, below the server's."""


@project.command(name="create")
@click.argument("organisation")
@click.argument("title")
@as_json_option
@told
def create_project(organisation: str, title: str, as_json: bool) -> None:
    """A new project of an organisation, with a home and records of its own."""
    from luthier.server.platform.account_wire import project_plain

    at = site()
    made = at.accounts.create_project(at.operator(), organisation, title)
    _one(project_plain(made), as_json, made.id)


@project.command(name="list")
@click.option("--org", "organisation", metavar="ORGANISATION", help="Of this one alone.")
@as_json_option
@told
def list_projects(organisation: str | None, as_json: bool) -> None:
    """All of them, or those of an organisation."""
    from luthier.server.platform.account_wire import project_plain

    at = site()
    rows = at.accounts.projects(at.operator(), organisation)
    _rows(rows, project_plain, as_json, "id", "organisation", "created_at", "title")


@project.command(name="rename")
@click.argument("project_id", metavar="PROJECT")
@click.argument("title")
@told
def rename_project(project_id: str, title: str) -> None:
    """Another title."""
    at = site()
    at.accounts.retitle_project(at.operator(), project_id, title)


@project.command(name="end")
@click.argument("project_id", metavar="PROJECT")
@told
def end_project(project_id: str) -> None:
    """End one: its keys are dead, its jobs are cancelled, its records stay."""
    at = site()
    at.accounts.end_project(at.operator(), project_id)


# -- users ----------------------------------------------------------------------------------------------------------------


@click.group(cls=Nearest)
def user() -> None:
    """Persons and service accounts of a server, and what they are where."""


@user.command(name="create")
@click.argument("name")
@scope_option
@role_option
@click.option("--service", is_flag=True, help="A service account, which has keys alone.")
@click.option("--issuer", metavar="URL", help="Through which provider of OpenID Connect the person logs in.")
@click.option("--subject", metavar="SUB", help="Who that is to the provider.")
@click.option("--email", metavar="ADDRESS", help="Or a verified address, for the first login alone.")
@as_json_option
@told
def create_user(
    name: str, scope: str, role: str, service: bool, issuer: str | None, subject: str | None, email: str | None, as_json: bool
) -> None:  # fmt: skip
    """Somebody new, who is ROLE in SCOPE."""
    from luthier.server.platform.account_wire import user_plain

    at = site()
    made = at.accounts.create_user(
        at.operator(), "service" if service else "person", name, scope=scope, role=role, issuer=issuer, subject=subject, email=email
    )  # fmt: skip
    _one(user_plain(made), as_json, made.id)


@user.command(name="list")
@click.option("--scope", default="site", show_default=True, help="Those of a project or an organisation.")
@as_json_option
@told
def list_users(scope: str, as_json: bool) -> None:
    """Persons and service accounts."""
    from luthier.server.platform.account_wire import user_plain

    at = site()
    rows = at.accounts.users(at.operator(), scope)
    _rows(rows, user_plain, as_json, "id", "kind", "created_at", "name")


@user.command(name="rename")
@click.argument("user_id", metavar="USER")
@click.argument("name")
@told
def rename_user(user_id: str, name: str) -> None:
    """Another name."""
    at = site()
    at.accounts.rename_user(at.operator(), user_id, name)


@user.command(name="end")
@click.argument("user_id", metavar="USER")
@told
def end_user(user_id: str) -> None:
    """End somebody, with grants, keys and sessions."""
    at = site()
    at.accounts.end_user(at.operator(), user_id)


@user.command(name="erase")
@click.argument("user_id", metavar="USER")
@click.option("--because", required=True, help="Why; it stays in the trail, so name nobody.")
@as_json_option
@told
def erase_user(user_id: str, because: str, as_json: bool) -> None:
    """Of somebody who was ended, take out who that was, here and in all trails."""
    at = site()
    count = at.accounts.erase_user(at.operator(), user_id, because)
    _one({"id": user_id, "erased": True, "entries": count}, as_json, f"taken out of {count:,} entries")


@user.command(name="grant")
@click.argument("user_id", metavar="USER")
@scope_option
@role_option
@told
def grant_user(user_id: str, scope: str, role: str) -> None:
    """Make somebody ROLE in SCOPE too."""
    at = site()
    at.accounts.grant(at.operator(), scope, user_id, role)


@user.command(name="revoke")
@click.argument("user_id", metavar="USER")
@scope_option
@role_option
@told
def revoke_user(user_id: str, scope: str, role: str) -> None:
    """Somebody is no longer ROLE in SCOPE."""
    at = site()
    at.accounts.end_grant(at.operator(), scope, user_id, role)


@user.command(name="grants")
@scope_option
@as_json_option
@told
def list_grants(scope: str, as_json: bool) -> None:
    """Who is what in SCOPE."""
    from luthier.server.platform.account_wire import grant_plain

    at = site()
    rows = at.accounts.grants(at.operator(), scope)
    _rows(rows, grant_plain, as_json, "user", "role", "created_at", "scope")


# -- keys -----------------------------------------------------------------------------------------------------------------


@click.group(cls=Nearest)
def key() -> None:
    """API keys of a server. A key's text is shown once, when it is made; only its hash is kept."""


@key.command(name="create")
@click.option("--user", "user_id", required=True, metavar="USER", help="Whose key it is.")
@scope_option
@click.option("--title", required=True, help="What it is for.")
@click.option(
    "--permission", "permissions", multiple=True, metavar="NAME",
    help="What it may do, where it is to be less than all that its user may; may be given again.",
)  # fmt: skip
@click.option(
    "--expires-in", "expires_in_s", type=DURATION, metavar="TIME", help="Such as '90 days'. Default: never."
)
@as_json_option
@told
def create_key(
    user_id: str, scope: str, title: str, permissions: tuple[str, ...], expires_in_s: float | None, as_json: bool
) -> None:  # fmt: skip
    """A new key, shown once."""
    at = site()
    made = at.accounts.keys.create(
        at.operator(), scope=scope, title=title, user=user_id, permissions=permissions or None, expires_s=_from_now(expires_in_s)
    )  # fmt: skip
    _made(made, as_json)


@key.command(name="list")
@click.option("--scope", help="Those of a project, an organisation or `site`.")
@as_json_option
@told
def list_keys(scope: str | None, as_json: bool) -> None:
    """Keys that were not ended, newest first."""
    from luthier.server.platform.account_wire import key_plain

    at = site()
    rows = at.accounts.keys.list(at.operator(), scope)
    _rows(rows, key_plain, as_json, "id", "user", "scope", "expires_at", "last_used_at", "title")


@key.command(name="show")
@click.argument("key_id", metavar="KEY")
@as_json_option
@told
def show_key(key_id: str, as_json: bool) -> None:
    """What is known of a key, by its id."""
    from luthier.server.platform.account_wire import key_plain

    at = site()
    shown = key_plain(at.accounts.keys.get(at.operator(), key_id))
    if as_json:
        put_json(shown)
        return
    for name, value in shown.items():
        if name != "object":
            put(f"{name:14} {one_line(_cell(name, value), 200)}")


@key.command(name="rotate")
@click.argument("key_id", metavar="KEY")
@click.option(
    "--grace",
    "grace_s",
    type=DURATION,
    default="0 s",
    show_default=True,
    help="How long the old one works on.",
)
@click.option(
    "--expires-in",
    "expires_in_s",
    type=DURATION,
    metavar="TIME",
    help="Default: as long as the old one was to live.",
)
@as_json_option
@told
def rotate_key(key_id: str, grace_s: float, expires_in_s: float | None, as_json: bool) -> None:
    """A new key in place of one, for the same."""
    at = site()
    _made(
        at.accounts.keys.rotate(at.operator(), key_id, grace_s=grace_s, expires_s=_from_now(expires_in_s)),
        as_json,
    )


@key.command(name="end")
@click.argument("key_id", metavar="KEY")
@told
def end_key(key_id: str) -> None:
    """End a key: within two seconds no process of the server takes it."""
    at = site()
    at.accounts.keys.end(at.operator(), key_id)


def _made(made: Made, as_json: bool) -> None:
    from luthier.server.platform.account_wire import made_plain

    _one(made_plain(made), as_json, f"{made.key.id}\nAPI key (shown once): {made.text}")


def _from_now(in_s: float | None) -> float | None:
    return None if in_s is None else time.time() + in_s
