"""Are two samples drawn from the same? For one window and one reference, looked at once; sequential.py is for looking again.

    mmd           distance of kernel means of vectors, unbiased, p by permutation (Gretton et al., A Kernel Two-Sample Test, JMLR 2012,
                  equation 3; the observed split counts as one permutation, Phipson & Smyth 2010)
    told_apart    can a classifier tell which sample a vector is of? AUC on the half that it has not seen, with DeLong's interval
                  and the exact or normal p of Mann and Whitney (Lopez-Paz & Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017)
    numbers       Kolmogorov and Smirnov's test and the population stability index of one number
    words         chi-squared of one word, rare ones taken together, and the same index

Effects beside every p: with rows enough the smallest difference is significant. A stability index below 0.1 is usually called small,
above 0.25 large (Siddiqi, Credit Risk Scorecards, 2006); by luck alone it is about (bins - 1) (1/n + 1/m), which is told beside it.

Shapes: N and M rows, D coordinates, R permutations, C words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import missing_part

PERMUTATIONS = 500
MOST = 1_000
"""Rows of each sample that are compared by vectors: time grows with the square."""
PSI_BINS = 10
LEAST_EXPECTED = 5.0
"""Of a cell of chi-squared (Cochran 1954)."""


@dataclass(frozen=True)
class Found:
    """`effect` of a test and its p. `low` and `high` bound the effect where there is an interval; `by_luck`: how large it is on
    average where nothing differs."""

    test: str
    effect: float
    p: float
    low: float | None = None
    high: float | None = None
    by_luck: float | None = None


def mmd(one_ND: NDArray[np.int8], other_MD: NDArray[np.int8], seed: int = 0) -> Found:
    """Squared maximum mean discrepancy of a Gaussian kernel whose width is the median distance; may be below zero."""
    one_ND, other_MD = _sample(one_ND, MOST, seed), _sample(other_MD, MOST, seed)
    both = _unit(np.concatenate([one_ND, other_MD]))
    n, m = len(one_ND), len(other_MD)
    if n < 2 or m < 2:
        return Found("mmd", 0.0, 1.0)
    squared = np.maximum(2 - 2 * (both @ both.T), 0)
    middle = float(np.median(squared[np.triu_indices(n + m, 1)])) or 1.0
    kernel = np.exp(-squared / middle)
    np.fill_diagonal(kernel, 0.0)
    generator = np.random.default_rng(seed)
    inside_RN = np.zeros((PERMUTATIONS + 1, n + m), np.float32)
    inside_RN[0, :n] = 1
    for r in range(1, PERMUTATIONS + 1):
        inside_RN[r, generator.permutation(n + m)[:n]] = 1
    whole_N = kernel.sum(1)
    to_RN = inside_RN @ kernel
    within_R = (to_RN * inside_RN).sum(1)
    across_R = inside_RN @ whole_N - within_R
    outside_R = whole_N.sum() - within_R - 2 * across_R
    value_R = within_R / (n * (n - 1)) + outside_R / (m * (m - 1)) - 2 * across_R / (n * m)
    seen = float(value_R[0])
    return Found("mmd", seen, float((value_R >= seen - 1e-9).mean()))


def told_apart(
    one_ND: NDArray[np.int8], other_MD: NDArray[np.int8], seed: int = 0, confidence: float = 0.95
) -> Found:
    """The AUC of a linear discriminant with shrinkage on held-out halves; 0.5 is luck."""
    stats = _scipy()
    one_ND, other_MD = _sample(one_ND, 4 * MOST, seed), _sample(other_MD, 4 * MOST, seed)
    if min(len(one_ND), len(other_MD)) < 10:
        return Found("domain classifier", 0.5, 1.0)
    generator = np.random.default_rng(seed)
    halves = []
    for sample in (one_ND, other_MD):
        order = generator.permutation(len(sample))
        halves.append((_unit(sample[order[::2]]), _unit(sample[order[1::2]])))
    (learn_one, judge_one), (learn_other, judge_other) = halves
    way = _discriminant(learn_one, learn_other)
    here, there = judge_one @ way, judge_other @ way
    p = float(stats.mannwhitneyu(there, here, alternative="greater").pvalue)
    auc, spread = delong(there, here)
    far = float(stats.norm.ppf((1 + confidence) / 2)) * spread
    return Found("domain classifier", auc, p, max(0.0, auc - far), min(1.0, auc + far))


def _discriminant(one_ND: NDArray[np.float32], other_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fisher's, with the covariance drawn half-way to a sphere."""
    middle = [one_ND.mean(0), other_MD.mean(0)]
    left = np.concatenate([one_ND - middle[0], other_MD - middle[1]])
    covariance = left.T @ left / len(left)
    sphere = np.eye(len(covariance)) * max(float(np.trace(covariance)) / len(covariance), 1e-9)
    return np.asarray(np.linalg.solve((covariance + sphere) / 2, middle[1] - middle[0]), np.float32)


def delong(above_N: NDArray[np.floating], below_M: NDArray[np.floating]) -> tuple[float, float]:
    """(AUC: how often one of `above` exceeds one of `below`, its standard error): DeLong, DeLong & Clarke-Pearson 1988.

    >>> delong(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    (1.0, 0.0)
    """
    sorted_M, sorted_N = np.sort(below_M), np.sort(above_N)

    def share(value: NDArray[np.floating], sample: NDArray[np.floating]) -> NDArray[np.float64]:
        low, high = np.searchsorted(sample, value, "left"), np.searchsorted(sample, value, "right")
        return (low + high) / (2 * len(sample))

    over_N, under_M = share(above_N, sorted_M), 1 - share(below_M, sorted_N)
    n, m = len(above_N), len(below_M)
    variance = (over_N.var(ddof=1) / n if n > 1 else 0.0) + (under_M.var(ddof=1) / m if m > 1 else 0.0)
    return float(over_N.mean()), float(np.sqrt(variance))


def numbers(usual_N: NDArray[np.float64], window_M: NDArray[np.float64]) -> tuple[Found, Found]:
    """(Kolmogorov-Smirnov, stability index); values that are not there are left out by the caller."""
    stats = _scipy()
    tested = stats.ks_2samp(usual_N, window_M, method="auto")
    edges = np.unique(np.quantile(usual_N, np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, x, "left"), minlength=len(edges) + 1) for x in (usual_N, window_M)
    ]
    return Found("KS", float(tested.statistic), float(tested.pvalue)), psi(*counts)


def words(usual: Sequence[str], window: Sequence[str]) -> tuple[Found, Found]:
    """(chi-squared with Cramér's V as its effect, stability index)."""
    stats = _scipy()
    here, there = Counter(usual), Counter(window)
    names = sorted(set(here) | set(there))
    one, other = (np.array([count[name] for name in names], np.int64) for count in (here, there))
    expected = (one + other) * min(one.sum(), other.sum()) / max(1, (one + other).sum())
    rare = expected < LEAST_EXPECTED
    pooled = np.array([np.append(x[~rare], x[rare].sum()) for x in (one, other)])
    pooled = pooled[:, pooled.sum(0) > 0]
    if pooled.shape[1] < 2:
        return Found("chi-squared", 0.0, 1.0), psi(one, other)
    tested = stats.chi2_contingency(pooled, correction=False)
    effect = float(np.sqrt(tested.statistic / pooled.sum()))
    return Found("chi-squared", effect, float(tested.pvalue)), psi(one, other)


def psi(usual_C: NDArray[np.int64], window_C: NDArray[np.int64]) -> Found:
    """Population stability index: sum of (w - u) ln(w / u) over shares, each count raised by a half so that none is zero. It has
    no p.

    >>> round(psi(np.array([50, 50]), np.array([50, 50])).effect, 6), psi(np.array([900, 100]), np.array([500, 500])).effect > 0.8
    (0.0, True)
    """
    n, m = usual_C.sum(), window_C.sum()
    u_C, w_C = ((x + 0.5) / (x.sum() + 0.5 * len(x)) for x in (usual_C, window_C))
    value = float(((w_C - u_C) * np.log(w_C / u_C)).sum())
    luck = (len(usual_C) - 1) * (1 / max(1, n) + 1 / max(1, m))
    return Found("PSI", value, float("nan"), by_luck=float(luck))


def _sample(rows: NDArray[np.int8], most: int, seed: int) -> NDArray[np.int8]:
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


def _unit(rows: NDArray[np.int8]) -> NDArray[np.float32]:
    told = rows.astype(np.float32)
    return told / np.maximum(np.sqrt((told * told).sum(1, keepdims=True)), 1e-9)


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise missing_part("scipy", "train", "A report of drift") from None
    return stats
