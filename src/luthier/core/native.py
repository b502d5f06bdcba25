"""A file of C, compiled once by the system's own C compiler and kept under a name that follows from everything it depends on,
and from its own bytes: a library that was cut short kills the process that loads it. Not here: what the functions compute
(data/words.c, models/fast/kernels.c), and when they are used.

No compiler, another processor, a folder that cannot be trusted: `load` says why in words and returns no library. Plain twins
then do the same work, more slowly. Never an error.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
PATIENCE_S = 60


@dataclass(frozen=True)
class Native:
    """The library, or the reason why there is none."""

    library: ctypes.CDLL | None
    reason: str = ""


def default_folder() -> Path:
    """Where compiled libraries are kept when nobody says where."""
    return Path.home() / ".cache" / "luthier" / "kernels"


def load(
    source: Path,
    flags: Sequence[str],
    folder: Path | None = None,
    linked: Sequence[Path] = (),
    beside: Sequence[Path] = (),
) -> Native:
    """The compiled `source` and what stands `beside` it, from `folder` (else the user's cache) or compiled into it now (a second or
    two). `linked` are libraries that they need. Safe to call from several processes at once: each compiles under a name of its own and renames."""
    if not hasattr(os, "getuid"):
        return Native(None, "this system does not say who owns a file, so compiled code could not be trusted")
    compiler = next((found for one in COMPILERS if (found := shutil.which(one))), None)
    try:
        folder = folder or default_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if why := _distrust(folder, stat.S_ISDIR):
            return Native(None, why)
        name = _name(source, flags, linked, beside)
        for path in sorted(folder.glob(f"{name}-*.so")):
            try:
                if why := _distrust(path, stat.S_ISREG):
                    return Native(None, why)
            except FileNotFoundError:  # another process has found it damaged
                continue
            if path.name == f"{name}-{_digest(path.read_bytes())}.so":
                return Native(ctypes.CDLL(str(path)))
            path.unlink(missing_ok=True)
        if compiler is None:
            return Native(None, "no C compiler was found (cc, gcc or clang)")
        # A library that is linked comes by its path, so the loader finds one that is already there by its name.
        command = [compiler, *flags, str(source), *map(str, (*beside, *linked)), "-lm"]
        return _compile(command, folder, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
        return Native(None, f"compiled code cannot be kept or loaded: {error}")


def _name(source: Path, flags: Sequence[str], linked: Sequence[Path], beside: Sequence[Path]) -> str:
    """-march=native makes code for this processor alone, and a home folder may be shared between machines."""
    parts = [" ".join(flags).encode(), *(str(one).encode() for one in linked), _processor().encode()]
    sources = (one.read_bytes() for one in (source, *beside))
    told = b"".join(len(part).to_bytes(8, "little") + part for part in (*sources, *parts))
    return f"{source.stem}-{_digest(told)}"


def _digest(told: bytes) -> str:
    return hashlib.sha256(told).hexdigest()[:20]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        if found := {line for line in lines if line.startswith(wanted)}:
            return "\n".join(sorted(found))
    return platform.machine() + platform.processor()


def _distrust(path: Path, kind: Callable[[int], bool]) -> str:
    """A library is code: nobody else may be able to put one there. Folders may be reached by a link, libraries not."""
    about = path.stat() if kind is stat.S_ISDIR else path.lstat()
    if not kind(about.st_mode):
        return f"{path} is not what it should be (a link or a special file)"
    if about.st_uid != os.getuid():
        return f"{path} belongs to another user"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by other users"
    return ""


def _compile(command: Sequence[str], folder: Path, name: str) -> Native:
    with tempfile.TemporaryDirectory(dir=folder) as here:
        made = Path(here) / name
        try:
            done = subprocess.run(  # noqa: S603  (found on PATH, arguments are ours)
                [*command, "-o", str(made)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Native(None, f"{command[0]} took longer than {PATIENCE_S} s")
        if done.returncode:
            why = (done.stderr.strip() or "no reason given").splitlines()[0][:300]
            return Native(None, f"{command[0]} failed: {why}")
        made.chmod(0o500)
        with made.open("rb") as there:
            os.fsync(there.fileno())
        path = folder / f"{name}-{_digest(made.read_bytes())}.so"
        os.replace(made, path)
    if why := _distrust(folder, stat.S_ISDIR) or _distrust(path, stat.S_ISREG):
        return Native(None, why)
    return Native(ctypes.CDLL(str(path)))
