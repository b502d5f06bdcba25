"""Is the fast form of a model the same model? Loss and gradients of one real batch, against the plain form.

    found = compare(lambda: loss(batch), parameters, quick, TOLERANCES["bf16"])
    found.ok or quick.restore()

Two runs in different roundings are never equal to the bit, so gradients are compared as one long vector:
‖fast - plain‖ / ‖plain‖. In fp32 a right form is at 1e-6 here and a wrong one (a lost bias, a wrong scale) far above
1e-3. In bf16 each product rounds to 8 bits and the plain form is no nearer to the truth than the fast one: single
numbers near zero may differ by their own size, the whole vector by a few percent.
Not here: deciding what to do about a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from . import Quick


@dataclass(frozen=True)
class Tolerance:
    """Largest relative difference of the loss, and of all gradients as one vector."""

    loss: float
    gradient: float


TOLERANCES: Mapping[str, Tolerance] = {"fp32": Tolerance(1e-5, 1e-4), "bf16": Tolerance(1e-2, 0.15)}


@dataclass(frozen=True)
class Differences:
    """Relative differences, fast against plain. A NaN is never `ok`."""

    loss_rel: float
    gradient_rel: float
    ok: bool


def compare(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], quick: Quick, tolerance: Tolerance
) -> Differences:
    """Run `loss` (a scalar, under whatever autocast training uses) and its backward pass twice. Must be given no
    gradients and leaves none; random numbers (dropout) are drawn twice alike and put back."""
    moving = [p for p in parameters if p.requires_grad]
    before = torch.random.get_rng_state()
    fast_loss, fast = _gradients(loss, moving)
    torch.random.set_rng_state(before)
    with quick.off():
        plain_loss, plain = _gradients(loss, moving)
    torch.random.set_rng_state(before)
    loss_rel = abs(fast_loss - plain_loss) / max(abs(plain_loss), 1e-12)
    apart, size = 0.0, 0.0
    for ours, theirs in zip(fast, plain, strict=True):
        if ours is None and theirs is None:
            continue
        a, b = (torch.zeros(()) if g is None else g.detach().float() for g in (ours, theirs))
        apart += float((a - b).square().sum(dtype=torch.float64))
        size += float(b.square().sum(dtype=torch.float64))
    gradient_rel = (apart / size) ** 0.5 if size else float(apart > 0)
    ok = loss_rel <= tolerance.loss and gradient_rel <= tolerance.gradient
    return Differences(loss_rel, gradient_rel, ok)


def _gradients(loss: Callable[[], Tensor], moving: list[Tensor]) -> tuple[float, list[Tensor | None]]:
    told = loss()
    told.backward()
    grads = [p.grad for p in moving]
    for p in moving:
        p.grad = None
    return float(told.detach()), grads
