"""torch's record of a step, split by kind of work: matrix products, attention, element-wise, head, optimizer, input,
generation, communication, other. Pure: a function of the recorded events.

Each event's own time (without its children's) goes to exactly one kind, so kinds add up to the time on the clock;
`other` is what no operation accounts for: the interpreter, and waiting.

    region   from the innermost region or custom function around an event; in the backward pass from the forward
             operation whose gradient it is (they share a sequence number)
    name     matrix products by name, communication by prefix, everything else of torch is element-wise
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

UNFOLD, INPUT, FORWARD, BACKWARD, OPTIMIZER = (
    f"luthier.{part}" for part in ("unfold", "input", "forward", "backward", "optimizer")
)
"""The regions of a step (training/trial)."""
BACKBONE = "luthier.backbone"
"""From token ids to the last hidden states; what of FORWARD lies outside of it is the head and the loss."""
KINDS = (
    "matmul", "attention", "element_wise", "head", "optimizer", "input", "generation", "communication", "other",
)  # fmt: skip
PHASES = {FORWARD: "forward", BACKWARD: "backward", OPTIMIZER: "optimizer", INPUT: "input", UNFOLD: "unfold"}
WHOLE_PHASE = {OPTIMIZER: "optimizer", INPUT: "input", UNFOLD: "generation"}
MATMUL = re.compile(
    r"aten::(_?mm|addmm_?|bmm|baddbmm_?|addbmm_?|mv|addmv_?|dot|vdot|linear|matmul|_int_mm|_scaled_mm|addr|ger"
    r"|_weight_int\dpack_mm.*|_addmm_activation)$|mkldnn_linear|mkldnn_matmul|onednn::q?linear|onednn::qmatmul"
)
ATTENTION = re.compile("attention", re.I)
HEAD = re.compile(r"cross_entropy|nll_loss|^luthier\.head$", re.I)
COMMUNICATION = re.compile(r"c10d::|gloo:|nccl:|mpi:|record_param_comms", re.I)
# Regions and autograd's own nodes hold no work themselves: their own time is the interpreter's and the engine's.
BOOKKEEPING = re.compile(r"^luthier\.|^autograd::|^torch::autograd|Backward\d+$|^ProfilerStep|^Optimizer\.")


@dataclass
class Split:
    """Seconds. `kinds` add up to `wall_s`, `phases` to a little less; `operations` are by name, the largest first."""

    wall_s: float
    kinds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES.values(), 0.0))
    operations: dict[str, float] = field(default_factory=dict)

    def shares(self) -> dict[str, float]:
        """Of the whole, adding up to 1."""
        return {kind: seconds / self.wall_s for kind, seconds in self.kinds.items()}


def split(events: Iterable[Any], wall_s: float, device: str = "cpu") -> Split:
    """`events` are torch.autograd.profiler_util.FunctionEvent, of one process. On a GPU an operation's time is its
    kernels'."""
    roots = sorted((e for e in events if e.cpu_parent is None), key=lambda e: e.time_range.start)
    told, heads = Split(wall_s), _Heads()
    for root in roots:
        if root.name in PHASES:
            _add(told, root, _Place(root.name), heads, device)
    busy = sum(told.kinds.values())
    told.wall_s = max(wall_s, busy)
    told.kinds["other"] += told.wall_s - busy
    told.operations = dict(sorted(told.operations.items(), key=lambda item: -item[1]))
    return told


@dataclass(frozen=True)
class _Place:
    phase: str
    region: str | None = None


@dataclass
class _Heads:
    """Regions of forward operations by sequence number, for the backward pass to look up."""

    regions: dict[int, str | None] = field(default_factory=dict)

    def note(self, event: Any, place: _Place) -> None:
        if place.phase == FORWARD and event.sequence_nr >= 0:
            # An operation without gradient carries the number that the next one with a gradient will have: the later wins.
            self.regions[event.sequence_nr] = place.region


def _add(told: Split, event: Any, place: _Place, heads: _Heads, device: str) -> None:
    """Depth first, in the order of time."""
    place = _enter(event, place, heads)
    heads.note(event, place)
    seconds = _own_s(event, device)
    kind = kind_of(event.name, place.phase, place.region)
    told.kinds[kind] += seconds
    told.phases[PHASES[place.phase]] += seconds
    if kind != "other":
        told.operations[event.name] = told.operations.get(event.name, 0.0) + seconds
    for child in sorted(event.cpu_children, key=lambda e: e.time_range.start):
        _add(told, child, place, heads, device)


def _enter(event: Any, place: _Place, heads: _Heads) -> _Place:
    if event.name == FORWARD:
        has_backbone = any(child.name == BACKBONE for child in _below(event))
        return _Place(FORWARD, "head" if has_backbone else None)
    if event.name == BACKBONE:
        return _Place(place.phase, None)
    if place.phase == BACKWARD and event.name.startswith("autograd::engine") and event.sequence_nr >= 0:
        return _Place(BACKWARD, heads.regions.get(event.sequence_nr))
    if place.region is None and ATTENTION.search(event.name):
        return _Place(place.phase, "attention")
    if place.region is None and HEAD.search(event.name):
        return _Place(place.phase, "head")
    return place


def _below(event: Any) -> Iterable[Any]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)


def kind_of(name: str, phase: str, region: str | None) -> str:
    """
    >>> kind_of("aten::mm", FORWARD, None), kind_of("aten::bmm", FORWARD, "attention"), kind_of("aten::mul", BACKWARD, None)
    ('matmul', 'attention', 'element_wise')
    >>> kind_of("MmBackward0", BACKWARD, None), kind_of("NormBackward", BACKWARD, None)
    ('other', 'element_wise')
    """
    if COMMUNICATION.search(name):
        return "communication"
    if phase in WHOLE_PHASE and name != UNFOLD:  # most methods unfold nothing
        return WHOLE_PHASE[phase]
    if BOOKKEEPING.search(name):
        return "other"
    if region is not None:
        return region
    return "matmul" if MATMUL.search(name) else "element_wise"


def _own_s(event: Any, device: str) -> float:
    micro = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
    return max(0.0, micro) * 1e-6


def name_of(kind: str) -> str:
    """A kind of work as people read it.

    >>> name_of("matmul"), name_of("element_wise")
    ('matrix products', 'element-wise')
    """
    return {"matmul": "matrix products", "other": "interpreter, waiting"}.get(kind, kind.replace("_", "-"))
