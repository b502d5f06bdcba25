"""What a site does by the clock, beside its jobs: open requests lapse, promises of jobs that have ended are free again, and what nobody
needs any more is taken away.

with Housekeeping(site).running(): ...        several servers may each run one: what is done once is done

Each pass          requests for approval, promises
once an hour       Idempotency-Keys, deliveries of webhooks; files of projects that have expired, or whose upload was broken off; folders
                   of jobs that have ended

Never taken away: jobs and their stories, the trail, what was used. docs/server.md says how long what is kept.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .acting import SERVER
from .passing import Passing
from .repeating import repeating, safely
from .spending import settle_left_over

if TYPE_CHECKING:
    from .site import Site

WHAT = "housekeeping"
EVERY_S = 60.0
CLEAN_EVERY_S = 3600.0
IDEMPOTENCY_S = 48 * 3600.0
"""At least 24 hours are promised, as Stripe promises for its keys; clocks of several servers differ."""
DELIVERIES_S = 30 * 86_400.0
"""Of deliveries that were made or given up."""
ENDED_WEBHOOK_S = 86_400.0
"""Of all deliveries of a webhook that has ended."""
BROKEN_OFF_S = 86_400.0
"""After the last byte of a file that never arrived whole."""
WORKING_S = 86_400.0
"""Of the working folder of a job that has ended: it holds copies of rows."""
LOGS_S = 90 * 86_400.0
"""Of what its attempts printed."""
AT_ONCE = 500


class Housekeeping:
    """Of one process."""

    def __init__(self, site: Site, every_s: float = EVERY_S, clock: Callable[[], float] = time.time) -> None:
        self._site, self._every_s, self._clock = site, every_s, clock
        self._cleaned_s = float("-inf")

    def step(self) -> int:
        """Nothing that it did makes more of it due."""
        now_s = self._clock()
        safely(WHAT, partial(self._site.approvals.lapse, now_s))
        safely(WHAT, partial(settle_left_over, self._site))
        if now_s - self._cleaned_s >= CLEAN_EVERY_S:
            self._cleaned_s = now_s
            for work in (self._rows, self._job_folders, self._place, self._projects):
                safely(WHAT, partial(work, now_s))
        return 0

    def running(self) -> AbstractContextManager[None]:
        """In a thread, until the block ends."""
        return repeating("housekeeping", self.step, self._every_s, first_s=self._every_s)

    def _rows(self, now_s: float) -> None:
        store = self._site.store
        store.retries.forget(now_s - IDEMPOTENCY_S)
        store.webhooks.forget(settled_before_s=now_s - DELIVERIES_S, ended_before_s=now_s - ENDED_WEBHOOK_S)

    def _place(self, now_s: float) -> None:
        """The one that all projects share."""
        self._site.store.uploaded.kept.sweep_place(now_s - BROKEN_OFF_S)

    def _projects(self, now_s: float) -> None:
        """Ended ones too: what was to go goes."""
        living = [one.id for one in self._site.store.accounts.projects()]
        for project in (*living, *self._site.ended()):
            safely(f"{WHAT}: {project}", partial(self._project, project, now_s))

    def _project(self, project: str, now_s: float) -> None:
        app = self._site.app_of(project, SERVER)
        try:
            app.uploaded.sweep()
            app.store.uploaded.kept.sweep(now_s - BROKEN_OFF_S)
            Passing(app.home).purge(now_s)
        finally:
            app.store.database.rest()  # a site may have more projects than a process may have files open

    def _job_folders(self, now_s: float) -> None:
        """Of those that lie on this host."""
        root, over = self._site.top.home / "jobs", self._site.store.jobs.over
        names = _folders(root)
        for few in (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE)):
            old = set(over(few, now_s - LOGS_S))
            for name in over(few, now_s - WORKING_S):
                keep = () if name in old else ("lock", "logs")
                safely(f"{WHAT}: the folder of job {name}", partial(_empty, root / name, keep))


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    with os.scandir(root) as found:
        return [one.name for one in found if one.is_dir(follow_symlinks=False)]


def _empty(folder: Path, keep: tuple[str, ...]) -> None:
    """Where no process is at the job: it holds the lock for as long as it lives. Raises OSError once all is gone that can be removed, and
    something is left."""
    from .jobs.launchers.local import hold

    if not folder.is_dir() or all(path.name in keep for path in folder.iterdir()):
        return
    if (lock := hold(folder)) is None:
        return
    try:
        for path in folder.iterdir():
            if path.name in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
        if left := sorted({path.name for path in folder.iterdir()} - set(keep)):
            raise OSError(errno.ENOTEMPTY, "could not be removed", str(folder / left[0]))
        if not keep:
            folder.rmdir()
    finally:
        os.close(lock)
