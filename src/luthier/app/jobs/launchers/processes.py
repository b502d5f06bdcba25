"""What the system knows of processes (Linux, /proc): which one it is, whether it lives, all that carry a mark, and why one may have died.

A process number is used again by the next process, so one is known by its number, its start and the system's boot together. What an attempt
starts carries its mark in the environment, wherever it has moved to: other groups and sessions, orphans too.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MARK = "LUTHIER_ATTEMPT"
_PROC = Path("/proc")


def host_of(environ: Mapping[str, str]) -> str:
    """What this host is called: LUTHIER_HOST, or its name. It must be the same after a restart, and no other's."""
    return environ.get("LUTHIER_HOST") or socket.gethostname()


def boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def started_at(pid: int) -> int | None:
    """Clock ticks from boot to its start; None where it is gone or has ended and was not yet taken note of."""
    try:
        told = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = told.rpartition(")")[2].split()  # its name may hold blanks and brackets
    return None if state in ("Z", "X") else int(rest[18])


def marked(mark: str) -> list[int]:
    """Processes with this mark that live, as far as we may look at them."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            told = (_PROC / entry.name / "environ").read_bytes().split(b"\0")
            if wanted in told and started_at(int(entry.name)) is not None:
                found.append(int(entry.name))
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def killed_for_memory() -> int:
    """How many processes the kernel has killed for want of memory since boot, on this host and in this group."""
    count = 0
    for path, name in ((_PROC / "vmstat", "oom_kill"), (Path("/sys/fs/cgroup/memory.events"), "oom_kill")):
        with suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                key, _, value = line.partition(" ")
                count += int(value) if key == name else 0
    return count
