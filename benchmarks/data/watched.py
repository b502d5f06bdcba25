"""A command, watched from outside: its seconds, its processor's seconds, and the most memory it and its children held.

The processor's seconds are the operating system's own account of the process, of all its children that it waited for, and of those that
it left behind (a server that forks workers for it, say): they become children of this process, which waits for them.
Memory is looked at 20 times a second and added up over the tree, so pages that processes share count once for each.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 3600
EVERY_S = 0.05
LEFT_S = 10.0
"""So long those that a command left behind may take to end; then they are killed."""
SET_CHILD_SUBREAPER = 36  # of prctl(2)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Watched:
    wall_s: float
    cpu_s: float
    peak_bytes: int
    load: float  # processes that wanted the processor just before
    failed: str | None = None


def watch(
    command: Sequence[str], log: Path, env: Mapping[str, str], patience_s: float = PATIENCE_S
) -> Watched:
    """Run it to its end. A failure is told in `failed`, with the last line it said, and never raised."""
    load = os.getloadavg()[0]
    ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = 0
    with log.open("wb") as output:
        start = time.monotonic()
        process = subprocess.Popen(  # noqa: S603
            list(command), stdout=output, stderr=subprocess.STDOUT, env=dict(env), start_new_session=True
        )
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > patience_s:
                os.killpg(process.pid, 9)
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(EVERY_S)
        wall_s = time.monotonic() - start
    cpu_s = used.ru_utime + used.ru_stime + left_behind(process.pid)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    peak = max(peak, used.ru_maxrss * 1024)
    said = log.read_text(errors="replace").strip().splitlines() or [""]
    failed = f"exit status {code}: {said[-1][:300]}" if code else None
    return Watched(wall_s, cpu_s, peak, load, failed)


def left_behind(group: int) -> float:
    """Processor's seconds of what a command left running: this process has no other children meanwhile."""
    cpu_s, until = 0.0, time.monotonic() + LEFT_S
    with suppress(ChildProcessError):
        while time.monotonic() < until + LEFT_S:
            pid, _, used = os.wait4(-1, os.WNOHANG)
            if pid:
                cpu_s += used.ru_utime + used.ru_stime
                continue
            if time.monotonic() > until:
                with suppress(ProcessLookupError):
                    os.killpg(group, 9)
            time.sleep(EVERY_S)
    return cpu_s


def tree_bytes(root: int) -> int:
    """Resident memory of a process and of all below it, as Linux tells it."""
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            told = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(told[1]), []).append(int(entry.name))
        resident[int(entry.name)] = int(told[21]) * PAGE_BYTES
    total, waiting = 0, [root]
    while waiting:
        one = waiting.pop()
        total += resident.get(one, 0)
        waiting += children.get(one, [])
    return total
