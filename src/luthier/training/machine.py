"""Where training computes and in which number format, and what of the machine the exact result depends on.

adapter  dtype  weights held as        computed as
lora     fp32   fp32                   fp32
lora     bf16   base bf16, LoRA fp32   bf16 matrices, fp32 norms, loss, gradients of LoRA, optimizer
full     fp32   fp32                   fp32
full     bf16   fp32 (master)          bf16 matrices by autocast; gradients and optimizer fp32
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from luthier.core.errors import ModelError
from luthier.models.place import place
from luthier.models.sample import ANSWERS_AT_ONCE
from luthier.models.spec import KEPT_BESIDE

from .spec import TrainSpec


@dataclass(frozen=True)
class Machine:
    """Sums are cut by thread and by vector width, so these decide the last bits of a result."""

    device: Literal["cpu", "cuda"]
    dtype: Literal["fp32", "bf16"]
    threads: int
    torch: str
    processor: str
    processes: int = 1
    kernels: Literal["compiled", "plain"] = "plain"
    fused: bool = False

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """What has changed since, in words; empty if the same bits can be expected."""
        return [f"{k} was {before.get(k)} and is {v}" for k, v in self.plain().items() if before.get(k) != v]

    @contextmanager
    def precision(self, model: Any) -> Iterator[None]:
        """The context in which losses are computed. Autocast chooses every format in it: peft's own widening of each
        adapter's input to fp32 would be undone at once, at the price of a copy kept for the backward."""
        if self.dtype == "fp32":
            yield
            return
        from peft.helpers import disable_input_dtype_casting

        with torch.autocast(self.device, torch.bfloat16), disable_input_dtype_casting(model):
            yield

    def weights_dtype(self, adapter: str) -> Literal["fp32", "bf16"]:
        """The number format to load weights in: what moves must be fp32."""
        return self.dtype if adapter in KEPT_BESIDE else "fp32"


def find(spec: TrainSpec) -> Machine:
    """This machine, as the spec wants it used. Raises SpecError when it cannot."""
    at = place(spec.device, spec.dtype, "train")
    processor = (
        torch.cuda.get_device_name() if at.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    )
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if together else 1
    return Machine(at.device, at.dtype, torch.get_num_threads(), torch.__version__, processor, processes)


def enough_memory(tokens: int) -> AbstractContextManager[None]:
    """Turn running out of memory into a ModelError that names the micro-batch's tokens and the remedy."""
    return fits(
        f"a micro-batch of {tokens:,} tokens",
        "Lower train.batch.micro_tokens (the same model, somewhat slower); a single longer row needs "
        "train.longest with train.too_long: skip, or a smaller base.",
    )


def enough_to_write(
    prompts: Sequence[Sequence[int]], copies: int, max_tokens: int, method: str
) -> AbstractContextManager[None]:
    """The same for answers that a method has a model write (models/sample)."""
    answers = min(len(prompts), max(1, ANSWERS_AT_ONCE // copies)) * copies
    tokens = answers * (max(map(len, prompts), default=0) + max_tokens)
    return fits(
        f"a batch of {answers:,} answers ({tokens:,} tokens with their questions, at most)",
        f"Lower max_tokens of train.method {method}, leave rows with long questions out (train.longest with "
        "train.too_long: skip), or choose a smaller model to write them.",
    )


@contextmanager
def fits(what: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory into a ModelError that names what did not fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _no_memory(error):
            raise
        # Python's own MemoryError says nothing.
        told = (str(error).splitlines() or ["out of memory"])[0][:200]
        raise ModelError(f"{what} does not fit in memory: {told}", remedy=remedy) from error


def _no_memory(error: RuntimeError) -> bool:
    """Only CUDA has a class of its own for it; the CPU's allocator says it in words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
