"""A server's audit trails, signed now and then and taken outside its home, while it runs.

    <place>/started/1795996799000000.txt                        no checkpoint: that the place could be written before anybody was served
    <place>/site/000000000042-1795996799000000.jsonl             of the server's own trail: its newest entry, the time
    <place>/projects/ID/000000000007-1795996799000000.jsonl      of a project's

A checkpoint is a file of its own that is never changed, so a place where nobody may overwrite or remove anything will do, and is best. A
trail that is not sound, or not the one that this server signed before, is not signed: all of it is read once, and then what is new. Those
of projects that have ended are signed for as long as their records are there. Whatever goes wrong is logged each time and shows in
`/status` and `/metrics`; it keeps nobody from being served. Not here: verifying, which is done where checkpoints are kept (`luthier audit
verify`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import SpecError
from luthier.core.units import show_seconds
from luthier.governance.trail import Checkpoint, check_key
from luthier.store.outside import Outside

from .acting import SERVER
from .repeating import repeating, safely

if TYPE_CHECKING:
    from .site import Site

LEAST_S, EVERY_S, MOST_S = 10.0, 3600.0, 7 * 86_400.0
WHAT = "checkpoints of the audit trail"


class Checkpoints:
    """Made by `of`. server.watch.Beside: `ok` and `last_s` are of the last time that the trails were looked at."""

    name = "audit_checkpoints"

    def __init__(self, site: Site, key: Path, place: Outside, every_s: float) -> None:
        self._site, self._key, self._place, self._every_s = site, key, place, every_s
        self._last: dict[str | None, Checkpoint] = {}
        """By project; None: of the server's own trail."""
        self.ok = True
        self.last_s: float | None = None

    @classmethod
    def of(cls, site: Site, key: Path, to: str, every_s: float) -> Checkpoints:
        """Raises SpecError for a key that signs nothing, a place that is none or inside the home, and an interval out of bounds."""
        if not LEAST_S <= every_s <= MOST_S:
            raise SpecError(
                f"signing every {show_seconds(every_s)} is out of bounds.",
                remedy=f"Write a time from {show_seconds(LEAST_S)} to {show_seconds(MOST_S)}.",
            )
        check_key(key)
        return cls(site, key, Outside.at(to, site.top.home, site.environ, WHAT), every_s)

    def step(self) -> int:
        """One trail that cannot be signed keeps no other from it. 0: nothing that it did makes more of it due."""
        projects: list[str] = []
        good = safely(
            "which projects' audit trails are to be signed is not known",
            lambda: projects.extend(self._projects()),
            ERROR,
        )
        for project in (None, *projects):
            what = f"the audit trail of {project or 'the site'} has no new checkpoint"
            good = safely(what, partial(self._sign, project), ERROR) and good
        self.ok, self.last_s = good, time.time() if good else self.last_s
        return 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """At once, every interval, and once more at the end, however that came. Raises StoreError where the place cannot be written at the very
        beginning, before anybody is served."""
        now_us = time.time_ns() // 1000
        told = f"A server of Luthier started at {datetime.fromtimestamp(now_us / 1e6, UTC).isoformat()}. This is no checkpoint.\n"
        self._place.write(f"started/{now_us}.txt", told.encode("ascii"))
        try:
            with repeating("checkpoints", self.step, self._every_s):
                yield
        finally:
            self.step()

    def _projects(self) -> list[str]:
        """Ended ones too: their last entries are those of their end, and jobs that were still stopping came after."""
        return [*(one.id for one in self._site.store.accounts.projects()), *self._site.ended()]

    def _sign(self, project: str | None) -> None:
        app = self._site.top if project is None else self._site.app_of(project, SERVER)
        last = self._last.get(project)
        try:
            if app.audit.unsigned(last):
                self._last[project] = self._put(project, app.audit.signed(self._key, last))
        finally:
            if project is not None:
                app.store.database.rest()  # a site may have more projects than a process may have files open

    def _put(self, project: str | None, made: Checkpoint) -> Checkpoint:
        folder = "site" if project is None else f"projects/{project}"
        name = f"{folder}/{made.seq:012d}-{made.time_us}.jsonl"
        self._place.write(name, f"{made.line()}\n".encode("ascii"))
        return made
