"""predictions.parquet: what every system answered to every row. The only source of the report's numbers.

One line per (id, model), sorted by system, then id. `probabilities` is in label order. `loss_sum` (nats) and
`loss_tokens` are over the tokens of the reference answer. A plain text has no question: its `prediction` is null
and its reference is the text itself. A row that a system could not be asked has no line.

`prediction` is what would be served. Of the tuned model it is made of what it said (refining.py): `raw` is that text before the
steps, `samples` all that were voted on, `raw_probability` the confidence before calibration. `refusal` says why there is no answer
(`prediction` is then empty, and wrong). `asked_for`: why another model was asked (refused, below), `other`: what it said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .spec import SYSTEMS

if TYPE_CHECKING:
    from .questions import Question
    from .tasks import Answer, Task

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("model", pa.string()),
        ("reference", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
        ("probability", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("loss_sum", pa.float64()),
        ("loss_tokens", pa.int64()),
        ("slices", pa.list_(pa.struct([("by", pa.string()), ("value", pa.string())]))),
        ("raw", pa.string()),
        ("raw_probability", pa.float64()),
        ("samples", pa.list_(pa.struct([("text", pa.string()), ("logprob", pa.float64())]))),
        ("refusal", pa.string()),
        ("asked_for", pa.string()),
        ("other", pa.string()),
        ("other_tokens_in", pa.int64()),
        ("other_tokens_out", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Answers:
    """One system's lines, sorted by id. N rows, K labels; absent losses are NaN in `loss_sum_N` and 0 in `loss_tokens_N`;
    `probability_NK` is None where not every row has probabilities. `slices`: the (by, value) of each row's parts."""

    ids: tuple[str, ...]
    references: tuple[str, ...]
    predictions: tuple[str | None, ...]
    loss_sum_N: NDArray[np.float64]
    loss_tokens_N: NDArray[np.int64]
    probability_NK: NDArray[np.float64] | None = None
    slices: tuple[tuple[tuple[str, str], ...], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, ids: Iterable[str]) -> Answers:
        """The lines of these ids, in the same order as here."""
        keep = set(ids)
        at = [i for i, one in enumerate(self.ids) if one in keep]
        return Answers(
            tuple(self.ids[i] for i in at),
            tuple(self.references[i] for i in at),
            tuple(self.predictions[i] for i in at),
            self.loss_sum_N[at],
            self.loss_tokens_N[at],
            None if self.probability_NK is None else self.probability_NK[at],
            tuple(self.slices[i] for i in at),
        )

    def and_(self, other: Answers) -> Answers:
        """These lines, then those of another system."""
        mine, theirs = self.probability_NK, other.probability_NK
        return Answers(
            self.ids + other.ids,
            self.references + other.references,
            self.predictions + other.predictions,
            np.concatenate([self.loss_sum_N, other.loss_sum_N]),
            np.concatenate([self.loss_tokens_N, other.loss_tokens_N]),
            None if mine is None or theirs is None else np.concatenate([mine, theirs]),
            self.slices + other.slices,
        )


def table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """Lines in any order as the table: sorted, typed."""
    order = {name: i for i, name in enumerate(SYSTEMS)}
    return pa.Table.from_pylist(sorted(lines, key=lambda line: (order[line["model"]], line["id"])), SCHEMA)


def by_system(predictions: pa.Table) -> dict[str, Answers]:
    """System -> its answers, in the order of SYSTEMS; the table's own order does not matter."""
    lines = predictions.to_pylist()
    found = {}
    for system in SYSTEMS:
        if mine := sorted((line for line in lines if line["model"] == system), key=lambda line: line["id"]):
            found[system] = _answers(mine)
    return found


def _answers(lines: Sequence[dict[str, Any]]) -> Answers:
    return Answers(
        tuple(line["id"] for line in lines),
        tuple(line["reference"] for line in lines),
        tuple(line["prediction"] for line in lines),
        np.array([np.nan if line["loss_sum"] is None else line["loss_sum"] for line in lines], np.float64),
        np.array([line["loss_tokens"] or 0 for line in lines], np.int64),
        _probabilities(lines),
        tuple(tuple((one["by"], one["value"]) for one in line["slices"] or ()) for line in lines),
    )


def _probabilities(lines: Sequence[dict[str, Any]]) -> NDArray[np.float64] | None:
    if any(line["probabilities"] is None for line in lines):
        return None
    return np.array([line["probabilities"] for line in lines], np.float64)


def line(
    question: Question, system: str, answer: Answer, part: Task, parts: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """One line of the table."""
    return {
        "id": question.id,
        "model": system,
        "reference": question.reference,
        "prediction": answer.text,
        "correct": None if answer.text is None else part.correct(question.reference, answer.text),
        "probability": answer.probability,
        "probabilities": answer.probabilities,
        "loss_sum": answer.loss[0] if answer.loss else None,
        "loss_tokens": answer.loss[1] if answer.loss else None,
        "slices": [{"by": by, "value": value} for by, value in parts],
        **(answer.kept or {}),
    }


def write(predictions: pa.Table, path: Path) -> None:
    pq.write_table(predictions, path, compression="zstd")


def read(path: Path) -> pa.Table:
    return pq.read_table(path, schema=SCHEMA)
