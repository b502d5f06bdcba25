"""What a site does by the clock, beside its jobs: open requests lapse, promises of jobs that have ended are free again.

with Housekeeping(site).running(): ...        several servers may each run one: what is done once is done
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier.core.errors import LuthierError

from .spending import settle_left_over

if TYPE_CHECKING:
    from .site import Site

logger = logging.getLogger("luthier.site")
EVERY_S = 60.0


class Housekeeping:
    def __init__(self, site: Site, every_s: float = EVERY_S) -> None:
        self._site, self._every_s = site, every_s

    def step(self) -> None:
        self._site.approvals.lapse()
        settle_left_over(self._site)

    @contextmanager
    def running(self) -> Iterator[None]:
        """In a thread, until the block ends."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(self._every_s):
                try:
                    self.step()
                except LuthierError as error:  # the records may be away for a while
                    logger.warning("%s", error)
                except Exception:  # a defect must not end it for a server that goes on
                    logger.exception("what is done by the clock failed")

        thread = threading.Thread(target=work, name="housekeeping", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
