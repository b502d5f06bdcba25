"""Could a difference be luck, and how small a difference could this test split show at all?

    permutation   p of a paired difference, for any metric: each row's two answers are swapped or not, at random
                  (Noreen 1989; Riezler & Maxwell 2005)
    mcnemar       exact p of right against wrong, from the rows that only one of the two has right (McNemar 1947)
    holm          p values of several questions asked at once, corrected so that one false alarm in all of them stays
                  as rare as asked (Holm 1979)
    detectable    the difference that the interval would find, with 80 % power, if it were there

Shapes: N rows, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .compare import Statistics

POWER = 0.8
_AT_ONCE = 200_000


def permutation(
    both: Statistics, rows: int, found: dict[str, float], resamples: int, seed: int
) -> dict[str, float]:
    """Metric -> two-sided p. `both` is of 2N answers: those of one system, then those of the other to the same rows; `found`
    are the differences seen. The split that was seen counts as one of the R + 1, so p is never 0 (Phipson & Smyth 2010)."""
    generator = np.random.default_rng(seed)
    as_far = dict.fromkeys(found, 0)
    counted = dict.fromkeys(found, 0)
    own_N = np.arange(rows)
    for start in range(0, resamples, piece := max(1, _AT_ONCE // rows)):
        swap_RN = generator.random((min(piece, resamples - start), rows)) < 0.5
        here_RN = own_N + np.where(swap_RN, rows, 0)
        there_RN = own_N + np.where(swap_RN, 0, rows)
        here, there = both(here_RN), both(there_RN)
        for name, seen in found.items():
            apart_R = np.abs(here[name] - there[name])
            counted[name] += int(np.isfinite(apart_R).sum())
            # rounding must not make an equal split a smaller one
            as_far[name] += int((apart_R >= abs(seen) - 1e-12 * max(1.0, abs(seen))).sum())
    return {name: (as_far[name] + 1) / (counted[name] + 1) for name in found}


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p that the rows on which two systems part fall so unevenly.

    >>> mcnemar(0, 0), mcnemar(1, 5), round(mcnemar(10, 2), 4)  # 2 * (1 + 6) / 2**6; 2 * (1 + 12 + 66) / 2**12
    (1.0, 0.21875, 0.0386)
    """
    n, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Each p as it counts among all of them.

    >>> [round(one, 3) for one in holm([0.01, 0.04, 0.03])]  # 3 * 0.01; 2 * 0.03; max(that, 1 * 0.04)
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = highest
    return corrected


def detectable(apart_R: NDArray[np.float64], confidence: float) -> float | None:
    """The least true difference that an interval of this confidence tells from zero in four of five repetitions, from the
    spread of the resampled differences: (z of the confidence + z of the power) standard errors. None where there is no spread
    to learn from."""
    there = apart_R[np.isfinite(apart_R)]
    spread = float(there.std(ddof=1)) if len(there) > 1 else 0.0
    if spread == 0:
        return None
    normal = NormalDist()
    return (normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(POWER)) * spread


def rows_for(difference: float, detectable: float, rows: int) -> int:
    """How many rows such a difference would need: the spread falls with the square root of them.

    >>> rows_for(0.03, 0.06, 100)
    400
    """
    return math.ceil(rows * (detectable / abs(difference)) ** 2 - 1e-9)
