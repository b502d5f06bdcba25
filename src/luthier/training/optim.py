"""AdamW under a learning-rate schedule, with its state as named tensors (Loshchilov and Hutter 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .spec import TrainSpec

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
IA3 = "ia3_l"
"""In the names of IA³'s factors: scales around 1, though peft gives them two dimensions."""


def learning_rate(spec: TrainSpec, step: int, total: int) -> float:
    """The rate of a step (1-based): a straight rise to the peak, then the schedule. No step has rate zero."""
    peak, rising = spec.peak_learning_rate, math.ceil(spec.warmup * total)
    if step <= rising:
        return peak * step / rising
    share = (step - 1 - rising) / (total - rising)
    if spec.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    return peak * (1 - share) if spec.schedule == "linear" else peak


def build(parameters: Sequence[tuple[str, Any]], spec: TrainSpec) -> torch.optim.AdamW:
    """Decay is for matrices: a scale or a bias pulled to zero loses what it is for."""
    decays = {name for name, p in parameters if p.dim() >= 2 and IA3 not in name.split(".")}
    groups = [
        {"params": [p for name, p in parameters if name in decays], "weight_decay": spec.weight_decay},
        {"params": [p for name, p in parameters if name not in decays], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=spec.peak_learning_rate, fused=True)


def state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Sequence[tuple[str, Any]]
) -> dict[str, Tensor]:
    """ "exp_avg.NAME", "exp_avg_sq.NAME", "step.NAME"; empty before the first step."""
    return {
        f"{moment}.{name}": optimizer.state[p][moment]
        for name, p in parameters
        if p in optimizer.state
        for moment in _MOMENTS
    }


def restore(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[tuple[str, Any]],
    tensors: Mapping[str, Tensor],
    like: Callable[[Any, Tensor], Tensor] = lambda p, whole: whole.to(p.device),
) -> None:
    """Put a stored state back, exactly. The inverse of `state_tensors`. `like` lays a tensor out as a parameter is.
    A parameter that never had a gradient has no moments."""
    for name, p in parameters:
        if f"step.{name}" in tensors:
            optimizer.state[p] = {moment: like(p, tensors[f"{moment}.{name}"]) for moment in _MOMENTS}


def gradient_norm(parameters: Sequence[tuple[str, Any]], clip: float | None) -> float:
    """Norm over all gradients before clipping; they are scaled to `clip` if longer. inf or nan if any is."""
    limit = math.inf if clip is None else clip
    norm = torch.nn.utils.clip_grad_norm_([p for _, p in parameters], limit)
    return number(norm)


def number(tensor: Any) -> float:
    """A scalar's value, gathered first where parameters are sharded."""
    return float(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)
