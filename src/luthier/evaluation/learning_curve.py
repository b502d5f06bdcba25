"""Is more data worth it? A plain classifier, fitted on a quarter, half and all of the rows, and where its error goes from there.

    rows of train ─▶ FOLDS parts, by what must stay together ─▶ for each part: fit on 25, 50 and 100 % of the others, ask the part
    error(n) ≈ a · n^-b, fitted in logarithms (Cortes et al. 1994, "Learning Curves"; here without the floor that it may have,
    which three points cannot tell): what is said of twice the rows is therefore a hope rather than a promise

Only rows of train are looked at, and rows that rules have made are fitted but never asked. It is word counts that learn here: a
language model starts higher and may be done sooner.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError
from luthier.data.draws import Draw

from .baselines import tfidf
from .questions import Question

FOLDS = 5
SHARES = (0.25, 0.5, 1.0)
FEWEST = 40
MOST = 20_000


@dataclass(frozen=True)
class Curve:
    """`rows` are what was fitted on, on average over the folds; `accuracy` what came of it, over all `asked` rows. `gain` is
    that of all rows over half of them, `gain_se` its standard error; `twice` the accuracy that twice the rows promise."""

    rows: tuple[int, ...]
    accuracy: tuple[float, ...]
    asked: int
    gain: float
    gain_se: float
    twice: float


def drawn(train: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most MOST of the conversations, those that a draw by their ids puts first, in that order."""
    return heapq.nsmallest(
        MOST, (row for row in train if row["messages"]), key=lambda row: Draw("curve", row["id"]).bits()
    )


def curve(train: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Curve | None:
    """None where there are too few rows or labels to say anything. `train` holds records with id, messages, label, group and
    made_from. The rows' order does not matter."""
    rows = drawn(train)
    own = [row for row in rows if not row["made_from"]]
    if len(own) < FEWEST or len({row["label"] for row in own}) < 2:
        return None
    folds = [Draw("fold", _together(row)).below(FOLDS) for row in rows]
    right: dict[float, list[bool]] = {share: [] for share in SHARES}
    sizes: dict[float, list[int]] = {share: [] for share in SHARES}
    for fold in range(FOLDS):
        asked = [row for row, at in zip(rows, folds, strict=True) if at == fold and not row["made_from"]]
        others = [row for row, at in zip(rows, folds, strict=True) if at != fold]
        told = [_hits(others[: math.ceil(len(others) * share)], asked, labels) for share in SHARES]
        if not asked or any(one is None for one in told):
            continue  # a quarter that holds one label alone cannot be fitted
        for share, hits in zip(SHARES, told, strict=True):
            right[share] += hits or []
            sizes[share].append(math.ceil(len(others) * share))
    if not right[1.0]:
        return None
    accuracy = tuple(sum(right[share]) / len(right[share]) for share in SHARES)
    counts = tuple(round(sum(sizes[share]) / len(sizes[share])) for share in SHARES)
    steps = [int(b) - int(a) for a, b in zip(right[0.5], right[1.0], strict=True)]
    gain = sum(steps) / len(steps)
    spread = math.sqrt(sum((step - gain) ** 2 for step in steps) / len(steps) / len(steps))
    return Curve(counts, accuracy, len(steps), gain, spread, _at(2 * counts[-1], counts, accuracy))


def _together(row: Mapping[str, Any]) -> str:
    """A made row goes where its parent goes, a group where all of it goes."""
    return str(row["group"] or row["made_from"] or row["id"])


def _hits(
    fitted: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> list[bool] | None:
    questions = [Question(row["id"], tuple(row["messages"][:-1]), row["label"]) for row in asked]
    try:
        answers = tfidf(fitted, questions, labels, seed=0)
    except DataError:
        return None
    return [answer.text == row["label"] for answer, row in zip(answers, asked, strict=True)]


def _at(n: int, rows: Sequence[int], accuracy: Sequence[float]) -> float:
    """The accuracy at n rows. A curve that does not rise promises nothing.

    >>> round(_at(800, [100, 200, 400], [0.6, 0.8, 0.9]), 3)  # each doubling halves the error
    0.95
    >>> _at(800, [100, 200, 400], [0.9, 0.9, 0.9]), _at(800, [100, 200, 400], [0.9, 1.0, 1.0])
    (0.9, 1.0)
    """
    if accuracy[-1] >= 1.0:
        return accuracy[-1]
    x = [math.log(one) for one in rows]
    y = [math.log(max(1.0 - one, 1e-9)) for one in accuracy]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    varies = sum((one - mean_x) ** 2 for one in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / varies if varies else 0.0
    return 1.0 - (1.0 - accuracy[-1]) * (n / rows[-1]) ** min(slope, 0.0)
