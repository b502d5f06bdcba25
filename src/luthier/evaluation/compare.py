"""How sure is a difference? The paired bootstrap over rows, vectorised.

Rows are drawn with replacement, the same rows for both systems, and the metric's difference is computed on each
draw; the interval is the percentiles of those differences. Sources: Efron & Tibshirani, An Introduction to the
Bootstrap (1993), chapter 13 (percentile intervals); Koehn, Statistical Significance Tests for Machine
Translation Evaluation (EMNLP 2004), section 4 (paired draws).

Rows are taken in the order of their ids and draws come from the seed, so the same predictions in any order give
the same interval. Percentile intervals of few rows are somewhat too narrow; the report says so below thirty.

Shapes: N rows, R resamples, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Statistics = Callable[[NDArray[np.int64]], dict[str, NDArray[np.float64]]]
"""index_RN -> metric -> values_R: every metric of one system on every resample."""

_DRAWN_AT_ONCE = 2_000_000
DEFINED = 0.95
"""The least share of resamples on which a metric must be a number. R² is none where all rows drawn are alike, and no
error is where none of them was answered; of what is left, percentiles would tell too little."""


def of_labels(truth_N: NDArray[np.int64], said_N: NDArray[np.int64], labels: int) -> Statistics:
    """Accuracy and the macro averages, from counts per label; the definitions are those of `metrics`."""
    hit_N = truth_N == said_N
    right_N = np.where(hit_N, truth_N, labels)  # the extra last place collects the misses

    def statistics(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        truth_RK = _counts(truth_N, index_RN, labels + 1)[:, :labels]
        said_RK = _counts(said_N, index_RN, labels + 1)[:, :labels]
        right_RK = _counts(right_N, index_RN, labels + 1)[:, :labels]
        present_RK = truth_RK > 0
        present_R = present_RK.sum(1)

        def macro(numerator_RK: NDArray[Any], denominator_RK: NDArray[Any]) -> NDArray[np.float64]:
            ratio_RK = numerator_RK / np.maximum(denominator_RK, 1)  # 0/0 is 0, as zero_division=0
            return np.where(present_RK, ratio_RK, 0.0).sum(1) / present_R

        return {
            "accuracy": right_RK.sum(1) / index_RN.shape[1],
            "precision_macro": macro(right_RK, said_RK),
            "recall_macro": macro(right_RK, truth_RK),
            "macro_f1": macro(2 * right_RK, truth_RK + said_RK),
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


def interval(values_R: NDArray[np.float64], confidence: float) -> tuple[float, float] | None:
    """The percentile interval, over the resamples on which the metric is a number; None where those are too few.

    >>> interval(np.arange(101.0), 0.75), interval(np.array([1.0, np.nan]), 0.75)
    ((12.5, 87.5), None)
    """
    there = values_R[np.isfinite(values_R)]
    if len(there) < DEFINED * len(values_R):
        return None
    low, high = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def difference(
    one: Statistics, other: Statistics, rows: int, *, confidence: float, resamples: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Metric -> (one minus other, low, high), over the same N rows; for the metrics that both have and that are numbers on
    enough resamples."""
    here, there = at_sample(one, rows), at_sample(other, rows)
    drawn_here, drawn_there = resampled(one, rows, resamples, seed), resampled(other, rows, resamples, seed)
    found = {}
    for name in here:
        if name in there and (within := interval(drawn_here[name] - drawn_there[name], confidence)):
            apart = here[name] - there[name]
            if np.isfinite(apart):
                found[name] = apart, *within
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

    A comparison is over the rows that both systems answered; `rows` says how many.
    """
    from . import tasks
    from .predictions import by_system

    part = tasks.of(task)
    answers = by_system(predictions)
    settings = {"confidence": confidence, "resamples": resamples, "seed": seed}
    intervals = {}
    for system, mine in answers.items():
        drawn = resampled(part.statistics(mine), len(mine), resamples, seed)
        within = {name: interval(drawn[name], confidence) for name in metrics if name in drawn}
        intervals[system] = {name: list(told) for name, told in within.items() if told is not None}
    comparisons = []
    for system, theirs in answers.items():
        if system == "tuned" or not (shared := set(answers["tuned"].ids) & set(theirs.ids)):
            continue
        one, other = (part.statistics(a.only(shared)) for a in (answers["tuned"], theirs))
        found = difference(one, other, len(shared), confidence=confidence, resamples=resamples, seed=seed)
        comparisons += [
            {"metric": name, "of": "tuned", "to": system, "difference": found[name][0], "low": found[name][1],
             "high": found[name][2], "rows": len(shared), **settings}
            for name in metrics if name in found
        ]  # fmt: skip
    return comparisons, intervals
