"""What the answers of rows must be before the rows are divided: labels that the task knows, or numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError, did_you_mean

from .task import TaskSpec


def check(batch: pa.RecordBatch, task: TaskSpec) -> None:
    """Raises DataError for the first row that the task cannot be learnt from."""
    if task.kind == "classify":
        _labels(batch, task.labels)
    elif task.kind == "regress":
        _numbers(batch)


def _labels(batch: pa.RecordBatch, listed: Sequence[str] | str) -> None:
    """Refuse a row with a blank label, or with one that the recipe does not list."""
    blank = pc.invert(pc.match_substring_regex(batch["label"], r"\S"))
    for row in pc.indices_nonzero(blank)[:1].to_pylist():
        raise DataError(
            f"{batch['origin'][row]}: the label is empty.",
            remedy="Correct the row, or add the rule drop_empty.",
        )
    if isinstance(listed, str):
        return
    known = pa.array(listed, pa.string())
    strange = pc.invert(pc.is_in(batch["label"], value_set=known))
    for row in pc.indices_nonzero(strange)[:1].to_pylist():
        label = batch["label"][row].as_py()
        raise DataError(
            f"{batch['origin'][row]}: the label {label[:60]!r} is not in task.labels.",
            remedy=f"{did_you_mean(label, known.to_pylist())} Correct the row, or add the label to task.labels.",
        )


def _numbers(batch: pa.RecordBatch) -> None:
    """Refuse a row whose answer is not a number."""
    for row, messages in enumerate(batch["messages"].to_pylist()):
        answer = messages[-1]["content"] if messages else ""
        if not _is_number(answer):
            raise DataError(
                f"{batch['origin'][row]}: the answer {answer[:60]!r} is not a number, and the task is regress.",
                remedy="Correct the row, map the column with the number as `assistant`, or choose another task.",
            )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
