"""kernels.c, compiled once by the system's own C compiler and kept under a name that follows from everything it
depends on. Not here: what the functions compute (kernels.c), and when they are used (kernels.py).

No compiler, another processor, a folder that cannot be trusted: `load` says why in words and returns no library. The
plain twins then do the same work, more slowly. Never an error.
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
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
# No -ffast-math: infinities and NaN must come out as what they are. These two only say that nobody reads errno or
# floating-point traps, without which few loops can be vectorised.
FLAGS = (
    "-O3",
    "-march=native",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
PATIENCE_S = 60


@dataclass(frozen=True)
class Native:
    """The library, or the reason why there is none."""

    library: ctypes.CDLL | None
    reason: str = ""


def default_folder() -> Path:
    """Where compiled kernels are kept when nobody says where."""
    return Path.home() / ".cache" / "luthier" / "kernels"


def load(folder: Path) -> Native:
    """The compiled kernels, from `folder` or compiled into it now (about two seconds). Safe to call from several
    processes at once: each compiles under a name of its own and renames."""
    compiler = next((found for one in COMPILERS if (found := shutil.which(one))), None)
    openmp = _torchs_openmp()
    if openmp is None:
        return Native(None, "torch here has no libgomp whose threads could be shared")
    try:
        name = _name(openmp)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if why := _distrust(folder):
            return Native(None, why)
        path = folder / name
        if not path.is_file():
            if compiler is None:
                return Native(None, "no C compiler was found (cc, gcc or clang)")
            if why := _compile(compiler, openmp, path):
                return Native(None, why)
        return Native(ctypes.CDLL(str(path)))
    except OSError as error:
        return Native(None, f"compiled kernels cannot be kept or loaded: {error}")


def _name(openmp: Path) -> str:
    """-march=native makes code for this processor alone, and a home folder may be shared between machines."""
    told = hashlib.sha256()
    for part in (SOURCE.read_bytes(), " ".join(FLAGS).encode(), str(openmp).encode(), _processor().encode()):
        told.update(len(part).to_bytes(8, "little") + part)
    return f"kernels-{told.hexdigest()[:20]}.so"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return platform.machine() + platform.processor()


def _torchs_openmp() -> Path | None:
    """The libgomp that torch brought along. With another one there would be two pools of threads that fight."""
    import torch

    inside = Path(torch.__file__).parent
    found = sorted([*inside.glob("lib/libgomp*.so*"), *inside.parent.glob("torch.libs/libgomp*.so*")])
    return found[0] if found else None


def _distrust(folder: Path) -> str:
    """A library is code: nobody else may be able to put one there."""
    about = folder.stat()
    if about.st_uid != os.getuid():
        return f"{folder} belongs to another user"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} can be written by other users"
    return ""


def _compile(compiler: str, openmp: Path, path: Path) -> str:
    """Why it failed; empty if it did not."""
    with tempfile.TemporaryDirectory(dir=path.parent) as here:
        made = Path(here) / path.name
        # The path of torch's own OpenMP library comes first, so the loader finds it already there by its name.
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), str(openmp), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: S603  (found on PATH, arguments are ours)
        except subprocess.TimeoutExpired:
            return f"{compiler} took longer than {PATIENCE_S} s"
        if done.returncode:
            return f"{compiler} failed: {(done.stderr.strip() or 'no reason given').splitlines()[0][:300]}"
        os.replace(made, path)
    return ""
