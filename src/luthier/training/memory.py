"""What training holds in memory at its peak, part by part, from shapes alone; and what the machine has.

    Lengths   how long rows are, and come to be where a method unfolds them
    Team      processes that train together, and which of them share one memory
    parts     peak_bytes: what one process holds, times those that share its memory

Pure but for `team_of` and what stands under "the machine". The figures of running code (what a block keeps for its backward pass, what the
head holds, what the allocator wastes) stand in `Running`, one place: they change with that code, and a test holds
their sum against a real run.

Legend: P parameters, R trained parameters, T tokens and S supervised tokens of the largest micro-batch, L layers,
h hidden, q = heads·head_size, k = kv_heads·head_size, i intermediate, V vocabulary, c bytes of the number format.
"""

from __future__ import annotations

import gc
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.models.shapes import WIDTH_BYTES, Dtype, Facts, block_parameters
from luthier.models.spec import LoraSpec

from .batches import steps_per_epoch
from .launch import processes_of
from .mixing import order_of
from .spec import TrainSpec

if TYPE_CHECKING:
    from .mixing import Mixture
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


# -- lengths ------------------------------------------------------------------------------------------------------------


def limit_of(spec: TrainSpec, context: int) -> int:
    """Most tokens of a row."""
    return min(spec.longest or context, context)


@dataclass(frozen=True, eq=False)
class Lengths:
    """(tokens, supervised tokens) of every row of each split, [rows, 2]. `order` says which training rows come when;
    without it each stands once in every epoch, nobody knows where. `copies`: what a row of training becomes."""

    train: Any
    validation: Any
    order: Mixture | None = None
    copies: int = 1

    def __post_init__(self) -> None:
        for split in ("train", "validation"):
            object.__setattr__(self, split, np.asarray(getattr(self, split), np.int64).reshape(-1, 2))

    @classmethod
    def of(cls, splits: Mapping[str, Rows], spec: TrainSpec) -> Lengths:
        """From tokenised rows (`train.tokenised`)."""
        told = {split: np.stack([rows.tokens, rows.supervised_tokens], 1) for split, rows in splits.items()}
        return cls(told["train"], told["validation"], order_of(spec, splits["train"]))

    def grown(self, spec: TrainSpec, context: int) -> Lengths:
        """The same rows as the method may unfold them, each as long as it may become; these where it does not."""
        copies, gain = spec.method.load()(spec.method.settings).grows()
        if (copies, gain) == (1, 0):
            return self
        limit = limit_of(spec, context)
        train, validation = (_longer(rows, gain, limit) for rows in (self.train, self.validation))
        return replace(self, train=train, validation=validation, copies=copies)

    def of_steps(self, steps: int, rows: int) -> tuple[float, float]:
        """Tokens and supervised tokens of the first `steps` steps, of `rows` rows each: whole epochs as they are on
        average (under a mix one differs from the next), and of the last, where it is not finished, the rows it takes."""
        n = len(self.train)
        whole, rest = divmod(steps, steps_per_epoch(n, rows))
        times_N = np.full(n, float(whole)) if self.order is None else whole * self.order.often
        if rest and self.order is None:
            times_N += min(1.0, rest * rows / n)
        elif rest and self.order is not None:
            np.add.at(times_N, self.order.epoch(whole)[: rest * rows], 1.0)
        tokens, supervised = self.copies * (times_N @ self.train)
        return float(tokens), float(supervised)

    @property
    def all(self) -> Any:
        return np.concatenate([self.train, self.validation])

    @property
    def times(self) -> Any:
        """How many rows each of `all` becomes."""
        return np.repeat([self.copies, 1], [len(self.train), len(self.validation)])


def _longer(rows_N2: Any, gain: int, limit: int) -> Any:
    tokens_N = np.maximum(rows_N2[:, 0], np.minimum(rows_N2[:, 0] + gain, limit))
    return np.stack([tokens_N, np.minimum(rows_N2[:, 1] + gain, tokens_N)], 1)


def largest_micro_batch(lengths: Lengths, micro_tokens: int) -> tuple[int, int]:
    """Upper bounds of a micro-batch's tokens and supervised tokens: the budget, or the longest row where that is
    more; supervised tokens as if the rows richest in them met in one micro-batch."""
    tokens_N, supervised_N = lengths.all.T
    times_N = lengths.times
    budget = int(max(tokens_N.max(), min(micro_tokens, (times_N * tokens_N).sum())))
    left, supervised, shortest = budget, 0, tokens_N.min()
    for i in np.argsort(-supervised_N / tokens_N, kind="stable"):
        if left < shortest:
            break
        fit = min(times_N[i], left // tokens_N[i])
        left, supervised = left - fit * tokens_N[i], supervised + fit * supervised_N[i]
    return budget, int(max(supervised, supervised_N.max()))


# -- processes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Team:
    """Processes that train together: on a processor all in one memory, on GPUs each in its own."""

    size: int = 1
    one_memory: bool = True

    @property
    def sharing(self) -> int:
        """How many of them share one memory."""
        return self.size if self.one_memory else 1


ALONE = Team()


def team_of(spec: TrainSpec, device: str) -> Team:
    """Raises what `processes_of` raises."""
    return Team(processes_of(spec), device != "cuda")


# -- parts --------------------------------------------------------------------------------------------------------------


def peak_bytes(
    spec: TrainSpec,
    facts: Facts,
    largest: tuple[int, int],
    dtype: Dtype,
    others: Mapping[str, Facts] | None = None,
    running: Running | None = None,
    team: Team = ALONE,
) -> dict[str, int]:
    """The parts that are alive together when the largest micro-batch (T, S) turns from forward to backward; of all
    processes of the team that share one memory.

    weights      what the adapter's spec says of the base: c·P, fewer where it is quantised; fp32 where it moves.
    adapter      4·R (always fp32); 0 where the base's own weights move.
    gradients    4·R: accumulated in fp32 over the micro-batches of a step.
    optimizer    8·R: AdamW's two moments in fp32.
    activations  T·`kept`·layers that the backward pass goes through; with activation checkpointing 4·T·h (the
                 blocks' fp32 inputs)·layers and all of one block.
    logits       s·V·(c + 8) for the s positions of a slice: logits, and fp32 numbers on the way to their gradient; where
                 the head moves also its own gradient before it is added to the others, 8·V·h.
    allocator    the waste of the activations.
    and what the method says it holds; runtime, a constant; and what several processes need (`_side_by_side`, `_sharded`).
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
    parts = {
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
    if spec.parallel.kind == "ddp":
        return _side_by_side(parts, team)
    return _sharded(parts, facts, team) if spec.parallel.kind == "fsdp" else parts


def _side_by_side(parts: dict[str, int], team: Team) -> dict[str, int]:
    """ddp: each process holds everything.

    exchange   a second copy of the gradients on its way to the others, by when the activations are gone (training/parallel)
    """
    passing = parts["activations"] + parts["allocator"] + parts["logits"]
    told = {**parts, "exchange": max(0, parts["gradients"] - passing)}
    return {name: team.sharing * size for name, size in told.items()}


def _sharded(parts: dict[str, int], facts: Facts, team: Team) -> dict[str, int]:
    """fsdp: each process of n holds an n-th of the fp32 weights, the gradients and the moments. Whole are autocast's copies
    and the activations, and

    gathered            in fp32 with their gradients: the weights of no block, and of two blocks: one is computed while the
                        next is on its way (torch.distributed.fsdp.fully_shard)
    loading or saving   what other moments need beyond all this: before it is cut the whole model lies in every process,
                        and process 0 puts together what a checkpoint holds, which is in the processor's memory
    """
    n, masters = team.size, 4 * facts.parameters
    saved = parts["gradients"] + parts["optimizer"]  # as large as the trained weights and their moments
    cut = {"weights": masters, "gradients": parts["gradients"], "optimizer": parts["optimizer"]}
    told = {**parts, **{name: -(-size // n) for name, size in cut.items()}}
    told["weights"] += parts["weights"] - masters
    told["gathered"] = 8 * (facts.parameters - max(0, facts.layers - 2) * block_parameters(facts))
    told = {name: team.sharing * size for name, size in told.items()}
    others = [team.sharing * (masters + parts["runtime"])]
    if team.one_memory:  # else in another than this
        others.append(masters + parts["optimizer"] + saved + n * parts["runtime"])
    return {**told, "loading or saving": max(0, *(one - sum(told.values()) for one in others))}


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


def settle(
    spec: TrainSpec,
    facts: Facts,
    lengths: Lengths,
    dtype: Dtype,
    limit_bytes: int,
    others: Mapping[str, Facts] | None = None,
    device: str = "cpu",
) -> TrainSpec:
    """The spec with `activation_checkpointing: auto` decided: on only where the formula does not fit otherwise."""
    if spec.activation_checkpointing != "auto":
        return spec
    plain = spec.model_copy(update={"activation_checkpointing": False})
    largest = largest_micro_batch(lengths.grown(spec, facts.context), spec.batch.micro_tokens)
    parts = peak_bytes(plain, facts, largest, dtype, others, team=team_of(spec, device))
    if sum(parts.values()) <= limit_bytes:
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


def free_bytes(device: str = "cpu") -> int:
    """What may still be taken without anything else giving way."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    there = int(psutil.virtual_memory().available)
    return min(there, machine_bytes() - int(psutil.Process().memory_info().rss))


STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes_so_far(device: str = "cpu") -> int:
    """The most memory this process has held at once since `forget_peak`, or since it began where that could do nothing;
    on cuda what torch has taken of the GPU."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved())
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.M):
            return 1024 * int(found[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts kilobytes


def forget_peak(device: str = "cpu") -> None:
    """Let `peak_bytes_so_far` begin anew: with what is held now, not with what preparing the rows has held. A 5 makes
    Linux forget its high water of the process (proc(5)); elsewhere nothing does, and figures are of the whole process."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            CLEAR_REFS.write_text("5")


def let_go(device: str = "cpu") -> None:
    """Give back what is no longer in use. Models lie in cycles of references, which Python collects when it pleases; and
    what torch keeps of a GPU for later, other processes cannot have."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


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
