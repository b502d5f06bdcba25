"""words.c, texts.c and private/scan.c for NumPy: what words.py, sketch.py, opened.py, points.py, phrases.py, digests.py and the sieves of
private/find.py do, several times as fast, where there is a C compiler.

    library()        the compiled functions, None where there are none: then the plain twins do the same work
    use(folder)      compile or load them now; says why not
    plainly()        within it, the plain twins: for tests and comparisons

Not here: what the functions mean (those files), how they are compiled (core/native).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import native

SOURCE = Path(__file__).with_name("words.c")
BESIDE = (SOURCE.with_name("texts.c"), SOURCE.parent / "private" / "scan.c")
FLAGS = ("-O2", "-march=native", "-std=gnu11", "-fPIC", "-shared")
SEED = int.from_bytes(os.urandom(8), "little", signed=True)
"""Of tables that only one process sees."""
_found: native.Native | None = None
_PLAIN: ContextVar[bool] = ContextVar("plain words", default=False)


def use(folder: Path | None = None) -> str:
    """Compile or load the functions for this process, once. Returns why there are none; empty if they are in use."""
    global _found
    if _found is None:
        _found = native.load(SOURCE, FLAGS, folder, beside=BESIDE)
    return _found.reason


def library() -> ctypes.CDLL | None:
    """The functions, from the user's cache or compiled into it (under a second)."""
    if _PLAIN.get():
        return None
    use()
    return _found.library if _found is not None else None


@contextmanager
def plainly() -> Iterator[None]:
    """The plain twins for a while, in this thread."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def call(function: Any, *arguments: np.ndarray | int) -> int:
    """Arrays become pointers, whole numbers 64 bits. What is given must be contiguous and of the type that the C files name."""
    told: list[Any] = []
    for one in arguments:
        if isinstance(one, np.ndarray):
            assert one.flags.c_contiguous
            told.append(ctypes.c_void_p(one.ctypes.data))
        else:
            told.append(ctypes.c_int64(one))
    function.restype = ctypes.c_int64
    return int(function(*told))
