"""What training holds in memory at its peak, part by part, from shapes alone; and what the machine has.

Pure but for the last two functions. The figures of running code (what a block keeps for its backward pass, what the
head holds, what the allocator wastes) stand in `Running`, one place: they change with that code, and a test holds
their sum against a real run.

Legend: P parameters, R trained parameters, T tokens and S supervised tokens of the largest micro-batch, L layers,
h hidden, q = heads·head_size, k = kv_heads·head_size, i intermediate, V vocabulary, c bytes of the number format.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.models.shapes import WIDTH_BYTES, Dtype, Facts
from luthier.models.spec import LoraSpec

from .mixing import order_of
from .spec import TrainSpec

if TYPE_CHECKING:
    from .rows import Rows


@dataclass(frozen=True)
class Running:
    """What the code that runs keeps. `wide` are bytes, `narrow` are multiplied by c; both per token and layer."""

    norms_wide: int
    """·h: the fp32 inputs of two norms."""
    norms_narrow: int
    """·h: the norms' outputs, where they are kept as inputs of what follows."""
    queries_narrow: int
    """·q: queries and attention's output, and its reordered copy where there is one."""
    keys_narrow: int
    """·k: keys and values."""
    gated_narrow: int
    """·i: gate and up; its activation and the product where they are not computed again."""
    waste: Mapping[Dtype, float]
    """Holes of the C library's allocator between kept and passing tensors, as a share of the activations."""
    waste_recomputed: Mapping[Dtype, float]
    """The same with activation checkpointing, where much passes and little is kept."""
    head_slice_bytes: int = 48 << 20
    """Most bytes of logits in the model's format that the head holds at once (models/losses)."""
    runtime: int = 750_000_000
    """Python, torch, transformers and their buffers."""


THINNEST_SLICE = 64
# Measured with a CPU build of torch on Linux at 512 to 2,048 tokens (docs/log.md).
FUSED = Running(8, 0, 2, 2, 2, {"fp32": 0.4, "bf16": 0.2}, {"fp32": 3.0, "bf16": 0.3})
"""With the fused modules of models/fast."""
PLAIN = Running(8, 2, 3, 2, 4, {"fp32": 0.8, "bf16": 0.5}, {"fp32": 3.0, "bf16": 0.3})
"""transformers' modules under eager autograd."""


def running_of(spec: TrainSpec) -> Running:
    """What this recipe will run on: layers that are more than a linear product with a low-rank one are left as they are."""
    adapter = spec.adapter
    fused = adapter.moves_base
    if isinstance(adapter, LoraSpec):
        fused = not (adapter.dora or adapter.dropout or adapter.quantize)
    return FUSED if fused and spec.parallel.kind != "fsdp" else PLAIN


@dataclass(frozen=True, eq=False)
class Lengths:
    """(tokens, supervised tokens) of every row of each split, [rows, 2]; `draws` [rows]: how often an epoch holds a
    training row on average, once each where a mix does not say otherwise."""

    train: Any
    validation: Any
    draws: Any = None

    def __post_init__(self) -> None:
        for split in ("train", "validation"):
            object.__setattr__(self, split, np.asarray(getattr(self, split), np.int64).reshape(-1, 2))

    @classmethod
    def of(cls, splits: Mapping[str, Rows], spec: TrainSpec) -> Lengths:
        """From tokenised rows (`train.tokenised`)."""
        told = {split: np.stack([rows.tokens, rows.supervised_tokens], 1) for split, rows in splits.items()}
        return cls(told["train"], told["validation"], order_of(spec, splits["train"]).often)

    @property
    def epoch(self) -> tuple[float, float]:
        """Tokens and supervised tokens of an epoch."""
        tokens, supervised = self.train.sum(0) if self.draws is None else self.draws @ self.train
        return float(tokens), float(supervised)

    @property
    def all(self) -> Any:
        return np.concatenate([self.train, self.validation])


def peak_bytes(
    spec: TrainSpec,
    facts: Facts,
    largest: tuple[int, int],
    dtype: Dtype,
    others: Mapping[str, Facts] | None = None,
    running: Running | None = None,
) -> dict[str, int]:
    """The parts that are alive together when the largest micro-batch (T, S) turns from forward to backward.

    weights      what the adapter's spec says of the base: c·P, fewer where it is quantised; fp32 where it moves.
    adapter      4·R (always fp32); 0 where the base's own weights move.
    gradients    4·R: accumulated in fp32 over the micro-batches of a step.
    optimizer    8·R: AdamW's two moments in fp32.
    activations  T·`kept`·layers that the backward pass goes through; with activation checkpointing 4·T·h (the
                 blocks' fp32 inputs)·layers and all of one block.
    logits       s·V·(c + 8) for the s positions of a slice: logits, and fp32 numbers on the way to their gradient; where
                 the head moves also its own gradient before it is added to the others, 8·V·h.
    allocator    the waste of the activations.
    and what the method says it holds; runtime, a constant.
    """
    running = running or running_of(spec)
    tokens, supervised = largest
    c, adapter = WIDTH_BYTES[dtype], spec.adapter
    trained, moved = adapter.trained_parameters(facts), adapter.backward_blocks(facts)
    a_layer = kept_bytes(spec, facts, dtype, running)
    activations, waste = tokens * a_layer * moved, running.waste[dtype]
    if spec.activation_checkpointing is True:
        activations = tokens * (4 * facts.hidden * moved + (a_layer if moved else 0))
        waste = running.waste_recomputed[dtype]
    method = spec.method.load()
    logits = _logits_bytes(spec, facts, supervised, c, running) if method.through_vocabulary else 0
    return {
        "weights": adapter.weights_bytes(facts, dtype),
        "adapter": 0 if adapter.moves_base else 4 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": activations,
        "logits": logits,
        "allocator": round(waste * activations),
        **method(spec.method.settings).holds(facts, others or {}, tokens, c),
        "runtime": running.runtime,
    }


def kept_bytes(spec: TrainSpec, facts: Facts, dtype: Dtype, running: Running) -> int:
    """Bytes that one layer of a Llama-like block keeps per token for its backward pass.

    norms, attention, feed-forward: see Running
    LoRA          A's output at each of seven matrices: c·7·r; with dropout, the dropped inputs and masks again:
                  (c + 1)·(5·h + q + i)
    """
    c, h, i = WIDTH_BYTES[dtype], facts.hidden, facts.intermediate
    q, k = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    narrow = running.norms_narrow * h + running.queries_narrow * q + running.keys_narrow * k
    kept = running.norms_wide * h + c * (narrow + running.gated_narrow * i)
    if isinstance(spec.adapter, LoraSpec):
        kept += c * 7 * spec.adapter.rank
        if spec.adapter.dropout > 0:
            kept += (c + 1) * (5 * h + q + i)
    return kept


def _logits_bytes(spec: TrainSpec, facts: Facts, supervised: int, c: int, running: Running) -> int:
    at_once = min(supervised, max(THINNEST_SLICE, running.head_slice_bytes // (c * facts.vocabulary)))
    own = 8 * facts.vocabulary * facts.hidden if spec.adapter.moves_base else 0
    return at_once * facts.vocabulary * (c + 8) + own


def largest_micro_batch(lengths: Lengths, micro_tokens: int) -> tuple[int, int]:
    """Upper bounds of a micro-batch's tokens and supervised tokens: the budget, or the longest row where that is
    more; supervised tokens as if the rows richest in them met in one micro-batch."""
    tokens_N, supervised_N = lengths.all.T
    budget = int(max(tokens_N.max(), min(micro_tokens, tokens_N.sum())))
    left, supervised, shortest = budget, 0, tokens_N.min()
    for i in np.argsort(-supervised_N / tokens_N, kind="stable"):
        if left < shortest:
            break
        if tokens_N[i] <= left:
            left, supervised = left - tokens_N[i], supervised + supervised_N[i]
    return budget, int(max(supervised, supervised_N.max()))


def settle(
    spec: TrainSpec,
    facts: Facts,
    lengths: Lengths,
    dtype: Dtype,
    limit_bytes: int,
    others: Mapping[str, Facts] | None = None,
) -> TrainSpec:
    """The spec with `activation_checkpointing: auto` decided: on only where the formula does not fit otherwise."""
    if spec.activation_checkpointing != "auto":
        return spec
    plain = spec.model_copy(update={"activation_checkpointing": False})
    largest = largest_micro_batch(lengths, spec.batch.micro_tokens)
    if sum(peak_bytes(plain, facts, largest, dtype, others).values()) <= limit_bytes:
        return plain
    return spec.model_copy(update={"activation_checkpointing": True})


# -- the machine --------------------------------------------------------------------------------------------------------


def machine_bytes(device: str = "cpu") -> int:
    """What there is: of the machine, or of the container where that is less; of the GPU for cuda."""
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    import psutil

    allowed = int(psutil.virtual_memory().total)
    try:  # a container may be given less than the machine has
        return min(allowed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return allowed


def peak_bytes_so_far(device: str = "cpu") -> int:
    """The most memory this process has held at once since it began; on cuda what torch has taken of the GPU."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts kilobytes


def unlike(sizes: Sequence[int], n: int) -> list[int]:
    """Indices of up to n sizes, spread evenly from the largest to the smallest: the lengths that an allocator's holes
    come from.

    >>> unlike([5, 9, 1, 7], 3)
    [1, 0, 2]
    """
    falling = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    if len(falling) <= n:
        return falling
    return [falling[round(j * (len(falling) - 1) / max(1, n - 1))] for j in range(n)]
