"""Where a model computes and in which number format: one answer for training, measuring and serving, so that what is
measured is what is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.core.errors import SpecError

from .spec import Dtype


@dataclass(frozen=True)
class Place:
    device: Literal["cpu", "cuda"]
    dtype: Dtype


def place(device: str = "auto", dtype: str = "auto", section: str = "this") -> Place:
    """`auto`: cuda when there is one; bf16 where the processor has it in hardware (CUDA: from capability 8.0 on), else fp32.

    Raises SpecError when the device asked for in recipe section `section` is not there.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise SpecError(
            f"{section}.device is cuda, and torch sees no CUDA device here.",
            remedy=f"Set {section}.device: auto to use what there is; `luthier doctor` shows it.",
        )
    on: Literal["cpu", "cuda"] = "cuda" if there and device != "cpu" else "cpu"
    if dtype == "fp32":
        return Place(on, "fp32")
    if dtype == "bf16":
        return Place(on, "bf16")
    # is_bf16_supported says yes where it is only emulated.
    fast = torch.cuda.get_device_capability() >= (8, 0) if on == "cuda" else _cpu_has_bf16()
    return Place(on, "bf16" if fast else "fp32")


def _cpu_has_bf16() -> bool:
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
