"""Runs a job of a site in this process, as a reconciler and its child would: for tests of kinds, without either."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.app.acting import Actor
from luthier.app.context import Silent
from luthier.core import plugin
from luthier.core.errors import Interrupted, LuthierError
from luthier.core.event import Event
from luthier.store.jobs import told
from luthier.store.tables import jobs


@dataclass
class Here:
    """app.jobs.attempt.Attempt; figures are told as they come."""

    site: Any
    job: Any
    app: Any
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Any = field(default_factory=Silent)

    def tell(self, message, *, level="info", type="message", data=None):
        self.site.store.ledger.append(told(self.job.id, message, level=level, type=type, data=data))


@dataclass
class Telling:
    here: Here

    def event(self, event: Event) -> None:
        if event.kind in ("step", "validation"):
            self.here.tell(f"Step {event.data['step']}", type="metrics", data=event.data)

    def progress(self, what, done, total, facts) -> None:
        pass


def run_job(site, project: str, job_id: str, *, stop: threading.Event | None = None) -> None:
    """The job is what its kind made of it afterwards."""
    job = site.store.jobs.get(project, job_id)
    _put(site, job_id, state="running", started_s=time.time())
    here = Here(
        site,
        job,
        site.app_of(project, Actor(job.by)),
        site.top.home / "jobs" / job_id,
        stop or threading.Event(),
    )
    here.watch = Telling(here)
    try:
        result = plugin.load("job", job.kind)(here)
    except Interrupted:
        _put(site, job_id, state="paused")
    except LuthierError as error:
        _put(
            site,
            job_id,
            state="failed",
            finished_s=time.time(),
            error={"code": "failed", "message": str(error), "param": None},
        )
    else:
        _put(site, job_id, state="succeeded", finished_s=time.time(), result=dict(result))


def _put(site, job_id: str, **values) -> None:
    with site.store.database.transaction() as connection:
        connection.execute(jobs.update().where(jobs.c.id == job_id).values(values))
