"""How sure is a difference? The paired bootstrap over rows, vectorised.

Rows are drawn with replacement, the same rows for both systems, and the metric's difference is computed on each
draw; the interval is the expanded percentiles of those differences. Sources: Efron & Tibshirani, An Introduction to
the Bootstrap (1993), chapter 13 (percentile intervals); Hesterberg, What Teachers Should Know About the Bootstrap
(2015), section 5.3.2 (plain percentiles of N rows are too narrow by what parts the normal from Student's t, and by
N - 1 in the place of N); Koehn, Statistical Significance Tests for Machine Translation Evaluation (EMNLP 2004),
section 4 (paired draws). `benchmarks/intervals.py` measures how often they hold.

Rows are taken in the order of their ids and draws come from the seed, so the same predictions in any order give
the same interval.

Shapes: N rows, R resamples, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import missing_part

from . import significance

if TYPE_CHECKING:
    import pyarrow as pa

Statistics = Callable[[NDArray[np.int64]], dict[str, NDArray[np.float64]]]
"""index_RN -> metric -> values_R: every metric of one system on every resample."""

_DRAWN_AT_ONCE = 200_000  # what stays in a cache
DEFINED = 0.95
"""The least share of resamples on which a metric must be a number. R² is none where all rows drawn are alike, and no
error is where none of them was answered; of what is left, percentiles would tell too little."""


def of_labels(truth_N: NDArray[np.int64], said_N: NDArray[np.int64], labels: int) -> Statistics:
    """Accuracy and the macro averages, from counts per label; the definitions are those of `metrics`."""
    hit_N = truth_N == said_N
    right_N = np.where(hit_N, truth_N, labels)  # the extra last place collects the misses

    def statistics(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        truth_RK = _counts(truth_N, index_RN, labels + 1)[:, :labels]
        called_RK = _counts(said_N, index_RN, labels + 1)  # the last: what is no label
        said_RK = called_RK[:, :labels]
        right_RK = _counts(right_N, index_RN, labels + 1)[:, :labels]
        present_RK = truth_RK > 0
        present_R = present_RK.sum(1)

        def macro(numerator_RK: NDArray[Any], denominator_RK: NDArray[Any]) -> NDArray[np.float64]:
            ratio_RK = numerator_RK / np.maximum(denominator_RK, 1)  # 0/0 is 0, as zero_division=0
            return np.where(present_RK, ratio_RK, 0.0).sum(1) / present_R

        rows, right_R = index_RN.shape[1], right_RK.sum(1)
        f1_RK = 2 * right_RK / np.maximum(truth_RK + said_RK, 1)
        # Gorodkin 2004, equation 8, over counts; 0 where one side is all one label
        by_luck_R = (truth_RK * said_RK).sum(1)
        spread_R = 1.0 * (rows**2 - (truth_RK**2).sum(1)) * (rows**2 - (called_RK**2).sum(1))
        return {
            "accuracy": right_R / rows,
            "precision_macro": macro(right_RK, said_RK),
            "recall_macro": macro(right_RK, truth_RK),
            "macro_f1": macro(2 * right_RK, truth_RK + said_RK),
            "weighted_f1": (truth_RK * f1_RK).sum(1) / rows,
            "mcc": (right_R * rows - by_luck_R) / np.sqrt(np.where(spread_R > 0, spread_R, np.inf)),
        }

    return statistics


def _counts(place_N: NDArray[np.int64], index_RN: NDArray[np.int64], places: int) -> NDArray[np.int64]:
    resamples = index_RN.shape[0]
    flat = place_N[index_RN] + np.arange(resamples, dtype=np.int64)[:, None] * places
    return np.bincount(flat.ravel(), minlength=resamples * places).reshape(resamples, places)


def of_mean(metric: str, value_N: NDArray[np.float64]) -> Statistics:
    """The mean of one value per row, over the rows that have one (NaN: has none)."""
    has_N = np.isfinite(value_N)
    filled_N = np.where(has_N, value_N, 0.0)

    def statistics(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):  # no row drawn has one: that is no number
            return {metric: filled_N[index_RN].sum(1) / has_N[index_RN].sum(1)}

    return statistics


def of_perplexity(loss_sum_N: NDArray[np.float64], loss_tokens_N: NDArray[np.int64]) -> Statistics:
    """exp(total loss / total tokens). Every row needs a loss."""

    def statistics(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        return {"perplexity": np.exp(loss_sum_N[index_RN].sum(1) / loss_tokens_N[index_RN].sum(1))}

    return statistics


def together(parts: Sequence[Statistics]) -> Statistics:
    """Several as one."""
    return lambda index_RN: {name: values for part in parts for name, values in part(index_RN).items()}


def draws(rows: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The drawn row numbers, [R, N] in all, in pieces of bounded memory."""
    generator = np.random.default_rng(seed)
    piece = max(1, _DRAWN_AT_ONCE // rows)
    for start in range(0, resamples, piece):
        yield generator.integers(0, rows, size=(min(piece, resamples - start), rows))


def resampled(statistics: Statistics, rows: int, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Metric -> its value on each of the R resamples. The same (rows, seed) draws the same rows: that is the pairing."""
    pieces = [statistics(index_RN) for index_RN in draws(rows, resamples, seed)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def at_sample(statistics: Statistics, rows: int) -> dict[str, float]:
    """Metric -> its value on the sample itself."""
    return {name: float(values[0]) for name, values in statistics(np.arange(rows)[None, :]).items()}


def interval(values_R: NDArray[np.float64], confidence: float, rows: int) -> tuple[float, float] | None:
    """The expanded percentile interval of a metric of `rows` rows, over the resamples on which it is a number; None where
    those are too few.

    >>> interval(np.arange(101.0), 0.75, 1_000_000_000), interval(np.array([1.0, np.nan]), 0.75, 9)
    ((12.5, 87.5), None)
    """
    there = values_R[np.isfinite(values_R)]
    if len(there) < DEFINED * len(values_R):
        return None
    below = tail(confidence, rows)
    low, high = np.quantile(there, [below, 1 - below])
    return float(low), float(high)


@cache
def tail(confidence: float, rows: int) -> float:
    """The share of resamples to leave out at each end. Of one row nothing can be known, and nothing is left out.

    >>> tail(0.95, 20) < tail(0.95, 1000) < 0.025
    True
    """
    try:
        from scipy.special import stdtrit
    except ImportError:
        raise missing_part("scipy", "train", "Comparing models") from None
    if rows < 2:
        return 0.0
    far = stdtrit(rows - 1, (1 - confidence) / 2) * np.sqrt(rows / (rows - 1))
    return round(NormalDist().cdf(float(far)), 9)


@dataclass(frozen=True)
class Apart:
    """`value` is one minus other. `detectable`: significance.detectable."""

    value: float
    low: float
    high: float
    detectable: float | None


def difference(
    one: Statistics, other: Statistics, rows: int, *, confidence: float, resamples: int, seed: int
) -> dict[str, Apart]:
    """Metric -> how far apart, over the same N rows; for the metrics that both have and that are numbers on enough
    resamples."""
    here, there = at_sample(one, rows), at_sample(other, rows)
    drawn_here, drawn_there = resampled(one, rows, resamples, seed), resampled(other, rows, resamples, seed)
    found = {}
    for name in here:
        if name not in there or not np.isfinite(value := here[name] - there[name]):
            continue
        apart_R = drawn_here[name] - drawn_there[name]
        if within := interval(apart_R, confidence, rows):
            found[name] = Apart(value, *within, significance.detectable(apart_R, confidence))
    return found


def from_predictions(
    predictions: pa.Table,
    task: Mapping[str, Any],
    *,
    metrics: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, list[float]]]]:
    """(comparisons of `tuned` with every other system, intervals of every system's metrics).

    A comparison is over the rows that both systems answered; `rows` says how many. `p` is the permutation test's, and
    `p_corrected` what it is worth where the metric is compared with several systems.
    """
    from . import tasks
    from .predictions import by_system

    part = tasks.of(task)
    answers = by_system(predictions)
    settings: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    intervals = {}
    for system, mine in answers.items():
        drawn = resampled(part.statistics(mine), len(mine), resamples, seed)
        within = {name: interval(drawn[name], confidence, len(mine)) for name in metrics if name in drawn}
        intervals[system] = {name: list(told) for name, told in within.items() if told is not None}
    comparisons: list[dict[str, Any]] = []
    for system, theirs in answers.items():
        if system == "tuned" or not (shared := set(answers["tuned"].ids) & set(theirs.ids)):
            continue
        mine, other = answers["tuned"].only(shared), theirs.only(shared)
        found = difference(part.statistics(mine), part.statistics(other), len(shared), **settings)
        seen = {name: found[name].value for name in metrics if name in found}
        both = part.statistics(mine.and_(other))
        p = significance.permutation(both, len(shared), seen, resamples, seed)
        comparisons += [
            {"metric": name, "of": "tuned", "to": system, "difference": value, "low": found[name].low,
             "high": found[name].high, "p": p[name], "detectable": found[name].detectable, "rows": len(shared), **settings}
            for name, value in seen.items()
        ]  # fmt: skip
    for metric in metrics:
        asked = [one for one in comparisons if one["metric"] == metric]
        for one, corrected in zip(asked, significance.holm([one["p"] for one in asked]), strict=True):
            one["p_corrected"] = corrected
    return comparisons, intervals
