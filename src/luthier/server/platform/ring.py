"""Keys of a site as the guard wants them."""

from __future__ import annotations

from luthier.app.site import Caller, Site
from luthier.server.keys import Key


class Ring:
    """server.keys.Opens over a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def check(self, text: str, project: str | None = None) -> Key | None:
        caller = self._site.check(text, project)
        return None if caller is None else Key(caller.key_id or caller.user, "", caller.permissions, caller)


def caller_of(key: Key) -> Caller:
    """Of a key that a Ring gave."""
    assert isinstance(key.caller, Caller)
    return key.caller
