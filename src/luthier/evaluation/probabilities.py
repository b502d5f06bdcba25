"""What a classifier's probabilities are worth: do they rank, and can they be believed? Point values are scikit-learn's
where it has them; the same on resamples, vectorised, for the intervals.

    roc_auc             area under the ROC curve, one label against the rest, averaged over labels
    average_precision   area under the precision-recall curve by steps, averaged likewise
    log_loss            mean of -ln p(right label), probabilities no lower than the smallest step of a float64
    brier               mean squared distance of the probabilities from what was right, summed over labels (Brier 1950)
    ece                 expected calibration error: how far the probability of the answer is from how often such answers
                        are right, over 15 bins of equal width, each weighing by its rows (Guo et al. 2017, section 2)

Averages are over labels that some rows have and some have not. Shapes: N rows, R resamples, K labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import missing_part

from .compare import Statistics

BINS = 15
NAMES = ("roc_auc", "average_precision", "log_loss", "brier", "ece")
_LEAST = float(np.finfo(np.float64).eps)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def values(truth_N: Ints, probability_NK: Floats) -> dict[str, float | None]:
    """Every name's value; None for the areas where all rows have one label."""
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError:
        raise missing_part("scikit-learn", "train", "Measuring a classifier") from None
    of_label = [(truth_N == k, probability_NK[:, k]) for k in _dividing(truth_N, probability_NK.shape[1])]

    def mean(score: Callable[..., Any]) -> float | None:
        return float(np.mean([score(is_N, p_N) for is_N, p_N in of_label])) if of_label else None

    loss_N, distance_N, sure_N, right_N = _of_rows(truth_N, probability_NK)
    return {
        "roc_auc": mean(roc_auc_score),
        "average_precision": mean(average_precision_score),
        "log_loss": float(loss_N.mean()),
        "brier": float(distance_N.mean()),
        "ece": sum(abs(told) for _, _, _, told in reliability(sure_N, right_N)),
    }


def reliability(sure_N: Floats, right_N: NDArray[np.bool_]) -> list[tuple[int, float, float, float]]:
    """Of each bin that has rows: (rows, mean probability, share that is right, what it adds to `ece`, signed: above 0 where
    the model is too sure).

    >>> [(n, round(add, 3)) for n, _, _, add in reliability(np.array([0.9, 0.9, 0.5]), np.array([True, False, True]))]
    [(1, -0.167), (2, 0.267)]
    """
    bin_N = _bins(sure_N)
    found = []
    for b in np.unique(bin_N):
        mine = bin_N == b
        sure, right = float(sure_N[mine].mean()), float(right_N[mine].mean())
        found.append((int(mine.sum()), sure, right, (sure - right) * float(mine.mean())))
    return found


def answered(truth_N: Ints, probability_NK: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(the probability of each row's answer, whether that answer is right)."""
    _, _, sure_N, right_N = _of_rows(truth_N, probability_NK)
    return sure_N, right_N


def statistics(truth_N: Ints, probability_NK: Floats) -> Statistics:
    """compare.Statistics of the five."""
    labels = probability_NK.shape[1]
    loss_N, distance_N, sure_N, right_N = _of_rows(truth_N, probability_NK)
    bin_N = _bins(sure_N)
    ranks = [_ranked(truth_N == k, probability_NK[:, k]) for k in _dividing(truth_N, labels)]

    def on(index_RN: Ints) -> dict[str, Floats]:
        rows = index_RN.shape[1]
        off_RN = np.arange(len(index_RN))[:, None] * BINS + bin_N[index_RN]
        gap_N = sure_N - right_N
        gap_RB = np.bincount(off_RN.ravel(), gap_N[index_RN].ravel(), len(index_RN) * BINS)
        flat = index_RN + np.arange(len(index_RN))[:, None] * len(truth_N)
        counted = np.bincount(flat.ravel(), minlength=len(index_RN) * len(truth_N))
        count_RN = counted.reshape(len(index_RN), -1).astype(np.float64)
        both = [one(count_RN) for one in ranks]
        with np.errstate(invalid="ignore"):
            areas = [
                _mean([pair[n] for pair in both]) if both else np.full(len(index_RN), np.nan) for n in (0, 1)
            ]
        return {
            "roc_auc": areas[0],
            "average_precision": areas[1],
            "log_loss": loss_N[index_RN].mean(1),
            "brier": distance_N[index_RN].mean(1),
            "ece": np.abs(gap_RB.reshape(-1, BINS)).sum(1) / rows,
        }

    return on


def _of_rows(truth_N: Ints, probability_NK: Floats) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """(loss, squared distance, probability of the answer, whether it is right); of equals the first is the answer."""
    rows = np.arange(len(truth_N))
    of_truth_N = probability_NK[rows, truth_N]
    said_N = probability_NK.argmax(1)
    distance_N = (probability_NK**2).sum(1) - 2 * of_truth_N + 1
    return (
        -np.log(np.clip(of_truth_N, _LEAST, 1.0)),
        distance_N,
        probability_NK[rows, said_N],
        said_N == truth_N,
    )


def _bins(sure_N: Floats) -> Ints:
    return np.clip(np.ceil(sure_N * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _dividing(truth_N: Ints, labels: int) -> Ints:
    """Labels that some rows have and some have not."""
    count_K = np.bincount(truth_N, minlength=labels)
    return np.flatnonzero((count_K > 0) & (count_K < len(truth_N)))


def _ranked(is_N: NDArray[np.bool_], score_N: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """(area under ROC, average precision) of one label, from how often each row was drawn [R, N]. Everything is asked at the
    hits, in the order of their scores; rows of one score count together. H hits."""
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N, hit_H = score_N[order_N], np.flatnonzero(is_N[order_N])
    begin_H = np.searchsorted(-sorted_N, -sorted_N[hit_H], "left")  # rows above this score, and with it
    end_H = np.searchsorted(-sorted_N, -sorted_N[hit_H], "right")
    hits_begin_H, hits_end_H = np.searchsorted(hit_H, begin_H), np.searchsorted(hit_H, end_H)

    def on(count_RN: Floats) -> tuple[Floats, Floats]:
        drawn_RN = count_RN[:, order_N]
        seen_RN, hits_RH = _from_none(drawn_RN), _from_none(drawn := drawn_RN[:, hit_H])
        hits_R, rows_R = hits_RH[:, -1], seen_RN[:, -1]
        above_RH = seen_RN[:, begin_H] - hits_RH[:, hits_begin_H]
        up_to_RH = seen_RN[:, end_H] - hits_RH[:, hits_end_H]
        misses_R = rows_R - hits_R
        with np.errstate(invalid="ignore", divide="ignore"):
            # a hit beats every miss below it, and half of those beside it
            beaten_R = (drawn * (misses_R[:, None] - (above_RH + up_to_RH) / 2)).sum(1)
            precision_RH = hits_RH[:, hits_end_H] / np.maximum(seen_RN[:, end_H], 1)
            return beaten_R / (hits_R * misses_R), (drawn * precision_RH).sum(1) / hits_R

    return on


def _from_none(count_RN: Floats) -> Floats:
    """Sums up to each place, from 0 on: one more than there are places."""
    sums = np.zeros((len(count_RN), count_RN.shape[1] + 1))
    np.cumsum(count_RN, axis=1, out=sums[:, 1:])
    return sums


def _mean(of_labels: list[Floats]) -> Floats:
    """Over the labels that divide the rows drawn; NaN where none does."""
    stacked = np.stack(of_labels)
    there = np.isfinite(stacked)
    return np.where(there, stacked, 0.0).sum(0) / there.sum(0)
