"""How far one model's next-token distribution is from another's, differentiable in the first: for learning from a
teacher with the same vocabulary. Both heads run a slice of positions at a time, so that no more than a slice of logits is
ever there; the gradient is computed in the forward pass, as in losses.py.

    forward   T²·KL(p_teacher ‖ p)     covers whatever the teacher might say   (Hinton et al. 2015, section 2)
    reverse   T²·KL(p ‖ p_teacher)     says what the teacher surely would      (Agarwal et al. 2024, "GKD", section 3.1)

T² keeps the gradient's size whatever the temperature. Legend: S positions, V vocabulary that both share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .losses import SLICE_BYTES, THINNEST, Head, plain, read_hidden, vocabulary_head

Direction = Literal["forward", "reverse"]


def divergences(student_SV: Tensor, teacher_SV: Tensor, temperature: float, direction: Direction) -> Tensor:
    """T²·KL in nats, [S], from logits."""
    student_SV = torch.log_softmax(student_SV.float() / temperature, -1)
    teacher_SV = torch.log_softmax(teacher_SV.float() / temperature, -1)
    said_SV, other_SV = (teacher_SV, student_SV) if direction == "forward" else (student_SV, teacher_SV)
    return temperature**2 * (said_SV.exp() * (said_SV - other_SV)).sum(-1)


@dataclass(frozen=True)
class Wish:
    """`labels` is the share of the cross-entropy with the targets; the rest is the divergence."""

    temperature: float
    direction: Direction
    labels: float
    width: int  # logits beyond belong to no token


@dataclass(frozen=True)
class Told:
    """`sum` is a differentiable scalar; the others are detached and fp32, before weights."""

    sum: Tensor
    divergences_S: Tensor
    losses_S: Tensor  # cross-entropy with the targets


def weighted_divergence(
    student: Any,
    teacher: Any,
    inputs: Mapping[str, Any],
    keep_S: Tensor,
    targets_S: Tensor,
    weights_S: Tensor,
    wish: Wish,
) -> Told:
    """Σ wᵢ·((1 - labels)·divergenceᵢ + labels·(-ln p(targetᵢ))). The teacher gets no gradient."""
    if plain(student, teacher):
        return plain_weighted_divergence(student, teacher, inputs, keep_S, targets_S, weights_S, wish)
    with torch.no_grad():
        theirs = _Side(*read_hidden(teacher, inputs, keep_S), vocabulary_head(teacher))
    hidden_SD, weight_VD, bias_V = read_hidden(student, inputs, keep_S)
    head = vocabulary_head(student)
    given = head, theirs, targets_S, weights_S, wish, torch.is_grad_enabled()
    return Told(*_Divergence.apply(hidden_SD, weight_VD, bias_V, *given))


def plain_weighted_divergence(
    student: Any,
    teacher: Any,
    inputs: Mapping[str, Any],
    keep_S: Tensor,
    targets_S: Tensor,
    weights_S: Tensor,
    wish: Wish,
) -> Told:
    """What `weighted_divergence` must equal, gradients included."""
    with torch.no_grad():
        theirs_SV = teacher(**inputs, logits_to_keep=keep_S, use_cache=False).logits[0]
    ours_SV = student(**inputs, logits_to_keep=keep_S, use_cache=False).logits[0]
    apart_S, losses_S = _both(ours_SV, theirs_SV, targets_S, wish)
    told = _mixed(apart_S, losses_S, weights_S, wish)
    return Told(told, apart_S.detach(), losses_S.detach())


def _both(ours_SV: Tensor, theirs_SV: Tensor, targets_S: Tensor, wish: Wish) -> tuple[Tensor, Tensor]:
    apart_S = divergences(
        ours_SV[:, : wish.width], theirs_SV[:, : wish.width], wish.temperature, wish.direction
    )
    return apart_S, cross_entropy(ours_SV.float(), targets_S, reduction="none")


def _mixed(apart_S: Tensor, losses_S: Tensor, weights_S: Tensor, wish: Wish) -> Tensor:
    return (((1 - wish.labels) * apart_S + wish.labels * losses_S) * weights_S).sum()


@dataclass(frozen=True)
class _Side:
    """Hidden states at the kept positions, and the head above them."""

    hidden_SD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    head: Head

    def logits(self, rows: slice) -> Tensor:
        hidden_SD = self.hidden_SD[rows]
        if not torch.is_autocast_enabled(hidden_SD.device.type):
            hidden_SD = hidden_SD.to(self.weight_VD.dtype)
        return self.head.logits(hidden_SD, self.weight_VD, self.bias_V)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Head,
        theirs: _Side,
        targets_S: Tensor,
        weights_S: Tensor,
        wish: Wish,
        learn: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, vocabulary = len(hidden_SD), len(weight_VD)
        ours = _Side(
            hidden_SD.detach(), weight_VD.detach(), None if bias_V is None else bias_V.detach(), head
        )
        parts = (ours.hidden_SD, ours.weight_VD, ours.bias_V)
        wanted = {
            i: one for i, one in enumerate(parts) if learn and one is not None and ctx.needs_input_grad[i]
        }
        sums = {i: torch.zeros_like(one) for i, one in wanted.items()}
        for one in wanted.values():
            one.requires_grad_(True)
        total = torch.zeros((), device=hidden_SD.device)
        apart_S, losses_S = (torch.zeros(count, device=hidden_SD.device) for _ in range(2))
        rows_at_once = max(THINNEST, SLICE_BYTES // (vocabulary * 4))
        for begin in range(0, count, rows_at_once):
            rows = slice(begin, min(begin + rows_at_once, count))
            with torch.set_grad_enabled(bool(wanted)):
                found = _both(ours.logits(rows), theirs.logits(rows), targets_S[rows], wish)
                part = _mixed(*found, weights_S[rows], wish)
            total += part.detach()
            apart_S[rows], losses_S[rows] = found[0].detach(), found[1].detach()
            if wanted:
                grads = torch.autograd.grad(part, list(wanted.values()))
                for i, grad in zip(wanted, grads, strict=True):
                    sums[i] += grad
        ctx.save_for_backward(*(sums.get(i) for i in range(3)))
        ctx.mark_non_differentiable(apart_S, losses_S)
        return total, apart_S, losses_S

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return (
            *(None if one is None else one * grad for one in ctx.saved_tensors),
            *(None for _ in range(6)),
        )
