"""What an attempt writes to its standard output and error: a file of bounded size, the one before it, and reading both.

FOLDER/logs/NUMBER.log    the newest
FOLDER/logs/NUMBER.old    what came before; nothing older is kept
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 8 << 20
LONGEST_LINE = 4_000


def path_of(folder: Path, number: int) -> Path:
    return folder / "logs" / f"{number}.log"


def opened(folder: Path, number: int) -> int:
    """A descriptor to append to."""
    path = path_of(folder, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def turn(folder: Path, number: int, most_bytes: int = MOST_BYTES) -> bool:
    """In the process whose output it is: begin a new file where this one is full. No byte is lost: what others of its processes still
    write goes to the old one, which is cut where that grows without end."""
    path = path_of(folder, number)
    old = path.with_suffix(".old")
    with suppress(FileNotFoundError):
        if old.stat().st_size > 2 * most_bytes:
            os.truncate(old, 0)
    try:
        if path.stat().st_size <= most_bytes:
            return False
    except FileNotFoundError:
        return False
    os.replace(path, old)
    fresh = opened(folder, number)
    os.dup2(fresh, 1)
    os.dup2(fresh, 2)
    os.close(fresh)
    return True


def read(folder: Path, number: int, *, lines: int, containing: str | None = None) -> list[str]:
    """The last lines, or the last that contain a word (in either case), oldest first."""
    found: deque[str] = deque(maxlen=lines)
    word = None if containing is None else containing.casefold()
    path = path_of(folder, number)
    for one in (path.with_suffix(".old"), path):
        found.extend(line for line in _lines(one) if word is None or word in line.casefold())
    return list(found)


def _lines(path: Path) -> Iterator[str]:
    try:
        handle = open(path, encoding="utf-8", errors="replace", newline="\n")  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        return
    with handle:
        while line := handle.readline(LONGEST_LINE):
            # a bar that draws over itself counts as the last thing that it drew
            yield line.rstrip("\r\n").rpartition("\r")[2]
