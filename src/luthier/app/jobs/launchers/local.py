"""Processes of this host. Each attempt is one, in a session of its own, that outlives whoever launched it.

    HOME/jobs/JOB/lock              held by the process that runs (flock), and by no second one
                  NUMBER/handle     who that is: number, start and boot; touched while it lives
                  NUMBER/end        its last word, written whole or not at all
                  logs/NUMBER.log   what it printed
                  files/            the kind's own; outlives attempts

Two servers may both launch an attempt: the lock lets one through, the other ends at once. So launching is repeated whenever it is not
certain, and nothing is launched anew while anything with the attempt's mark still lives. Of a process that we did not start ourselves the
system tells no exit status; `end` tells how it ended, and where there is none, it was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.testing import fault
from luthier.core.units import Money
from luthier.store.files import explained
from luthier.store.jobs import Job

from .. import logs
from ..environment import environment_of
from . import processes
from .launcher import Launch, Status

if TYPE_CHECKING:
    from luthier.app.site import Site

CHILD = (sys.executable, "-m", "luthier.app.jobs.child")
LOST_THE_RACE = 75
"""Exit status of a process that found another one at its job."""


def make(site: Site) -> Local:
    return Local(site)


class Local:
    name = "local"

    def __init__(self, site: Site, command: Sequence[str] = CHILD) -> None:
        self._site = site
        self._command = list(command)
        self._mine: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return processes.host_of(self._site.environ)

    def price(self, job: Job) -> Money | None:
        from luthier.cost.prices import load_prices

        machine = "local-gpu" if job.resources.get("gpus") else "local-cpu"
        row = load_prices(self._site.top.home / "prices.yaml", machine=machine)[0].find(machine)
        return None if row is None else Money(row.value, row.currency)

    def submit(self, launch: Launch) -> None:
        with self._lock:
            if self.status(launch).state != "absent":
                return
            with explained(launch.folder):
                (launch.folder / str(launch.number)).mkdir(parents=True, exist_ok=True)
                log = logs.opened(launch.folder, launch.number)
            fault("local.launch")
            try:
                self._mine[launch.mark] = subprocess.Popen(  # noqa: S603
                    [*self._command, str(launch.folder), str(launch.number), str(launch.fence)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=launch.folder,
                    env=environment_of(self._environ(), launch),
                )  # fmt: skip
            finally:
                os.close(log)
            fault("local.launched")

    def _environ(self) -> dict[str, str]:
        """With places that do not depend on the folder that a process starts in."""
        found = {**self._site.environ, "LUTHIER_HOME": str(self._site.top.home)}
        if (blobs := found.get("LUTHIER_BLOBS")) and "://" not in blobs:
            found["LUTHIER_BLOBS"] = os.path.abspath(blobs)
        return found

    def reattach(self, launch: Launch) -> bool:
        return self.status(launch).state == "alive"

    def status(self, launch: Launch) -> Status:
        mine = self._mine.get(launch.mark)
        code = None if mine is None else mine.poll()  # takes note of its end, so that it is gone
        handle = _read(launch.folder / str(launch.number) / "handle")
        seen_s = _changed(launch.folder / str(launch.number) / "handle")
        if handle is not None and lives(handle):
            return Status("alive", _end(launch), None, seen_s, handle)
        if mine is not None and code is None:
            return Status("alive", None, None, seen_s, handle or {})
        if rest := processes.marked(launch.mark):
            if (
                handle is not None
            ):  # orphans of a process that is gone: they must not go on beside the next one
                processes.kill(rest)
            return Status("alive", _end(launch), None, seen_s, handle or {})
        if handle is None and _end(launch) is None and (mine is None or code == LOST_THE_RACE):
            self._mine.pop(
                launch.mark, None
            )  # whoever was at the job when ours came is gone too, and never began
            return Status("absent")
        return Status("dead", _end(launch), self._why(code, handle), seen_s, handle or {})

    def stop(self, launch: Launch, *, now: bool = False) -> None:
        handle = _read(launch.folder / str(launch.number) / "handle")
        if now:
            processes.kill(processes.marked(launch.mark))
        elif handle is not None and lives(handle):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(handle["pid"], signal.SIGTERM)

    def logs(self, launch: Launch, *, lines: int, containing: str | None = None) -> list[str]:
        return logs.read(launch.folder, launch.number, lines=lines, containing=containing)

    @staticmethod
    def _why(code: int | None, handle: Mapping[str, Any] | None) -> str:
        if handle is not None and handle["boot"] != processes.boot():
            return "the host was restarted"
        if handle is not None and processes.killed_for_memory() > handle.get("killed_for_memory", 0):
            return "its process was killed, and the kernel says that memory had run out"
        if code is not None and code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        if code:
            return f"its process ended with exit status {code}"
        return "its process was killed" if handle is not None else "its process ended before it began"


def lives(handle: Mapping[str, Any]) -> bool:
    """Whether that very process is there."""
    return handle["boot"] == processes.boot() and processes.started_at(handle["pid"]) == handle["started"]


def hold(folder: Path) -> int | None:
    """The lock of a job's folder, for as long as the descriptor that is returned is open; None where another process has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end(launch: Launch) -> dict[str, Any] | None:
    return _read(launch.folder / str(launch.number) / "end")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return told if isinstance(told, dict) else None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
