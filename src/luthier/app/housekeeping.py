"""What a site does by the clock, beside its jobs: open requests lapse, promises of jobs that have ended are free again.

with Housekeeping(site).running(): ...        several servers may each run one: what is done once is done
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from .repeating import repeating
from .spending import settle_left_over

if TYPE_CHECKING:
    from .site import Site

EVERY_S = 60.0


class Housekeeping:
    def __init__(self, site: Site, every_s: float = EVERY_S) -> None:
        self._site, self._every_s = site, every_s

    def step(self) -> int:
        """Nothing that it did makes more of it due."""
        self._site.approvals.lapse()
        settle_left_over(self._site)
        return 0

    def running(self) -> AbstractContextManager[None]:
        """In a thread, until the block ends."""
        return repeating("housekeeping", self.step, self._every_s, first_s=self._every_s)
