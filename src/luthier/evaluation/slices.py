"""Where is the model worst? The test rows divided by what they are, and the metrics of each part.

    source     which data source the row came from
    length     how long the question is, in three parts of about as many rows
    language   which language the question is in, as far as its function words tell
    a column   what stands in a column that the map keeps (map.keep): its most frequent values, the rest together

What a row belongs to stands in predictions.parquet, so every number can be computed again from that. Whether a part is
really worse than the rest, or only unlucky, is told by a permutation test (is it unusual for as many rows drawn blindly to
do as badly?), corrected for looking at many parts. Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import compare, tasks
from .predictions import Answers, by_system
from .significance import holm
from .spec import METRICS, SLICE_ROWS, SLICED, ColumnSpec, EvaluateSpec, Slice

if TYPE_CHECKING:
    import pyarrow as pa

    from .questions import Question

_AT_ONCE = 200_000
MOST_VALUES = 12
"""Values of a column that are parts of their own: more parts see less each, and the correction over all of them hides more."""
OTHER, NONE = "(other)", "(none)"
WAYS = ("source", "length", "language")


def assign(questions: Sequence[Question], asked: Sequence[Slice] | None) -> dict[str, list[tuple[str, str]]]:
    """Row id -> (by, value) of each part it belongs to. A division that puts all rows into one part is left out, unless it was
    `asked` for."""
    ways: dict[str, Callable[[Sequence[Question]], list[str]]] = {
        "source": lambda rows: [row.source for row in rows],
        "length": _lengths,
        "language": lambda rows: [_language(row.asked_text) for row in rows],
    }
    columns = dict.fromkeys(name for question in questions for name in question.kept)
    if asked is not None:
        columns = dict.fromkeys(one.column for one in asked if isinstance(one, ColumnSpec))
    ways |= {_by(name): partial(_values, name) for name in columns}
    found: dict[str, list[tuple[str, str]]] = {question.id: [] for question in questions}
    told = None if asked is None else [_by(o.column) if isinstance(o, ColumnSpec) else o for o in asked]
    for by in told if told is not None else ways:
        values = ways[by](questions)
        sizes = Counter(values)
        if asked is None and sum(n >= SLICE_ROWS for n in sizes.values()) < 2:
            continue
        for question, value in zip(questions, values, strict=True):
            found[question.id].append((by, value))
    return found


def _by(column: str) -> str:
    """What a division by a column is called.

    >>> _by("region"), _by("language")
    ('region', 'language (column)')
    """
    return f"{column} (column)" if column in WAYS else column


def _values(column: str, questions: Sequence[Question]) -> list[str]:
    """The column's value of each row; all but the most frequent together."""
    values = [question.kept.get(column, NONE) for question in questions]
    sizes = Counter(values)
    known = sorted(sizes, key=lambda value: (-sizes[value], value))[:MOST_VALUES]
    own = set(known if len(sizes) <= MOST_VALUES else known[:-1])
    return [value if value in own else OTHER for value in values]


def _lengths(questions: Sequence[Question]) -> list[str]:
    length_N = np.array([len(question.asked_text) for question in questions])
    low, high = (int(edge) for edge in np.quantile(length_N, [1 / 3, 2 / 3], method="lower"))
    if low == high:
        return [f"up to {low:,} characters" if n <= low else f"over {low:,} characters" for n in length_N]
    names = (
        f"up to {low:,} characters",
        f"{low + 1:,} to {high:,} characters",
        f"over {high:,} characters",
    )
    return [names[(n > low) + (n > high)] for n in length_N.tolist()]


def _language(text: str) -> str:
    from luthier.data.languages import detect, name

    code = detect(text)
    return "unclear" if code is None else name(code)


def build(predictions: pa.Table, task: Mapping[str, Any], spec: EvaluateSpec) -> list[dict[str, Any]]:
    """{"by", "value", "rows", "systems": {name: {metric: value}}, "metric", "low", "high", "p", "p_corrected"} of each part,
    in the order of `by`, then of size. `low` and `high` bound the tuned model's `metric` in the part; `p` is of the part being
    as far from the others by luck, corrected over all parts, and None where it has fewer than 20 rows or all the others."""
    measured = spec.of_test_rows(task["kind"])
    answers, part = by_system(predictions), tasks.of(task)
    if SLICED[task["kind"]] not in measured or "tuned" not in answers:
        return []
    metric = SLICED[task["kind"]]
    mine = answers["tuned"]
    value_N = part.each(mine)
    found: list[dict[str, Any]] = []
    for by, value in _parts(mine):
        inside_N = np.array([(by, value) in told for told in mine.slices])
        ids = [one for one, inside in zip(mine.ids, inside_N, strict=True) if inside]
        systems = {}
        for name, theirs in answers.items():
            if len(only := theirs.only(ids)):
                told = part.summarise(only)["metrics"]
                systems[name] = {one: told[one] for one in measured}
        found.append(
            {
                "by": by,
                "value": value,
                "rows": len(ids),
                "systems": systems,
                "metric": metric,
                **_interval(value_N[inside_N], metric, spec),
                "p": _luck(value_N, inside_N, spec),
            }
        )
    corrected = iter(holm([one["p"] for one in found if one["p"] is not None]))
    for one in found:
        one["p_corrected"] = None if one["p"] is None else next(corrected)
    return found


def worst(slices: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The part in which the tuned model does worst, of those with rows enough."""
    large = [one for one in slices if one["rows"] >= SLICE_ROWS and _value(one) is not None]
    if not large:
        return None
    sign = 1 if METRICS[large[0]["metric"]].higher_is_better else -1
    return min(large, key=lambda one: sign * (_value(one) or 0.0))


def _value(one: Mapping[str, Any]) -> float | None:
    value: float | None = one["systems"]["tuned"][one["metric"]]
    return value


def _parts(answers: Answers) -> list[tuple[str, str]]:
    sizes = Counter(told for row in answers.slices for told in row)
    order = list(dict.fromkeys(by for row in answers.slices for by, _ in row))
    return sorted(sizes, key=lambda told: (order.index(told[0]), -sizes[told], told[1]))


def _interval(value_N: NDArray[np.float64], metric: str, spec: EvaluateSpec) -> dict[str, float | None]:
    rows = len(value_N)
    drawn = compare.resampled(compare.of_mean(metric, value_N), rows, spec.resamples, spec.seed)[metric]
    told = compare.interval(drawn, spec.confidence, rows)
    return {"low": told and told[0], "high": told and told[1]}


def _luck(value_N: NDArray[np.float64], inside_N: NDArray[np.bool_], spec: EvaluateSpec) -> float | None:
    """Two-sided p of the difference of means between the part and the others."""
    there = np.isfinite(value_N)
    value_N, inside_N = value_N[there], inside_N[there]
    n, rows = int(inside_N.sum()), len(value_N)
    if n < SLICE_ROWS or rows - n < 1:
        return None
    seen = abs(value_N[inside_N].mean() - value_N[~inside_N].mean())
    total, generator, as_far = value_N.sum(), np.random.default_rng(spec.seed), 0
    for start in range(0, spec.resamples, piece := max(1, _AT_ONCE // rows)):
        drawn_RN = np.tile(value_N, (min(piece, spec.resamples - start), 1))
        inside_R = generator.permuted(drawn_RN, axis=1)[:, :n].sum(1)
        apart_R = np.abs(inside_R / n - (total - inside_R) / (rows - n))
        as_far += int((apart_R >= seen - 1e-12).sum())
    return (as_far + 1) / (spec.resamples + 1)
