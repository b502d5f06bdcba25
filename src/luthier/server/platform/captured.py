"""Where what projects ask of served models is kept: each in its own home, whoever's model answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from luthier.app.acting import SERVER

from .ring import project_asked

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.site import Site
    from luthier.server.keys import Key


class Captured:
    """Of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def home(self, key: Key) -> App:
        """Of the project that the key asks for. Raises ApiError 400 where that is not said."""
        return self._site.app_of(project_asked(key), SERVER)

    def homes(self) -> Iterator[tuple[str, Callable[[], App]]]:
        """Every project's, and what opens it: one that cannot be opened keeps nobody from the next."""
        for project in self._site.store.accounts.projects():
            yield project.id, partial(self._site.app_of, project.id, SERVER)
