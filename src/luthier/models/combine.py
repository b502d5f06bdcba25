"""Several models of one base become one, tensor by tensor in fp32. What each law does to one tensor:

    linear            Σ wᵢ·mᵢ / Σ wᵢ
    task_arithmetic   b + Σ wᵢ·(mᵢ - b)                            (Ilharco et al. 2023); a negative weight takes a task out
    ties              trim each mᵢ - b to its largest, elect a sign, mean of those that have it  (Yadav et al. 2023, alg. 1)
    dare              drop each number of mᵢ - b by chance, divide the rest by the share that stays; then as
                      task_arithmetic or ties                       (Yu et al. 2024, section 3.2)
    slerp             along the arc between two models              (Shoemake 1985)

Trimming and arcs are by tensor, as all tools of the field do it; the paper of TIES trims a model as a whole.
Legend: b the base's tensor, m a model's, τ = m - b; all fp32 and of one shape. Pure: no files here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

Tensor = Any
_NEARLY_PARALLEL = 1e-6
"""sin Ω below which an arc is a straight line to rounding."""


def linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean. The weights' sum must not be zero."""
    total = sum(weights)
    if len(models) == 1:
        return models[0]
    result = models[0] * (weights[0] / total)
    for model, weight in zip(models[1:], weights[1:], strict=True):
        result.add_(model, alpha=weight / total)
    return result


def task_arithmetic(base: Tensor, models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The base and its weighted task vectors."""
    return base + _sum([model - base for model in models], weights)


def ties(base: Tensor, models: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """`density`: the share of each task vector that is kept, the largest by size."""
    return base + _agreed([trimmed(model - base, density) for model in models], weights)


def dare(
    base: Tensor,
    models: Sequence[Tensor],
    weights: Sequence[float],
    density: float,
    seed: int,
    name: str,
    *,
    elect: bool,
) -> Tensor:
    """`name` and `seed` and a model's place say what is dropped, so nothing else changes it. `elect`: then as ties."""
    left = [dropped(model - base, density, seed, f"{i}:{name}") for i, model in enumerate(models)]
    return base + (_agreed(left, weights) if elect else _sum(left, weights))


def slerp(one: Tensor, other: Tensor, t: float) -> Tensor:
    """From `one` (t = 0) to `other` (t = 1); straight where they point the same or the opposite way, or one is zero."""
    import torch

    if t in (0.0, 1.0):
        return other if t else one
    lengths = one.double().norm(), other.double().norm()
    if min(lengths) == 0:
        return torch.lerp(one, other, t)
    cosine = ((one.double() * other.double()).sum() / (lengths[0] * lengths[1])).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if torch.sin(angle) < _NEARLY_PARALLEL:
        return torch.lerp(one, other, t)
    first, second = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return one * float(first) + other * float(second)


def trimmed(vector: Tensor, density: float) -> Tensor:
    """The `density` share of largest numbers, the others zero; of equal ones at the border all stay.

    >>> import torch
    >>> trimmed(torch.tensor([1.0, -3.0, 2.0, 0.5]), 0.5).tolist()
    [0.0, -3.0, 2.0, 0.0]
    """
    import torch

    keep = max(1, round(density * vector.numel())) if vector.numel() else 0
    if keep >= vector.numel():
        return vector
    sizes = vector.abs().flatten()
    border = torch.kthvalue(sizes, sizes.numel() - keep + 1).values
    return torch.where(vector.abs() >= border, vector, torch.zeros_like(vector))


def dropped(vector: Tensor, density: float, seed: int, name: str) -> Tensor:
    """Each number stays by the chance `density` and is divided by it, so that the mean over seeds is the vector."""
    import torch

    told = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(told[:8], "little") >> 1)
    stays = torch.rand(vector.shape, generator=draw) < density
    return torch.where(stays, vector / density, torch.zeros_like(vector))


def _sum(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    result = vectors[0] * weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        result.add_(vector, alpha=weight)
    return result


def _agreed(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """At each place the sign with the greater mass, and the weighted mean of the numbers that have it."""
    import torch

    elected = torch.sign(_sum(vectors, weights))
    total, mass = torch.zeros_like(elected), torch.zeros_like(elected)
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = (torch.sign(vector * weight) == elected) & (vector != 0)
        total += torch.where(agrees, vector * weight, torch.zeros_like(vector))
        mass += agrees * abs(weight)
    return torch.where(mass > 0, total / mass.clamp_min(torch.finfo(mass.dtype).tiny), torch.zeros_like(mass))
