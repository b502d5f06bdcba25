"""The reconciler: sees to it that what is wanted of jobs and what runs become the same. Any number of them over the same records; each job
is driven by whoever holds its lease.

    reconciler = Reconciler(site)
    reconciler.step()                      # one pass: deterministic, given the clock and what the launcher says
    with reconciler.running(): ...         # passes, in a thread, until the block ends

A pass may be cut off anywhere, by a kill or by an error of one job, and the next one, here or in another process, goes on from the
records: an attempt is entered before it is launched, launching twice makes one, and what became of it is entered once. Ending a
reconciler ends no attempt.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.app.repeating import repeating
from luthier.core import plugin
from luthier.core.errors import LuthierError, Stale
from luthier.core.testing import fault
from luthier.store.attempts import AttemptRow, Choice, Queue, lease_of
from luthier.store.audit import Act
from luthier.store.jobs import Job
from luthier.store.leases import Lease

from .ends import after, halted
from .launchers.launcher import Launch, Launcher, Status
from .observing import Halt, Observer, observer_of
from .queue_spec import QueueSpec, host_of, read_queue
from .scheduling import choose, usage

if TYPE_CHECKING:
    from luthier.app.site import Site

logger = logging.getLogger("luthier.jobs")
LEASE_S = 15.0
PASS_S = 1.0
METER_S = 15.0
STARTING_S = 120.0
"""How long a process may take to say that it runs."""
LINGER_S = 10.0
"""How long processes of an attempt that has left its last word may take to go."""


class Reconciler:
    """Of one process. `step` is not thread-safe; `running` calls it in one thread."""

    def __init__(
        self, site: Site, *, owner: str | None = None, launcher: Launcher | None = None, spec: QueueSpec | None = None,
        observer: Observer | None = None, clock: Callable[[], float] = time.time, lease_s: float = LEASE_S,
    ) -> None:  # fmt: skip
        self.owner = owner or f"reconciler-{secrets.token_hex(8)}"
        self._site = site
        self._spec = spec or read_queue(site.top.home / "queue.yaml")
        self._launcher = launcher or plugin.load("launcher", self._spec.launcher)(site)
        self._observer = observer or observer_of(site)
        self._clock = clock
        self._lease_s = lease_s
        self._host = host_of(self._spec, self._launcher.host, site.environ)
        self._attempts = site.store.attempts
        self._since: dict[tuple[str, int, str], float] = {}

    # -- passes -------------------------------------------------------------------------------------------------------

    def step(self) -> int:
        """One pass; how many jobs were started or came to an end. What goes wrong with one job is logged, and is no other job's
        matter."""
        moved = 0
        for work in (self._fire, self._drive_all, self._cancel_unmet, self._start):
            try:
                moved += work()
            except LuthierError as error:
                logger.warning("%s: %s", work.__name__.strip("_"), error)
            except Exception:  # a defect in one of them must not keep the others from being done
                logger.exception("%s failed", work.__name__.strip("_"))
        return moved

    def running(self, every_s: float = PASS_S) -> AbstractContextManager[None]:
        """Passes until the block ends. Attempts go on after it."""
        return repeating("reconciler", self.step, every_s)

    def _fire(self) -> int:
        from .schedules import fire_due

        return fire_due(self._site, self._clock())

    def _cancel_unmet(self) -> int:
        def act(job: Job) -> Act:
            return Act("server", "job.cancelled", job.id, {"project": job.project, "kind": job.kind})

        return self._attempts.cancel_unmet(act, self._clock(), self._observer.ended)

    # -- what waits ---------------------------------------------------------------------------------------------------

    def _start(self) -> int:
        now_s = self._clock()
        if not self._attempts.any_waiting(now_s):
            return 0
        used = usage(self._attempts.used(now_s - self._spec.memory_of_use), self._host, self._spec, now_s)
        refused: dict[str, Halt] = {}

        def decide(queue: Queue) -> Choice:
            waiting = {job.id: job for job in queue.waiting}
            while True:
                choice = choose(
                    replace(queue, waiting=list(waiting.values())), self._host, self._spec, used, now_s
                )
                halted = {
                    one: halt
                    for one in choice.start
                    if (halt := self._observer.may_run(waiting[one])) is not None
                }
                if not halted:
                    return choice
                refused.update(halted)
                waiting = {one: job for one, job in waiting.items() if one not in halted}

        started = self._attempts.start(
            decide, owner=self.owner, launcher=self._launcher.name, now_s=now_s, lease_s=self._lease_s, also=self._observer.started
        )  # fmt: skip
        for job_id, halt in refused.items():
            self._attempts.halt(job_id, partial(halted, halt=halt), now_s=now_s, ended=self._observer.ended)
        for job, attempt, _ in started:
            self._safely(job, partial(self._submit, job, attempt))
        return len(started) + len(refused)

    def _submit(self, job: Job, attempt: AttemptRow) -> int:
        self._launcher.submit(self._launch(job, attempt))
        return 1

    # -- what runs ----------------------------------------------------------------------------------------------------

    def _drive_all(self) -> int:
        moved = 0
        for job, attempt in self._attempts.running():
            if attempt.launcher == self._launcher.name and attempt.handle.get("host") == self._launcher.host:
                moved += self._safely(job, partial(self._drive, job, attempt))
        return moved

    def _safely(self, job: Job, work: Callable[[], int]) -> int:
        try:
            return work()
        except Stale:
            return 0  # another drives it
        except (LuthierError, OSError) as error:
            logger.warning("%s: %s", job.id, error)
        except Exception:
            logger.exception("%s: its attempt could not be driven", job.id)
        return 0

    def _drive(self, job: Job, attempt: AttemptRow) -> int:
        lease = self._site.store.leases.take(
            lease_of(job.id), self.owner, now_s=self._clock(), for_s=self._lease_s
        )
        if lease is None:
            return 0
        launch = self._launch(job, attempt)
        status = self._launcher.status(launch)
        fault("reconciler.seen")
        match status.state:
            case "dead":
                return self._end(lease, job, attempt, status)
            case "absent" if attempt.state == "starting" and job.wanted == "run":
                self._launcher.submit(launch)
            case "absent":
                return self._end(lease, job, attempt, status)
            case "alive":
                self._look_after(lease, job, attempt, launch, status)
        return 0

    def _look_after(
        self, lease: Lease, job: Job, attempt: AttemptRow, launch: Launch, status: Status
    ) -> None:
        if attempt.started_s is not None and self._passed(attempt, "metered", METER_S, again=True):
            self._attempts.meter(lease, job.id, attempt.number, self._clock(), self._observer.metered)
        if status.end is not None:
            if self._passed(attempt, "lingers", LINGER_S):
                self._launcher.stop(launch, now=True)
            return
        if attempt.state != "stopping" and (why := self._why_stop(job)) is not None:
            self._attempts.ask_to_stop(lease, job.id, attempt.number, why)
            fault("reconciler.asked")
            self._launcher.stop(launch)
        elif attempt.state == "stopping":
            self._launcher.stop(launch, now=self._passed(attempt, "stopping", self._spec.grace))
        elif attempt.state == "starting" and self._passed(attempt, "starting", STARTING_S):
            self._launcher.stop(launch, now=True)

    def _why_stop(self, job: Job) -> str | None:
        if job.wanted != "run":
            return {"pause": "the job is paused", "cancel": "the job is cancelled"}[job.wanted]
        halt = self._observer.may_run(job)
        return None if halt is None else halt.message

    def _passed(self, attempt: AttemptRow, what: str, seconds: float, *, again: bool = False) -> bool:
        """Whether this reconciler has seen an attempt so for as long; `again`: count anew from then on."""
        now_s, key = self._clock(), (attempt.job, attempt.number, what)
        passed = now_s - self._since.setdefault(key, now_s) >= seconds
        if passed and again:
            self._since[key] = now_s
        return passed

    def _end(self, lease: Lease, job: Job, attempt: AttemptRow, status: Status) -> int:
        now_s, end = self._clock(), status.end
        halt = None if job.wanted != "run" else self._observer.may_run(job)
        until_s = end["time_s"] if end is not None else status.seen_s
        self._attempts.end(
            lease, job.id, attempt.number,
            lambda job, attempt, failed: after(
                job, attempt, end, status.why or "its process is gone", failed, halt, now_s, self._spec.first_wait, self._spec.longest_wait
            ),
            now_s=now_s, metered=self._observer.metered, ended=self._observer.ended, ran_until_s=until_s,
        )  # fmt: skip
        self._since = {key: since for key, since in self._since.items() if key[0] != job.id}
        return 1

    def _launch(self, job: Job, attempt: AttemptRow) -> Launch:
        return Launch(
            job.id, attempt.number, attempt.fence, folder_of(self._site, job.id), int(attempt.handle.get("cores", 1)),
            tuple(attempt.handle.get("gpus", ())),
        )  # fmt: skip


def folder_of(site: Site, job_id: str) -> Path:
    """A job's own folder, on the host that runs it."""
    return site.top.home / "jobs" / job_id
