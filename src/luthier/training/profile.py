"""Where a training step's time goes, how much of the machine's arithmetic it reaches, and what holds it back.

    steps   one to warm up, N on the clock, one recorded by torch's profiler (recording slows small operations down,
            so speed comes from the clock and only the shares from the record)
    peak    matrix products measured here and now, of the model's own shapes and square ones (training/flops)

Not here: what is said about it to people (app/profiling), and memory beyond this process's high water since its model was
loaded.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.stage import Context
from luthier.models.shapes import Facts

from . import exchange
from .assembly import Assembly, settled
from .flops import Flops, Peak, measure_peak, of_sequences
from .launch import processes_of
from .machine import find
from .memory import forget_peak, let_go, machine_bytes, peak_bytes_so_far
from .method import Method
from .mixing import order_of
from .rows import Row, Rows
from .spec import TrainSpec
from .split_time import Split, name_of, split
from .trial import StepTimes, Trial, begin, marked_backbone

if TYPE_CHECKING:
    from luthier.models.template import Template

Held = Literal["compute", "memory", "input", "communication", "overhead"]
BUSY: Mapping[Held, tuple[str, ...]] = {
    "compute": ("matmul", "attention", "head", "generation"),
    "memory": ("element_wise", "optimizer"),
    "input": ("input",),
    "communication": ("communication",),
    "overhead": ("other",),
}
"""Which kinds of work wait for what: element-wise work and the optimizer for memory's bandwidth."""
NEARLY_FULL = 0.9
THIN_TOKENS = 1024
"""Below so many tokens at once a matrix product does not reach its speed (docs/log.md)."""
OPERATIONS = 8


@dataclass(frozen=True)
class Bottleneck:
    """`share` of the step's time that `kind` takes; `remedy` is what to try first."""

    kind: Held
    share: float
    reason: str
    remedy: str


@dataclass(frozen=True)
class Profile:
    """`fused`: parts of the model that are; `shares` add up to 1; `step_s` is the median of the steps on the clock, and of
    several `processes` what each has of it (all, where they share one processor) and `exchange_s` besides; rates are
    FLOP/s of one process."""

    device: str
    dtype: str
    threads: int
    fused: Sequence[str]
    processes: int
    exchange_s: float
    steps: int
    step_s: float
    tokens_per_s: float
    tokens_per_step: float
    supervised_per_step: float
    micro_batches_per_step: float
    first_step_s: float
    shares: Mapping[str, float]
    phases: Mapping[str, float]
    operations: Sequence[tuple[str, float]]
    recorded_slower: float
    flops_per_step: Flops
    achieved: float
    matmul_achieved: float | None
    peak: Peak
    peak_bytes: int
    machine_bytes: int
    bottleneck: Bottleneck

    @property
    def of_peak(self) -> float:
        """Share of the square products' rate, in the run's number format, that the whole step reaches."""
        return self.achieved / self.peak.square[self.dtype]

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "flops_per_step": self.flops_per_step.plain(), "of_peak": self.of_peak}


def profile(
    spec: TrainSpec,
    method: Method,
    folders: Mapping[str, Path],
    splits: Mapping[str, Rows],
    template: Template,
    facts: Facts,
    steps: int,
    at: Context,
) -> Profile:
    """Runs `steps` + 2 optimizer steps on the rows that training would see first; the weights are thrown away. Raises
    what assembling raises, and ModelError when a micro-batch does not fit in memory."""
    rows = splits["train"]
    order = order_of(spec, rows)
    chosen = [order.step(step) for step in range(1, steps + 3)]
    machine = find(spec)
    spec = settled(spec, folders, splits, machine, at)
    forget_peak(machine.device)
    with tempfile.TemporaryDirectory(prefix="luthier-profile-") as scratch:
        needed = {"train": [i for one in chosen for i in one]}
        trial = begin(spec, method, folders, splits, needed, template, Path(scratch), at)
        found = measure(trial, [[rows[i] for i in one] for one in chosen], facts, at)
    if spec.parallel.kind == "none":
        return found
    at.progress("profile: exchange between processes", 0, 1)
    processes, sizes = processes_of(spec), exchange.sizes_of(trial.made)
    del trial  # the processes need its memory
    let_go(machine.device)
    rounds = math.ceil(found.micro_batches_per_step / processes)
    return together(found, processes, exchange.seconds_of(spec, sizes, rounds, at), spec)


def together(alone: Profile, processes: int, exchange_s: float, spec: TrainSpec) -> Profile:
    """What was measured of one process, as it is where several take the step's micro-batches in turns: on one processor
    they share its threads, so the work takes as long; a GPU each makes it as many times shorter."""
    own_s = alone.step_s / (processes if alone.device == "cuda" else 1)
    step_s = own_s + exchange_s
    shares = {kind: share * own_s / step_s for kind, share in alone.shares.items()}
    shares["communication"] = exchange_s / step_s
    held_bytes = alone.peak_bytes * (1 if alone.device == "cuda" else processes)
    held = name_bottleneck(
        spec,
        shares,
        alone.peak,
        alone.dtype,
        alone.tokens_per_step / alone.micro_batches_per_step,
        held_bytes / alone.machine_bytes,
    )
    return replace(
        alone,
        processes=processes,
        exchange_s=exchange_s,
        step_s=step_s,
        tokens_per_s=alone.tokens_per_step / step_s,
        shares=shares,
        phases={name: share * own_s / step_s for name, share in alone.phases.items()},
        operations=[(name, share * own_s / step_s) for name, share in alone.operations],
        achieved=alone.achieved * own_s / step_s,
        peak_bytes=held_bytes,
        bottleneck=held,
    )


def measure(trial: Trial, chosen: Sequence[Sequence[Row]], facts: Facts, at: Context) -> Profile:
    """`chosen`: rows of each step: the first warms up, the last is recorded, those between are on the clock."""
    made, spec, steps = trial.made, trial.spec, len(chosen) - 2
    first = trial.step(chosen[0])
    timed = []
    for k, one in enumerate(chosen[1:-1]):
        at.check()
        at.progress("profile: real steps", k, steps)
        timed.append(trial.step(one))
    # Before the recorder, which fills memory of its own.
    most, there = peak_bytes_so_far(made.machine.device), machine_bytes(made.machine.device)
    recorded, record = _recorded(trial, chosen[-1])
    measured, of_record = [_flops(made, facts, one) for one in timed], _flops(made, facts, recorded)
    tokens = sum(one.tokens for one in timed)
    seconds = [one.total_s for one in timed]
    at_once = sum(one.computed for one in timed) / sum(one.micro_batches for one in timed)
    peak = measure_peak(facts, max(1, round(at_once)), made.machine.dtype, made.machine.device)
    shares, achieved = record.shares(), sum(f.total for f in measured) / sum(seconds)
    in_products = record.kinds["matmul"]
    matmul = (of_record.matrices + of_record.adapter) / in_products if in_products else None
    return Profile(
        device=made.machine.device,
        dtype=made.machine.dtype,
        threads=made.machine.threads,
        fused=trial.fused,
        processes=1,
        exchange_s=0.0,
        steps=steps,
        step_s=statistics.median(seconds),
        tokens_per_s=tokens / sum(seconds),
        tokens_per_step=tokens / steps,
        supervised_per_step=sum(one.supervised for one in timed) / steps,
        micro_batches_per_step=sum(one.micro_batches for one in timed) / steps,
        first_step_s=first.total_s,
        shares=shares,
        phases={name: told / record.wall_s for name, told in record.phases.items()},
        operations=[
            (name, told / record.wall_s) for name, told in list(record.operations.items())[:OPERATIONS]
        ],
        recorded_slower=_slower(recorded, timed),
        flops_per_step=_mean(measured),
        achieved=achieved,
        matmul_achieved=matmul,
        peak=peak,
        peak_bytes=most,
        machine_bytes=there,
        bottleneck=name_bottleneck(spec, shares, peak, made.machine.dtype, at_once, most / there),
    )


def _recorded(trial: Trial, rows: Sequence[Row]) -> tuple[StepTimes, Split]:
    made = trial.made
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # else the recorder writes its own lines to standard error
    on_gpu = made.machine.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with marked_backbone(made.model), profile(activities=activities) as record:
        begun = time.perf_counter()
        times = trial.step(rows)
        wall_s = time.perf_counter() - begun
    return times, split(record.events(), wall_s, made.machine.device)


def _flops(made: Assembly, facts: Facts, times: StepTimes) -> Flops:
    through = made.method.through_vocabulary
    return of_sequences(made.spec, facts, times.lengths, times.supervised, through, times.computed)


def _mean(several: Sequence[Flops]) -> Flops:
    return Flops(**{name: statistics.fmean(vars(one)[name] for one in several) for name in vars(several[0])})


def _slower(recorded: StepTimes, timed: Sequence[StepTimes]) -> float:
    """How much slower, per token, the recorded step was: 0.1 is a tenth."""
    usual = sum(one.total_s for one in timed) / sum(one.tokens for one in timed)
    return recorded.total_s / recorded.tokens / usual - 1


# -- what holds it back -------------------------------------------------------------------------------------------------


def name_bottleneck(
    spec: TrainSpec,
    shares: Mapping[str, float],
    peak: Peak,
    dtype: str,
    tokens_at_once: float,
    memory_share: float,
) -> Bottleneck:
    """What takes most of the time, and what to try. Memory that is nearly full comes first: beyond it nothing runs."""
    held = {kind: sum(shares[one] for one in kinds) for kind, kinds in BUSY.items()}
    kind: Held = max(held, key=lambda one: held[one])
    if memory_share > NEARLY_FULL:
        reason = f"the process held {memory_share:.0%} of the machine's memory"
        return Bottleneck("memory", held["memory"], reason, _less_memory(spec))
    reason = ", ".join(f"{name_of(one)} {shares[one]:.0%}" for one in BUSY[kind] if shares[one] >= 0.005)
    remedy = {
        "compute": _less_compute(spec, shares, peak, dtype, tokens_at_once),
        "memory": _less_traffic(shares, dtype, peak),
        "input": "Rows are put together slower than they are learnt from: fewer, longer micro-batches "
        "(raise train.batch.micro_tokens).",
        "communication": "Processes wait for each other's gradients: raise train.batch.rows, or use fewer processes.",
        "overhead": "The interpreter and waiting take longer than the work: raise train.batch.micro_tokens, "
        "and let nothing else run on the machine.",
    }[kind]
    return Bottleneck(kind, held[kind], f"{held[kind]:.0%} of a step: {reason}", remedy)


def _less_memory(spec: TrainSpec) -> str:
    if spec.activation_checkpointing is not True:
        return "Set train.activation_checkpointing: true (a third slower), or lower train.batch.micro_tokens."
    return "Lower train.batch.micro_tokens, or choose a smaller base."


def _less_compute(
    spec: TrainSpec, shares: Mapping[str, float], peak: Peak, dtype: str, tokens_at_once: float
) -> str:
    if dtype == "fp32" and peak.square["bf16"] > 1.3 * peak.square["fp32"]:
        times = peak.square["bf16"] / peak.square["fp32"]
        return f"Set train.dtype: bf16: this machine multiplies matrices {times:.1f} times as fast in it."
    if shares["attention"] > shares["matmul"]:
        return "Attention grows with the square of a row's length: shorten the longest rows (rule `length`)."
    if (
        tokens_at_once < THIN_TOKENS <= spec.batch.rows * tokens_at_once
        and spec.batch.micro_tokens < THIN_TOKENS
    ):
        return f"Raise train.batch.micro_tokens: products of {tokens_at_once:,.0f} tokens are too thin to be fast."
    if shares["head"] > shares["matmul"]:
        return "The output head is the largest part: a shorter answer, or a base with a smaller vocabulary."
    if spec.adapter.moves_base:
        return "Train an adapter (train.adapter.kind: lora): frozen weights need no gradient, a third less to compute."
    return "This is the machine's arithmetic: fewer or shorter rows, a smaller base, or a GPU."


def _less_traffic(shares: Mapping[str, float], dtype: str, peak: Peak) -> str:
    if shares["optimizer"] > shares["element_wise"]:
        return "The optimizer is the largest part: raise train.batch.rows, or train an adapter instead of every weight."
    if dtype == "fp32" and peak.square["bf16"] > 1.3 * peak.square["fp32"]:
        return "Set train.dtype: bf16: element-wise work moves half the bytes."
    return "Element-wise work waits for memory: what is not fused shows in the list of operations."
