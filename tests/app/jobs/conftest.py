"""A site, somebody who may do everything in its project, and reconcilers whose passes the tests make themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luthier.app.jobs.launchers import processes
from luthier.app.jobs.queue_spec import CapacitySpec, QueueSpec
from luthier.app.jobs.reconciler import Reconciler, folder_of
from luthier.app.site import Caller, Site
from luthier.store.jobs import ENDED, Job

QUICK = QueueSpec(
    capacity=CapacitySpec(cores=4, memory=1 << 30, gpus=0),
    at_once=4,
    first_wait=0.01,
    longest_wait=0.05,
    grace=1.0,
)


@dataclass
class Yard:
    """The site, the caller, and what every test of jobs does."""

    site: Site
    caller: Caller
    quick: QueueSpec = QUICK

    def reconciler(self, owner: str = "one", **given: Any) -> Reconciler:
        return Reconciler(self.site, owner=owner, **{"spec": QUICK, **given})

    def submit(self, wish: dict[str, Any] | None = None, **given: Any) -> Job:
        return self.site.jobs.submit(self.caller, "scripted", {"step_s": 0.02, **(wish or {})}, **given)

    def get(self, job: Job) -> Job:
        return self.site.jobs.get(self.caller, job.id)

    def until(self, done: Callable[[], Any], *reconcilers: Reconciler, seconds: float = 60.0) -> Any:
        """Passes until `done()` says so; what it said."""
        for_s = time.monotonic() + seconds
        while time.monotonic() < for_s:
            for one in reconcilers:
                one.step()
            if found := done():
                return found
            time.sleep(0.05)
        for job, _ in self.site.store.attempts.running():
            print(job.id, self.messages(job), self.log(job))
        raise AssertionError("it did not come to that")

    def finish(self, *jobs: Job, by: Sequence[Reconciler], seconds: float = 60.0) -> list[Job]:
        self.until(lambda: all(self.get(job).state in ENDED for job in jobs), *by, seconds=seconds)
        return [self.get(job) for job in jobs]

    def messages(self, job: Job) -> list[str]:
        return [event.data["message"] for event in self.site.jobs.events(self.caller, job.id)]

    def log(self, job: Job) -> list[str]:
        return list(self.site.jobs.logs(self.caller, job.id))

    def folder(self, job: Job) -> Path:
        return folder_of(self.site, job.id)

    def doubled(self, job: Job) -> bool:
        return (self.folder(job) / "files" / "doubled").exists()

    def pids(self, job: Job, attempt: int = 1) -> list[int]:
        return processes.marked(f"{job.id}/{attempt}")


@pytest.fixture
def environ(tmp_path):
    found = {"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_HOST": "here"}
    return found | {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}


def _yard(environ):
    site = Site.open(environ)
    yard = Yard(site, site.check(site.found()))
    yield yard
    for job, attempt in site.store.attempts.running():
        processes.kill(processes.marked(f"{job.id}/{attempt.number}"))


@pytest.fixture
def yard(environ):
    yield from _yard(environ)


@pytest.fixture(params=["sqlite", "postgresql"])
def each_yard(request, environ):
    if request.param == "postgresql":
        environ["LUTHIER_DATABASE"] = request.getfixturevalue("postgres_url")
    yield from _yard(environ)
