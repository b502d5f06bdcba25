"""Who a command of a server's home acts for: the key in LUTHIER_KEY, or whoever works on the home itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from luthier.core.errors import NotAllowed, SpecError

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

KEY = "LUTHIER_KEY"

project_option = click.option(
    "--project", metavar="ID", help="Whose; default: the key's own, or the only one."
)
because_option = click.option(
    "--because", required=True, metavar="REASON", help="Why; it stands in the record."
)


def at_site(project: str | None = None, *, permission: str | None = None) -> tuple[Site, Caller]:
    """Raises SpecError for a key that is none here, NotAllowed for one without the permission."""
    from luthier.app.site import Site

    site = Site.open()
    if (caller := with_key(site, project, permission)) is not None:
        return site, caller
    found = site.store.accounts.projects()
    if project is None and len(found) != 1:
        return site, site.operator()
    named = site.store.accounts.project(project) if project is not None else found[0]
    return site, site.operator(named.id)


def with_key(site: Site, project: str | None, permission: str | None) -> Caller | None:
    """Whose key stands in LUTHIER_KEY; None where none does. Raises as `at_site`."""
    text = os.environ.get(KEY)
    if not text:
        return None
    caller = site.check(text, project)
    if caller is None:
        raise SpecError(
            f"the key in {KEY} opens nothing here{' in that project' if project else ''}.",
            remedy="Copy it again, whole, or unset it to act as whoever works on this home.",
        )
    if permission is not None and permission not in caller.permissions:
        raise NotAllowed(
            f"the key {caller.key_id} does not hold {permission!r}.", remedy="Ask an admin for it."
        )
    return caller
