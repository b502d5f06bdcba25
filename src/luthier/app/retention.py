"""What is kept of what served models were asked goes after a time, also where nobody asks any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from .acting import SERVER
from .repeating import repeating, safely

if TYPE_CHECKING:
    from .app import App

EVERY_S = 3600.0
Homes = Callable[[], Iterable[tuple[str, Callable[[], "App"]]]]
"""What each is called, and what opens it; asked for each time, for projects come and go."""


class Retention:
    """`homes`: whose traffic is not kept for longer than `keep_s` seconds."""

    def __init__(self, homes: Homes, keep_s: float) -> None:
        self._homes, self._keep_s = homes, keep_s

    def step(self) -> int:
        """For one home that cannot be opened or written the others do not wait. 0: nothing that it did makes more of it due."""
        for name, opened in self._homes():
            safely(f"what is too old could not be removed from {name}", partial(self._remove, opened))
        return 0

    def running(self) -> AbstractContextManager[None]:
        """In a thread, at once and every hour, until the block ends."""
        return repeating("retention", self.step, EVERY_S)

    def _remove(self, opened: Callable[[], App]) -> None:
        app = opened()
        try:
            app.traffic.remove(older_s=self._keep_s, why="kept long enough", actor=SERVER)
        finally:
            app.store.database.rest()  # there may be more homes than a process may have files open
