"""How far two who judged the same agree, beyond luck.

    kappa      of categories (Cohen 1960): (seen - by luck) / (1 - by luck)
    spearman   of grades (Spearman 1904): the correlation of ranks, of equals the mean rank

Shapes: N pairs of verdicts, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import compare


def kappa(one_N: NDArray[np.int64], other_N: NDArray[np.int64]) -> float:
    """NaN where both always say the same one thing: then nothing can be told from luck.

    >>> kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))  # seen 3/4, by luck (2*1 + 2*3) / 16 = 1/2
    0.5
    """
    n = len(one_N)
    seen = float((one_N == other_N).mean())
    kinds = max(int(one_N.max()), int(other_N.max())) + 1
    luck = float((np.bincount(one_N, minlength=kinds) * np.bincount(other_N, minlength=kinds)).sum()) / n**2
    return (seen - luck) / (1 - luck) if luck < 1 else float("nan")


def spearman(one_N: NDArray[np.float64], other_N: NDArray[np.float64]) -> float:
    """NaN where one of the two always gives the same grade.

    >>> round(spearman(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])), 9)  # 1 - 6 * (0 + 1 + 1) / (3 * 8)
    0.5
    """
    a, b = ranks(one_N), ranks(other_N)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / spread if spread > 0 else float("nan")


def ranks(value_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the least; equals share the mean of their ranks.

    >>> ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, count = np.unique(value_N, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return mean


def with_interval(
    measure: Callable[[NDArray[Any], NDArray[Any]], float],
    one: Sequence[float],
    other: Sequence[float],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, float | int | None]:
    """{"value", "low", "high", "rows"}: over resamples of the pairs; what cannot be known is None."""
    a, b = np.array(one), np.array(other)
    n = len(a)
    if n < 2:
        return {"value": None, "low": None, "high": None, "rows": n}
    value = measure(a, b)
    drawn = [
        measure(a[index_N], b[index_N])
        for index_RN in compare.draws(n, resamples, seed)
        for index_N in index_RN
    ]
    within = compare.interval(np.array(drawn), confidence, n)
    return {
        "value": float(value) if np.isfinite(value) else None,
        "low": within[0] if within else None,
        "high": within[1] if within else None,
        "rows": n,
    }
