"""What is kept of what served models were asked goes after a time, also where nobody asks any more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from luthier.core.errors import LuthierError

from .acting import SERVER
from .repeating import repeating

if TYPE_CHECKING:
    from .app import App

logger = logging.getLogger("luthier.site")

EVERY_S = 3600.0


class Retention:
    """`homes`: whose traffic is not kept for longer than `keep_s` seconds; asked for each time, for projects come and go."""

    def __init__(self, homes: Callable[[], Iterable[App]], keep_s: float) -> None:
        self._homes, self._keep_s = homes, keep_s

    def step(self) -> int:
        """Of one home that cannot be written the others do not wait. 0: nothing that it did makes more of it due."""
        for app in self._homes():
            try:
                app.traffic.remove(older_s=self._keep_s, why="kept long enough", actor=SERVER)
            except LuthierError as error:
                logger.warning("what is too old could not be removed from %s: %s", app.home, error)
        return 0

    def running(self) -> AbstractContextManager[None]:
        """In a thread, at once and every hour, until the block ends."""
        return repeating("retention", self.step, EVERY_S)
