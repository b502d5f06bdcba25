"""Two ways of computing one step must agree: rows together and rows alone, fused parts and the plain model.

Row by row in the loss, and in two numbers of each parameter's gradient; on a few short rows, before the first step.
What is done about a difference is in `packing` (the run stops) and `fused` (the plain model is used). See
training/proof for the other laws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.stage import Context

from . import optim
from .assembly import Assembly
from .loop import groups, seed_of
from .machine import enough_memory
from .method import Loss
from .rows import Row, Rows
from .spec import TrainSpec

if TYPE_CHECKING:
    from luthier.models.fast import Quick

PACKED_ROWS = 3
PACKED_TOKENS = 256
NOTHING = 1e-3  # a row's loss, against its weight, that leaves nothing to learn


@dataclass(frozen=True)
class Tolerance:
    """Largest relative differences of a row's loss and of the gradient between two ways of computing a step.

    fp32: sums in another order. bf16: each product is rounded to 8 bits. Packed and alone round alike (found: 1e-4 and
    2e-3). Fused parts round in other places than plain ones: both are equally far from fp32 with the same weights
    (found: 8e-3 in a short row's loss, 4e-2 in the gradient; docs/log.md), so up to twice that from each other.
    """

    loss: float
    gradient: float


PACKED: dict[Literal["fp32", "bf16"], Tolerance] = {
    "fp32": Tolerance(loss=1e-4, gradient=1e-3),
    "bf16": Tolerance(loss=1e-2, gradient=5e-2),
}
FUSED: dict[Literal["fp32", "bf16"], Tolerance] = {
    "fp32": PACKED["fp32"],
    "bf16": Tolerance(loss=4e-2, gradient=0.15),
}


@dataclass(frozen=True)
class Measured:
    """Some rows' losses, and two numbers for each parameter's gradient: its norm and its sum. Holding two whole
    gradients beside each other would cost more memory than training does."""

    losses: list[float]
    marks: list[float]

    def off(self, other: Measured, weights: Sequence[float]) -> tuple[list[float], float]:
        """Relative differences of each row's loss and of the gradient. A loss near zero (of a policy, say) is
        compared on the scale of its weight."""
        losses = [
            abs(a - b) / (abs(b) + abs(w)) for a, b, w in zip(self.losses, other.losses, weights, strict=True)
        ]
        if all(abs(b) <= NOTHING * abs(w) for b, w in zip(other.losses, weights, strict=True)):
            return (
                losses,
                0.0,
            )  # a student that is its teacher already: what is left of the gradient is rounding
        scale = max(math.hypot(*self.marks), math.hypot(*other.marks), 1e-30)
        return losses, math.dist(self.marks, other.marks) / scale

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, [*self.losses, *self.marks]))


def together(spec: TrainSpec, made: Assembly, sample: Sequence[Row]) -> Measured:
    """The rows in one micro-batch, as the model now is."""
    return _measure(spec, made, [sample])[0]


def packing(spec: TrainSpec, made: Assembly, sample: Sequence[Row], together: Measured) -> dict[str, Any]:
    """Rows in one micro-batch, and each in one of its own: the same losses row by row, and the same gradient of the
    step. Computed without dropout, whose masks depend on the cut."""
    alone, weights = _measure(spec, made, [[row] for row in sample])
    if not (together.finite and alone.finite):
        raise ModelError(
            f"before the first step the losses of {len(sample)} rows ({', '.join(row.id for row in sample)}) are "
            f"{', '.join(f'{loss:.4g}' for loss in alone.losses)}, and their gradient is not finite everywhere.",
            remedy="Use train.dtype: fp32, or another base: this one gives numbers that are none before it is trained.",
        )
    off, gradient = together.off(alone, weights)
    loss, allowed = max(off), PACKED[made.machine.dtype]
    if loss > allowed.loss or gradient > allowed.gradient:
        worst = sample[off.index(loss)].id
        raise ModelError(
            f"packing changes the result: {len(sample)} rows in one micro-batch and one by one differ by {loss:.2g} in "
            f"a row's loss (row {worst}, allowed {allowed.loss:g}) and by {gradient:.2g} in the gradient "
            f"(allowed {allowed.gradient:g}, {made.machine.dtype}).",
            remedy="This model or method lets rows see each other, so nothing is trained; train.dtype: fp32 tells "
            "whether it is rounding. Please report it with the model's config.json.",
        )
    tokens = sum(row.tokens for row in sample)
    return {"rows": len(sample), "tokens": tokens, **_told(loss, gradient, allowed, made)}


def fused(
    spec: TrainSpec, made: Assembly, quick: Quick, sample: Sequence[Row], at: Context
) -> tuple[dict[str, Any], Measured]:
    """The fused parts against their plain twins, on the same rows: figures, and what the run will use. Where they
    differ the fused parts are taken out for the run, and the event `fallback` says so."""
    ours, weights = _measure(spec, made, [sample])
    with quick.off():
        plain, _ = _measure(spec, made, [sample])
    off, gradient = ours.off(plain, weights)
    loss, allowed = max(off), FUSED[made.machine.dtype]
    told = {"parts": list(quick.parts), "left": dict(quick.left), **_told(loss, gradient, allowed, made)}
    if ours.finite and loss <= allowed.loss and gradient <= allowed.gradient:
        return {**told, "used": True}, ours
    quick.restore()
    at.emit(
        "fallback",
        what="fused parts",
        reason=f"on {len(sample)} rows the fused parts ({', '.join(quick.parts)}) differ from the plain model by "
        f"{loss:.2g} in a row's loss (allowed {allowed.loss:g}) and by {gradient:.2g} in the gradient (allowed "
        f"{allowed.gradient:g}); training goes on without them, more slowly",
    )
    return {**told, "used": False}, plain


def _told(loss: float, gradient: float, allowed: Tolerance, made: Assembly) -> dict[str, Any]:
    return {
        "loss": loss,
        "loss_allowed": allowed.loss,
        "gradient": gradient,
        "gradient_allowed": allowed.gradient,
        "dtype": made.machine.dtype,
    }


def _measure(spec: TrainSpec, made: Assembly, parts: Sequence[Sequence[Row]]) -> tuple[Measured, list[float]]:
    """Losses and gradient of a step that is cut into these micro-batches, and the rows' weights."""
    batches = [made.method.collate(part) for part in parts]
    weights = [w for batch in batches for w in batch.row_weights]
    losses: list[float] = []
    with _without_dropout(made.model):
        for batch in batches:
            found = loss_of(spec, made, batch)
            (found.sum / math.fsum(weights)).backward()
            losses += found.by_row.tolist()
    marks = []
    for _, p in made.parameters:
        if p.grad is not None:
            marks += [optim.number(p.grad.norm()), optim.number(p.grad.sum())]
            p.grad = None
    return Measured(losses, marks), weights


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
