"""How much arithmetic a step is, counted from shapes, and how fast this machine multiplies matrices, measured now.

    forward    2·P·T   each weight multiplies and adds once per token (Kaplan et al. 2020, section 2.1)
    backward   2·P·T   the gradient of the inputs, through every block above the lowest one that is trained
             + 2·P·T   the gradient of the weights, of those that move
    LoRA       2·R·T   forward and 4·R·T backward, beside the frozen matrices, which never get a gradient
    attention  causal scores and their use: 2·q·n·(n + 1) for a document of n tokens in a layer; twice that backward
    head       2·V·h·S for S supervised positions; the same backward, and again where the head moves

What is computed again in the backward pass is not counted (Chowdhery et al. 2022, appendix B), nor are norms,
activations and the optimizer. An upper bound by the lowest block's input gradient, which nobody needs.

Legend: P weights of the blocks' matrices, R parameters of the adapter, T tokens, q = heads·head_size, h hidden,
V vocabulary, M rows of a product.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.models.shapes import Dtype, Facts, block_parameters, matrices

from .spec import TrainSpec

SQUARE = 2048
SECONDS_EACH = 0.25
"""Time given to each product that is measured; the fastest repetition counts."""
LEAST_REPEATS = 3


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of forward and backward together; a multiplication and an addition are two."""

    matrices: float
    adapter: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.matrices + self.adapter + self.attention + self.head

    def plain(self) -> dict[str, float]:
        return {**vars(self), "total": self.total}


def of_sequences(
    spec: TrainSpec,
    facts: Facts,
    lengths: Iterable[int],
    supervised: int,
    through_vocabulary: bool = True,
    computed: int | None = None,
) -> Flops:
    """Of one forward and backward pass over sequences of so many input tokens. `through_vocabulary`: the loss reads
    the output head. `computed`: tokens that went through the model where sequences share a beginning; attention counts
    as if they did not."""
    counts = list(lengths)
    tokens = sum(counts) if computed is None else computed
    block = sum(out * into for out, into in matrices(facts).values())
    moved, moves_base = spec.adapter.backward_blocks(facts), spec.adapter.moves_base
    trained = spec.adapter.trained_parameters(facts)
    learning = min(moved, trained // block_parameters(facts)) if moves_base else 0
    passes = facts.layers + moved + learning
    q = facts.heads * facts.head_size
    causal = sum(2.0 * q * n * (n + 1) for n in counts)
    head = 2.0 * facts.vocabulary * facts.hidden * supervised if through_vocabulary else 0.0
    return Flops(
        matrices=2.0 * block * tokens * passes,
        adapter=0.0 if moves_base else 6.0 * trained * tokens,
        attention=causal * (facts.layers + 2 * moved),
        head=head * (3 if moves_base else 2),
    )


# -- what the machine can do --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peak:
    """FLOP/s measured on this machine: products of two square matrices of 2,048, by number format, and those of the
    model's own blocks with M rows in the format of the run."""

    square: Mapping[str, float]
    model: float
    rows: int


def measure_peak(facts: Facts, rows: int, dtype: Dtype, device: str = "cpu") -> Peak:
    """Takes a few seconds. `rows` is M, the tokens of a usual micro-batch."""
    formats: tuple[Dtype, ...] = ("fp32", "bf16")
    square: dict[str, float] = {one: _rate([(SQUARE, SQUARE, SQUARE)], one, device) for one in formats}
    # Forward multiplies by the weight's transpose, the gradient of the inputs by the weight.
    shapes = [
        shape for out, into in matrices(facts).values() for shape in ((rows, into, out), (rows, out, into))
    ]
    return Peak(square, _rate(shapes, dtype, device), rows)


def _rate(shapes: Sequence[tuple[int, int, int]], dtype: Dtype, device: str) -> float:
    """FLOP/s over products [M, K]·[K, N] done one after another; equal shapes are timed once."""
    best = {shape: _fastest_s(*shape, dtype, device) for shape in dict.fromkeys(shapes)}
    return sum(2.0 * m * k * n for m, k, n in shapes) / sum(best[shape] for shape in shapes)


def _fastest_s(m: int, k: int, n: int, dtype: Dtype, device: str) -> float:
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    with torch.no_grad():
        a = torch.randn(m, k, device=device, dtype=kind)
        b = torch.randn(n, k, device=device, dtype=kind)  # a linear layer's weight: [out, in]
        _once(a, b)
        begun, times = time.perf_counter(), [_once(a, b) for _ in range(LEAST_REPEATS)]
        while time.perf_counter() - begun < SECONDS_EACH:
            times.append(_once(a, b))
    return min(times)


def _once(a: Any, b: Any) -> float:
    import torch

    begun = time.perf_counter()
    torch.nn.functional.linear(a, b)
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun
