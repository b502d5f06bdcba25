"""kill -9 of servers and trainers, at every step boundary and at random, while two servers work on one queue. Afterwards everything is
counted: jobs, lines of their stories, entries of the trail, trainers. Its exit status says whether any was lost or doubled.

    python benchmarks/job_kills.py [--kills 300] [--jobs 100] [--servers 2] [--seed 1] [--database postgresql://...]

Half of the processes are born with a fuse: a fault point (luthier.core.testing) at whose k-th passing they kill themselves; the others are
killed from outside at random. Jobs are the scripted kind; some are paused and resumed, some cancelled, while all this goes on.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.app.jobs.launchers import processes
from luthier.app.jobs.launchers.local import Local
from luthier.app.jobs.queue_spec import CapacitySpec, QueueSpec
from luthier.app.jobs.reconciler import Reconciler, folder_of
from luthier.app.site import Caller, Site
from luthier.core import testing
from luthier.core.errors import Conflict
from luthier.store.attempts import LIVE, AttemptRow
from luthier.store.jobs import ENDED, Job

OF_A_SERVER = (
    "jobs.start", "jobs.started", "local.launch", "local.launched", "reconciler.seen", "reconciler.asked", "jobs.end.attempt", "jobs.end",
    "jobs.ended",
)  # fmt: skip
OF_A_TRAINER = (
    "child.locked", "files.write", "files.fsync", "files.rename", "child.handle", "child.began", "child.step", "jobs.write", "child.stepped",
    "child.end", "child.ended",
)  # fmt: skip
STEPS = 4
MOST_ATTEMPTS = 20
SPEC = QueueSpec(
    capacity=CapacitySpec(cores=3, gpus=0),
    at_once=3,
    first_wait=0.05,
    longest_wait=0.2,
    grace=5.0,
    patience=60.0,
)
LEASE_S = 2.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=300)
    options.add_argument("--jobs", type=int, default=100)
    options.add_argument("--servers", type=int, default=2)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=3600.0, help="stop killing after this")
    options.add_argument("--database", help="a PostgreSQL database; default: SQLite")
    options.add_argument("--as", dest="role", choices=["server", "trainer"], help=argparse.SUPPRESS)
    asked, rest = options.parse_known_args()
    if asked.role == "server":
        return serve()
    if asked.role == "trainer":
        return train(rest)
    with tempfile.TemporaryDirectory(prefix="luthier-kills-") as folder:
        storm = Storm.begin(Path(folder), asked.database, asked.servers, asked.seed)
        try:
            storm.blow(asked.kills, asked.jobs, asked.seconds)
            storm.calm()
            found = storm.count()
        finally:
            storm.end()
    print("\n".join(found.lines()))
    return 1 if found.faults else 0


# -- the processes that are killed --------------------------------------------------------------------------------------------


def fuse(points: tuple[str, ...], passes: int, chance: float = 0.5) -> None:
    """Perhaps a point of this process at which it kills itself, having said so."""
    dice = random.Random(os.urandom(8))  # noqa: S311
    if dice.random() > chance:
        return
    name, left = dice.choice(points), dice.randint(1, passes)

    def pass_it() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            with open(Path(os.environ["LUTHIER_HOME"]) / "fuses", "a") as log:
                log.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    testing._armed[name] = pass_it


def serve() -> int:
    site = Site.open()
    fuse(OF_A_SERVER, passes=12)
    launcher = Local(site, (sys.executable, str(Path(__file__).resolve()), "--as", "trainer"))
    reconciler = Reconciler(site, launcher=launcher, spec=SPEC, lease_s=LEASE_S)
    while True:
        reconciler.step()
        time.sleep(0.05)


def train(argv: list[str]) -> int:
    from luthier.app.jobs import child

    fuse(OF_A_TRAINER, passes=3)
    return child.main(argv)


# -- the storm ----------------------------------------------------------------------------------------------------------------


@dataclass
class Counted:
    kills: Counter[str]
    states: Counter[str]
    attempts: int
    faults: list[str]
    seconds: float

    def lines(self) -> list[str]:
        by = ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items()))
        states = ", ".join(f"{n} {state}" for state, n in sorted(self.states.items()))
        told = [
            f"{sum(self.kills.values())} kills in {self.seconds:.0f} s: {by}",
            f"{sum(self.states.values())} jobs in {self.attempts} attempts: {states}",
            f"lost or doubled: {len(self.faults)}",
        ]
        return told + self.faults


@dataclass
class Storm:
    site: Site
    caller: Caller
    environ: dict[str, str]
    how_many: int
    dice: random.Random
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, folder: Path, database: str | None, servers: int, seed: int) -> Storm:
        environ = {**os.environ, "LUTHIER_HOME": str(folder / "site"), "LUTHIER_HOST": "storm"}
        environ.pop("LUTHIER_DATABASE", None)
        if database is not None:
            environ["LUTHIER_DATABASE"] = database
        site = Site.open(environ)
        key = site.found()
        caller = site.check(key) if key else None
        assert caller is not None, "the database must be empty"
        return cls(site, caller, environ, servers, random.Random(seed))  # noqa: S311

    def blow(self, kills: int, jobs: int, seconds: float) -> None:
        """Until so many were killed; jobs come as long as it lasts."""
        while self.killed() < kills and time.monotonic() - self.began < seconds:
            self._keep_up()
            waiting = [job for job, _ in self.site.store.attempts.running()]
            if len(self.jobs) < jobs or not waiting:
                self._submit()
            self._ask()
            self._kill()
            time.sleep(self.dice.uniform(0.05, 0.4))

    def calm(self, seconds: float = 600.0) -> None:
        """Servers without fuses end what is left."""
        for server in self.servers:
            server.kill()
            server.wait()
        launcher = Local(self.site)
        last = Reconciler(self.site, launcher=launcher, spec=SPEC, lease_s=LEASE_S)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            last.step()
            for job in self.site.jobs.list(self.caller, states=("paused",), limit=1000)[0]:
                self._tolerant(lambda job=job: self.site.jobs.ask(self.caller, job.id, "run"))  # type: ignore[misc]
            states = {job.state for job in self._now()}
            if states <= set(ENDED):
                return
            time.sleep(0.1)

    def killed(self) -> int:
        return sum(self._all_kills().values())

    def count(self) -> Counted:
        faults: list[str] = []
        there = self._now()
        if {job.id for job in there} != {job.id for job in self.jobs} or len(there) != len(self.jobs):
            faults.append(f"{len(self.jobs)} jobs were submitted, and {len(there)} are there")
        attempts = 0
        for job in there:
            rows = self.site.store.attempts.of(job.id)
            attempts += len(rows)
            faults += [f"{job.id}: {fault}" for fault in self._faults_of(job)]
        if not (verdict := self.site.top.audit.verify()).sound:
            faults.append(f"the trail is not sound: {verdict.faults[:3]}")
        return Counted(
            self._all_kills(),
            Counter(job.state for job in there),
            attempts,
            faults,
            time.monotonic() - self.began,
        )

    def end(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()
        for job, attempt in self.site.store.attempts.running():
            processes.kill(processes.marked(f"{job.id}/{attempt.number}"))

    # -- parts ------------------------------------------------------------------------------------------------------------

    def _keep_up(self) -> None:
        self.servers = [one for one in self.servers if one.poll() is None]
        while len(self.servers) < self.how_many:
            command = [sys.executable, str(Path(__file__).resolve()), "--as", "server"]
            self.servers.append(subprocess.Popen(command, env=self.environ, stdin=subprocess.DEVNULL))  # noqa: S603

    def _submit(self) -> None:
        needs = [self.jobs[-1].id] if self.jobs and self.dice.random() < 0.1 else []
        if needs and needs[0] in self.cancelled:
            needs = []
        once = (f"request-{len(self.jobs)}", "0" * 64)
        asked: dict[str, Any] = {
            "priority": self.dice.randint(-2, 2), "most_attempts": MOST_ATTEMPTS, "needs": needs, "once": once, "resources": {"cores": 1},
        }  # fmt: skip
        job = self.site.jobs.submit(self.caller, "scripted", {"steps": STEPS, "step_s": 0.1}, **asked)
        again = self.site.jobs.submit(self.caller, "scripted", {"steps": STEPS, "step_s": 0.1}, **asked)
        assert again.id == job.id
        self.jobs.append(job)

    def _ask(self) -> None:
        if not self.jobs:
            return
        job, chance = self.dice.choice(self.jobs[-8:]), self.dice.random()
        if chance < 0.03:
            self.cancelled.add(job.id)
            self._tolerant(lambda: self.site.jobs.ask(self.caller, job.id, "cancel"))
        elif chance < 0.10 and job.id not in self.cancelled:
            self._tolerant(lambda: self.site.jobs.ask(self.caller, job.id, "pause"))
        for paused in self.site.jobs.list(self.caller, states=("paused",))[0]:
            if self.dice.random() < 0.3:
                self._tolerant(lambda paused=paused: self.site.jobs.ask(self.caller, paused.id, "run"))  # type: ignore[misc]

    @staticmethod
    def _tolerant(work: Callable[[], object]) -> None:
        with suppress(Conflict):  # it ended a moment before
            work()

    def _kill(self) -> None:
        chance = self.dice.random()
        if chance < 0.05 and self.servers:
            server = self.dice.choice(self.servers)
            if server.poll() is None:
                server.kill()
                self.kills["a server, at random"] += 1
        elif chance < 0.2 and (running := self._killable()):
            job, attempt = self.dice.choice(running)
            for pid in processes.marked(f"{job.id}/{attempt.number}")[:1]:
                processes.kill([pid])
                self.kills["a trainer, at random"] += 1

    def _killable(self) -> list[tuple[Job, AttemptRow]]:
        """Not those whose attempts would be used up: they would fail, as they should."""
        return [pair for pair in self.site.store.attempts.running() if pair[1].number < MOST_ATTEMPTS - 6]

    def _all_kills(self) -> Counter[str]:
        fuses = Path(self.environ["LUTHIER_HOME"]) / "fuses"
        return self.kills + Counter(fuses.read_text().split() if fuses.exists() else [])

    def _now(self) -> list[Job]:
        return self.site.jobs.list(self.caller, limit=100_000)[0]

    def _faults_of(self, job: Job) -> list[str]:
        """Whatever is not exactly once."""
        rows = self.site.store.attempts.of(job.id)
        told = Counter(event.data["message"] for event in self.site.jobs.events(self.caller, job.id))
        acts = Counter(entry.action for entry in self.site.store.audit.read(subject=job.id))
        faults = []
        allowed = {"succeeded", "cancelled"} if job.id in self.cancelled else {"succeeded"}
        if any(row.id in self.cancelled for row in self.jobs):
            allowed |= (
                {"cancelled"} if job.error is not None and job.error["code"] == "need_not_met" else set()
            )
        if job.state not in allowed:
            faults.append(f"is {job.state}, {job.error}")
        expected = {"Created job": 1} | {f"Attempt {n} begins": 1 for n in range(1, job.attempts + 1)}
        for message, times in expected.items():
            if told[message] != times:
                faults.append(f"{message!r} was told {told[message]} times")
        for n in range(1, STEPS + 1):
            times = told[f"Finished step {n}"]
            if times > 1 or (job.state == "succeeded" and times != 1):
                faults.append(f"'Finished step {n}' was told {times} times")
        ends = sum(told[message] for message in told if message in ("Job succeeded", "Job cancelled") or message.startswith(("Job cancelled:", "Job failed")))  # fmt: skip
        if ends != 1:
            faults.append(f"its end was told {ends} times")
        if acts["job.submitted"] != 1:
            faults.append(f"its submission stands {acts['job.submitted']} times in the trail")
        by_server = acts["job.succeeded"] + acts["job.cancelled"] + acts["job.failed"]
        if by_server + (acts["job.cancel"] if not by_server else 0) != 1:
            faults.append(f"its end stands {by_server} times in the trail")
        if [row.number for row in rows] != list(range(1, job.attempts + 1)):
            faults.append(f"its attempts are {[row.number for row in rows]}")
        if any(row.state in LIVE for row in rows):
            faults.append("an attempt has not ended")
        fences = [row.fence for row in rows]
        if fences != sorted(set(fences)):
            faults.append(f"its fences are {fences}")
        if sum(row.state == "succeeded" for row in rows) != (job.state == "succeeded"):
            faults.append("not one attempt has succeeded")
        if (folder_of(self.site, job.id) / "files" / "doubled").exists():
            faults.append("two trainers were at it")
        if left := [pid for row in rows for pid in processes.marked(f"{job.id}/{row.number}")]:
            faults.append(f"processes are left: {left}")
        return faults


if __name__ == "__main__":
    sys.exit(main())
