"""A launcher of nothing: attempts are entries of a dictionary, and a test says what becomes of them. Public, as every stand-in.

>>> from luthier.app.jobs.launchers.launcher import Launch
>>> from pathlib import Path
>>> there, one = Scripted(), Launch("job-1", 1, 1, Path("."))
>>> there.submit(one); there.submit(one); there.launched["job-1/1"], there.status(one).state
(1, 'alive')
>>> there.end("job-1/1", {"state": "succeeded", "result": {}, "time_s": 1.0}); there.status(one).state
'dead'
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.units import Money
from luthier.store.jobs import Job

from .launcher import Launch, Status

if TYPE_CHECKING:
    from luthier.app.site import Site


def make(_site: Site) -> Scripted:
    return Scripted()


class Scripted:
    """`launched`: how often each attempt was; `asked`: those that were asked to stop; `ended`: those that were ended at once."""

    name = "scripted"

    def __init__(self, host: str = "here") -> None:
        self.host = host
        self.launched: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._known: dict[str, Status] = {}

    def end(self, mark: str, end: Mapping[str, Any] | None, why: str | None = "it was killed") -> None:
        """An attempt leaves its last word, or none."""
        self._known[mark] = Status("dead", end, why, time.time())

    def price(self, job: Job) -> Money | None:
        return None

    def submit(self, launch: Launch) -> None:
        if launch.mark not in self._known:
            self.launched[launch.mark] += 1
            self._known[launch.mark] = Status("alive")

    def reattach(self, launch: Launch) -> bool:
        return self.status(launch).state == "alive"

    def status(self, launch: Launch) -> Status:
        return self._known.get(launch.mark, Status("absent"))

    def stop(self, launch: Launch, *, now: bool = False) -> None:
        (self.ended if now else self.asked)[launch.mark] += 1

    def logs(self, launch: Launch, *, lines: int, containing: str | None = None) -> list[str]:
        return []
