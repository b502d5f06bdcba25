"""kernels.c, compiled (core/native) against the threads that torch brought along. Not here: what the functions compute
(kernels.c), and when they are used (kernels.py)."""

from __future__ import annotations

from pathlib import Path

from luthier.core import native
from luthier.core.native import Native

SOURCE = Path(__file__).with_name("kernels.c")
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


def load(folder: Path | None = None) -> Native:
    """The compiled kernels, from `folder` (else the user's cache) or compiled into it now (about two seconds), or why not."""
    openmp = _torchs_openmp()
    if openmp is None:
        return Native(None, "torch here has no libgomp whose threads could be shared")
    return native.load(SOURCE, FLAGS, folder, (openmp,))


def _torchs_openmp() -> Path | None:
    """The libgomp that torch brought along. With another one there would be two pools of threads that fight."""
    import torch

    inside = Path(torch.__file__).parent
    found = sorted([*inside.glob("lib/libgomp*.so*"), *inside.parent.glob("torch.libs/libgomp*.so*")])
    return found[0] if found else None
