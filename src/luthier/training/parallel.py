"""One training run in several processes, each with the whole model (ddp) or a shard of it (fsdp).

Every process walks the same loop over the same rows. A step's micro-batches are dealt out by their tokens, and its
gradients added up once, after the last of them; the loss is divided by the weight of the whole step, so the result is
one process's up to the rounding of sums. Random states follow from (seed, step, micro-batch), wherever that is computed.

    Alone       one process: every method here does nothing
    Processes   the whole model in each                              (gloo on CPU, nccl on CUDA)
    Sharded     weights, gradients and moments cut across processes  (FSDP2, torch's fully_shard)

Values cross as JSON in byte tensors: torch's own object collectives pickle. Not here: who starts the processes
(training/launch).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.models import losses

from .launch import launched
from .rows import Row
from .spec import TrainSpec

if TYPE_CHECKING:
    from .assembly import Assembly

BUCKET_BYTES = 25_000_000
PATIENCE = timedelta(hours=12)
"""How long a process waits for another, which may be tokenising all rows or asking a teacher. torch's own ten minutes on
CUDA would end the run; a process that has died is noticed by torchrun, not by this."""


@dataclass(frozen=True)
class Share:
    """Micro-batches that are one process's to compute. Those in `idle` are computed for nothing: where weights are
    sharded, every process must take part in every round of gathering them."""

    parts: tuple[int, ...]
    idle: tuple[int, ...] = ()


def deal(tokens: Sequence[int], size: int) -> list[list[int]]:
    """Longest first, each to the process with the fewest tokens yet (Graham 1969).

    >>> deal([700, 600, 500, 400, 300], 2)
    [[0, 3, 4], [1, 2]]
    """
    dealt: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for k in sorted(range(len(tokens)), key=lambda k: (-tokens[k], k)):
        least = load.index(min(load))
        dealt[least].append(k)
        load[least] += tokens[k]
    return [sorted(one) for one in dealt]


class World:
    """What the loop asks of the processes it runs in. This one is alone; the others override it."""

    rank = 0
    size = 1
    averages = 1
    """What gradients are divided by on their way from one process to another."""

    def budget(self, rows: Sequence[Row], micro_tokens: int) -> int:
        """Most tokens of a micro-batch, so that each process has one where there are rows enough."""
        return micro_tokens

    def deal(self, tokens: Sequence[int]) -> Share:
        """Which micro-batches, of these many tokens each, this process computes."""
        return Share(tuple(range(len(tokens))))

    def total(self, value: float) -> float:
        """The sum over all processes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every process's plain value, in order of rank."""
        return [value]

    def add_gradients(self, parameters: Sequence[tuple[str, Any]]) -> None:
        """Make every process's gradients the sum of all processes' gradients."""

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same tensors, complete in process 0 and of no use in others."""
        return tensors

    def like(self, p: Any, whole: Tensor) -> Tensor:
        """A whole tensor laid out as the parameter `p` is."""
        return whole.to(p.device)

    def put(self, p: Any, whole: Tensor) -> None:
        """Set a parameter from a whole tensor."""
        p.copy_(whole)

    def barrier(self) -> None:
        """Wait for all processes."""


class Alone(World):
    """The only process there is."""


class Processes(World):
    """Those of torch.distributed's default group, each with the whole model."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device

    def budget(self, rows: Sequence[Row], micro_tokens: int) -> int:
        total = sum(row.tokens for row in rows)
        longest = max((row.tokens for row in rows), default=1)
        return max(longest, min(micro_tokens, math.ceil(total / self.size)))

    def deal(self, tokens: Sequence[int]) -> Share:
        return Share(tuple(deal(tokens, self.size)[self.rank]))

    def total(self, value: float) -> float:
        import torch.distributed as dist

        told = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(told)
        return float(told)

    def gather(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        text = json.dumps(value).encode()
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(text)], dtype=torch.int64, device=self.device))
        longest = max(int(size) for size in sizes)
        own = torch.tensor(list(text.ljust(longest)), dtype=torch.uint8, device=self.device)
        texts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(texts, own)
        return [json.loads(bytes(one.tolist())) for one in texts]

    def add_gradients(self, parameters: Sequence[tuple[str, Any]]) -> None:
        """A parameter that no process has a gradient for keeps none, as it would in one process."""
        import torch.distributed as dist

        have = torch.tensor(
            [p.grad is not None for _, p in parameters], dtype=torch.int32, device=self.device
        )
        dist.all_reduce(have, dist.ReduceOp.MAX)
        moved = [p for (_, p), one in zip(parameters, have.tolist(), strict=True) if one]
        begun = []
        for bucket in _buckets(moved):
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket]
            )
            begun.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in begun:
            work.wait()
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)

    def barrier(self) -> None:
        import torch.distributed as dist

        dist.barrier()


class Sharded(Processes):
    """Each process holds a shard of every parameter, of its gradient and of its moments (Zhao et al. 2023, FSDP;
    torch's second version of it shards each parameter by itself)."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.averages = self.size

    def shard(self, made: Assembly) -> Assembly:
        """Cut the model's blocks, then the rest of it. The optimizer must be built afterwards."""
        from torch.distributed.fsdp import fully_shard

        for block in blocks_of(made.model):
            fully_shard(block)
        fully_shard(made.model)
        return replace(made, parameters=made.adapter.trainable(made.model))

    def unsharded(self, made: Assembly, base: Path) -> Assembly:
        """The trained weights in a model of process 0 as it was loaded. Sharding gives modules other classes, whose
        names must not get into files."""
        from luthier.models.weights import load

        whole = self.whole({name: p.data for name, p in made.parameters})
        if self.rank != 0:
            return made
        model = made.adapter.attach(load(base, dtype="fp32", device="cpu"), made.spec.adapter, made.spec.seed)
        with torch.no_grad():
            for name, p in made.adapter.trainable(model):
                p.copy_(whole[name])
        return replace(made, model=model)

    def deal(self, tokens: Sequence[int]) -> Share:
        dealt = deal(tokens, self.size)
        own, most = dealt[self.rank], max(map(len, dealt))
        least = min(range(len(tokens)), key=lambda k: tokens[k], default=0)
        return Share(tuple(own), (least,) * (most - len(own)))

    def add_gradients(self, parameters: Sequence[tuple[str, Any]]) -> None:
        """Nothing: each backward has added them up already."""

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One after another, so that a device never holds more than one of them whole."""
        from torch.distributed.tensor import DTensor

        told = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                told[name] = full.cpu()
        return told

    def like(self, p: Any, whole: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(p, DTensor) and whole.dim() > 0:
            return distribute_tensor(whole.to(self.device), p.device_mesh, p.placements)
        return whole.to(self.device)

    def put(self, p: Any, whole: Tensor) -> None:
        p.copy_(self.like(p, whole))


@contextmanager
def joined(spec: TrainSpec) -> Iterator[World]:
    """The processes that torchrun started, or this one alone. Outside of torchrun the environment is not read."""
    if not launched():
        yield Alone()
        return
    import torch.distributed as dist

    if spec.device != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device, timeout=PATIENCE)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        if spec.parallel.kind == "fsdp":
            with losses.plainly():  # the fast head reads weights that are not there while they are sharded
                yield Sharded(device)
        else:
            yield Processes(device)
        dist.barrier()  # a process that left earlier would break what the others still say to each other
    finally:
        dist.destroy_process_group()


@contextmanager
def first_goes_ahead(world: World) -> Iterator[None]:
    """Process 0 does what is inside, then the others do, who find what it left on disk."""
    if world.rank != 0:
        world.barrier()
    yield
    if world.rank == 0:
        world.barrier()


def blocks_of(model: Any) -> list[Any]:
    """The repeated layers: the longest list of modules that the model holds."""
    longest: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > len(longest):
            longest = list(module)
    return longest


def _buckets(parameters: Sequence[Any]) -> Iterator[list[Any]]:
    """Of one dtype and about BUCKET_BYTES each: many small messages cost more than one large one."""
    bucket: list[Any] = []
    size = 0
    for p in parameters:
        if bucket and (size >= BUCKET_BYTES or p.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += p.numel() * p.element_size()
    if bucket:
        yield bucket
