"""Two ways of computing one step must agree: rows together and rows alone, fused parts and the plain model.

Row by row in the loss, and parameter by parameter in the gradient; on a few short rows, before the first step.
What is done about a difference is in `packing` (the run stops) and `fused` (the plain model is used). In bf16 some losses
magnify rounding (that of IPO, near what it aims at, by any factor), so before that is done both ways are computed once
more in fp32, where rounding is small; unless they are so far apart, or a gradient is, that rounding explains nothing. See training/proof for the other laws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.stage import Context
from luthier.models import losses
from luthier.models.fast import kernels

from . import optim
from .assembly import Assembly
from .loop import groups, seed_of
from .machine import enough_memory
from .memory import free_bytes
from .method import Loss
from .rows import Row, Rows
from .spec import TrainSpec

if TYPE_CHECKING:
    from luthier.models.fast import Quick

PACKED_ROWS = 3
PACKED_TOKENS = 256
NOTHING = 1e-3  # a row's loss, against its weight, that leaves nothing to learn
MARKS = 16
SMALL = 1e-2  # a parameter's gradient, against the largest, of which rounding is most
STRETCH = 1 << 16
STIRRED = 0.01
MAGNIFIED = 0.5
"""A difference in a row's loss beyond which it is no rounding, whatever a method makes of it."""
WIDENED_SHARE = 0.5


@dataclass(frozen=True)
class Tolerance:
    """Largest differences between two ways of computing a step: of a row's loss (against its size and its weight), of the
    whole gradient, and of any one parameter's gradient (against its norm).

    fp32: sums in another order. bf16: each product is rounded to 8 bits. Packed and alone round alike. Fused parts round
    in other places than plain ones: both are equally far from fp32 with the same weights, so up to twice that from each
    other; a parameter's gradient by as much as a third of its norm. What was found is in docs/log.md. A part that is
    wrong (a lost input, a scale, a bias) is far beyond that in some parameter, if not in all.
    """

    loss: float
    gradient: float
    parameter: float


PACKED: dict[Literal["fp32", "bf16"], Tolerance] = {
    "fp32": Tolerance(loss=1e-4, gradient=1e-3, parameter=1e-2),
    "bf16": Tolerance(loss=1e-2, gradient=5e-2, parameter=0.3),
}
FUSED: dict[Literal["fp32", "bf16"], Tolerance] = {
    "fp32": PACKED["fp32"],
    "bf16": Tolerance(loss=4e-2, gradient=0.15, parameter=0.5),
}


@dataclass(frozen=True)
class Off:
    """How far two ways are apart. `gradient` and `parameter` are None where there is no gradient to compare."""

    losses: list[float]
    gradient: float | None
    parameter: float | None

    @property
    def loss(self) -> float:
        return max(self.losses)

    def within(self, allowed: Tolerance) -> bool:
        """False where a difference is no number."""
        return (
            self.loss <= allowed.loss
            and (self.gradient is None or self.gradient <= allowed.gradient)
            and (self.parameter is None or self.parameter <= allowed.parameter)
        )


@dataclass(frozen=True)
class Measured:
    """Some rows' losses, and of each parameter's gradient its norm and its products with a few fixed vectors of ±1: the
    mean square of what two of them differ by is that of the gradients themselves (Johnson and Lindenstrauss 1984;
    Achlioptas 2003). Holding two whole gradients beside each other would cost more memory than training does."""

    losses: list[float]
    norms: np.ndarray  # [parameters]
    marks: np.ndarray  # [parameters, MARKS]

    def off(self, other: Measured, weights: Sequence[float]) -> Off:
        """A loss near zero (of a policy, say) is compared on the scale of its weight."""
        losses = [
            abs(a - b) / (abs(b) + abs(w)) for a, b, w in zip(self.losses, other.losses, weights, strict=True)
        ]
        if all(abs(b) <= NOTHING * abs(w) for b, w in zip(other.losses, weights, strict=True)):
            return Off(
                losses, None, None
            )  # nothing is left to learn: what there is of a gradient is rounding
        apart = np.sqrt(np.square(self.marks - other.marks).mean(1))
        size = np.maximum(self.norms, other.norms)
        counted = size >= SMALL * size.max(initial=0.0)
        each = apart[counted] / np.maximum(size[counted], 1e-30)
        whole = float(np.linalg.norm(apart)) / max(float(np.linalg.norm(size)), 1e-30)
        return Off(losses, whole, float(each.max(initial=0.0)))

    @property
    def finite(self) -> bool:
        return bool(all(map(math.isfinite, self.losses)) and np.isfinite(self.marks).all())


def together(spec: TrainSpec, made: Assembly, sample: Sequence[Row]) -> Measured:
    """The rows in one micro-batch, as the model now is."""
    return _measure(spec, made, [sample])[0]


def packing(
    spec: TrainSpec, made: Assembly, sample: Sequence[Row], together: Measured, at: Context
) -> dict[str, Any]:
    """Rows in one micro-batch, and each in one of its own: the same losses row by row, and the same gradient of the
    step. Computed without dropout, whose masks depend on the cut."""
    each = [[row] for row in sample]
    alone, weights = _measure(spec, made, each)
    if not (together.finite and alone.finite):
        raise ModelError(
            f"before the first step the losses of {len(sample)} rows ({', '.join(row.id for row in sample)}) are "
            f"{', '.join(f'{loss:.4g}' for loss in alone.losses)}, and their gradient is not finite everywhere.",
            remedy="Use train.dtype: fp32, or another base: this one gives numbers that are none before it is trained.",
        )
    off, allowed = together.off(alone, weights), PACKED[made.machine.dtype]
    computed = made.machine.dtype
    magnified = replace(allowed, loss=MAGNIFIED, gradient=2 * allowed.gradient)
    if not off.within(allowed) and off.within(magnified) and _can_widen(made):
        with _in_fp32(made) as wide:
            exact = _measure(spec, wide, [sample])[0].off(_measure(spec, wide, each)[0], weights)
        if exact.within(allowed):  # what the method holds besides (references, a teacher) stays in bf16
            _tell_widened("rows together and one by one", off, at)
            off, computed = exact, "fp32"
    if not off.within(allowed):
        worst = sample[off.losses.index(off.loss)].id
        raise ModelError(
            f"packing changes the result: {len(sample)} rows in one micro-batch and one by one differ by "
            f"{_words(off, allowed)} (row {worst}, {made.machine.dtype}).",
            remedy="This model or method lets rows see each other, so nothing is trained; train.dtype: fp32 tells "
            "whether it is rounding. Please report it with the model's config.json.",
        )
    tokens = sum(row.tokens for row in sample)
    return {"rows": len(sample), "tokens": tokens, **_told(off, allowed, computed)}


def fused(
    spec: TrainSpec, made: Assembly, quick: Quick, sample: Sequence[Row], at: Context
) -> tuple[dict[str, Any], Measured]:
    """The fused parts against their plain twins, on the same rows: figures, and what the run will use. Where they
    differ the fused parts are taken out for the run, and the event `fallback` says so; the compiled kernels are for the caller
    to leave (kernels.plainly)."""
    ours, weights = _measure(spec, made, [sample])
    with quick.off():
        plain, _ = _measure(spec, made, [sample])
    off, allowed = ours.off(plain, weights), FUSED[made.machine.dtype]
    computed = made.machine.dtype
    magnified = replace(allowed, loss=MAGNIFIED)
    if ours.finite and not off.within(allowed) and off.within(magnified) and _can_widen(made):
        with _in_fp32(made) as wide:
            fast = _measure(spec, wide, [sample])[0]
            with quick.off():
                exact = fast.off(_measure(spec, wide, [sample])[0], weights)
        if exact.within(FUSED["fp32"]):
            _tell_widened("fused parts and the plain model", off, at)
            off, allowed, computed = exact, FUSED["fp32"], "fp32"
    told = {"parts": list(quick.parts), "left": dict(quick.left), **_told(off, allowed, computed)}
    if ours.finite and off.within(allowed):
        return {**told, "used": True}, ours
    quick.restore()
    losses.leave_plain(made.model, "on this run's rows it is not the model's own head")
    with kernels.plainly():
        made.prepare_plain()
    at.emit(
        "fallback",
        what="fused parts",
        reason=f"on {len(sample)} rows the fused parts ({', '.join(quick.parts)}) differ from the plain model by "
        f"{_words(off, allowed)}; training goes on without them, more slowly",
    )
    return {**told, "used": False}, plain


def _words(off: Off, allowed: Tolerance) -> str:
    told = f"{off.loss:.2g} in a row's loss (allowed {allowed.loss:g})"
    if off.gradient is None:
        return told
    return (
        f"{told}, {off.gradient:.2g} in the gradient (allowed {allowed.gradient:g}) and up to {off.parameter:.2g} in "
        f"one parameter's (allowed {allowed.parameter:g})"
    )


def _told(off: Off, allowed: Tolerance, computed: str) -> dict[str, Any]:
    """`dtype` is what both ways were computed in. Numbers that are none have no plain form and become None, as where nothing could be compared."""
    found = {"loss": off.loss, "gradient": off.gradient, "parameter": off.parameter}
    told = {
        name: value if value is not None and math.isfinite(value) else None for name, value in found.items()
    }
    return {
        **told,
        "loss_allowed": allowed.loss,
        "gradient_allowed": allowed.gradient,
        "parameter_allowed": allowed.parameter,
        "dtype": computed,
    }


def _measure(spec: TrainSpec, made: Assembly, parts: Sequence[Sequence[Row]]) -> tuple[Measured, list[float]]:
    """Losses and gradient of a step that is cut into these micro-batches, and the rows' weights."""
    batches = [made.method.collate(part) for part in parts]
    weights = [w for batch in batches for w in batch.row_weights]
    found: list[float] = []
    with _without_dropout(made.model), _stirred(spec, made):
        for batch in batches:
            loss = loss_of(spec, made, batch)
            (loss.sum / math.fsum(weights)).backward()
            found += loss.by_row.tolist()
    norms, marks = [], []
    for _, p in made.parameters:
        norms.append(0.0 if p.grad is None else optim.number(p.grad.norm()))
        marks.append(np.zeros(MARKS) if p.grad is None else _marks(p.grad))
        p.grad = None
    return Measured(found, np.array(norms), np.array(marks)), weights


def _tell_widened(what: str, off: Off, at: Context) -> None:
    at.emit(
        "note",
        about="proof",
        message=f"in bf16 {what} differ by {off.loss:.2g} in a row's loss, which this method magnifies; in fp32 they agree",
    )


def _can_widen(made: Assembly) -> bool:
    """Whether bf16 was computed, and there is room for the weights in fp32 beside what is held. Not on CUDA, where attention
    in fp32 is other code; and not where several processes would have to decide alike."""
    if made.machine.device != "cpu" or made.machine.processes > 1:
        return False
    narrow = sum(p.numel() for p in made.model.parameters() if p.dtype == torch.bfloat16)
    return made.machine.dtype == "bf16" and 4 * narrow < WIDENED_SHARE * free_bytes(made.machine.device)


@contextmanager
def _in_fp32(made: Assembly) -> Iterator[Assembly]:
    """The same weights in a wider format; afterwards they lie where they lay."""
    kept = [(p, p.data) for p in made.model.parameters() if p.dtype == torch.bfloat16]
    try:
        for p, narrow in kept:
            p.data = narrow.float()
        yield replace(made, machine=replace(made.machine, dtype="fp32"))
    finally:
        for p, narrow in kept:
            p.data = narrow


@cache
def _signs() -> torch.Tensor:
    """[STRETCH, MARKS] of ±1."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (STRETCH, MARKS), generator=draw).float().mul_(2).sub_(1)


def _marks(gradient: torch.Tensor) -> np.ndarray:
    """Products with vectors of ±1, stretch by stretch, each turned by signs of its own."""
    whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    flat, signs, told = whole.detach().flatten(), _signs(), np.zeros(MARKS)
    for k in range(0, len(flat), STRETCH):
        part = flat[k : k + STRETCH].float().cpu()
        told += (part @ signs[: len(part)]).double().numpy() * signs[k // STRETCH % STRETCH].numpy()
    return told


@contextmanager
def _stirred(spec: TrainSpec, made: Assembly) -> Iterator[None]:
    """Parameters that are zero (LoRA's B, a fresh head) hold small numbers within: where they are zero, half of the
    gradients are, and whatever is computed from them."""
    whole = [p for _, p in made.parameters if not hasattr(p, "full_tensor")]  # not the shards of fsdp
    zero = [p for p in whole if not bool(p.detach().any())]
    draw = torch.Generator().manual_seed(seed_of(spec.seed))
    with torch.no_grad():
        for p in zero:
            p.copy_(torch.randn(p.shape, generator=draw).mul_(STIRRED))
    try:
        yield
    finally:
        with torch.no_grad():
            for p in zero:
                p.zero_()


def sample_of(spec: TrainSpec, made: Assembly, rows: Rows) -> list[Row]:
    """At least two rows (one where there is but one), and as many more as cost little."""
    tokens = np.asarray(rows.tokens)
    shortest = np.argsort(tokens, kind="stable")[:PACKED_ROWS]
    taken = [
        int(i) for k, i in enumerate(shortest) if k < 2 or tokens[shortest[: k + 1]].sum() <= PACKED_TOKENS
    ]
    made.model.eval()
    unfolded = list(made.method.unfold(made.model, [rows[i] for i in taken], seed_of(spec.seed)))
    return groups(unfolded, max(spec.batch.micro_tokens, sum(row.tokens for row in unfolded[:2])))[0]


def loss_of(spec: TrainSpec, made: Assembly, batch: Any) -> Loss:
    """As a step computes it, from a random state that is put back."""
    devices = [torch.cuda.current_device()] if made.machine.device == "cuda" else []
    with torch.random.fork_rng(devices=devices), enough_memory(batch.tokens):
        torch.manual_seed(seed_of(spec.seed))
        with made.machine.precision(made.model):
            return made.method.loss(made.model, batch.to(made.machine.device))


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """Training mode, but nothing is dropped: masks depend on how a step is cut."""
    model.train()
    changed = [
        (module, name, share)
        for module in model.modules()
        for name in ("p", "attention_dropout")
        if isinstance(share := getattr(module, name, None), float) and share > 0
    ]
    for module, name, _ in changed:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, share in changed:
            setattr(module, name, share)
