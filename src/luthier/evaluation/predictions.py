"""predictions.parquet: what every system answered to every row. The only source of the report's numbers.

One line per (id, model), sorted by system, then id. `probabilities` is in label order. `loss_sum` (nats) and
`loss_tokens` are over the tokens of the reference answer. A plain text has no question: its `prediction` is null
and its reference is the text itself. A row that a system could not be asked has no line.

`prediction` is what would be served. Of the tuned model it is made of what it said (refining.py): `raw` is that text before the
steps, `samples` all that were voted on, `raw_probability` the confidence before calibration. `refusal` says why there is no answer
(`prediction` is then empty, and wrong). `asked_for`: why another model was asked (refused, below), `other`: what it said.

`seconds` is how long that one answer took, for the rows of which it was measured; `tokens_in` and `tokens_out` are what was read
and written for it. Files of before have none of these.

What only some rows have (MORE): `calls`, where tools were offered: these, the calls of the reference, those that were read in the
answer (all as JSON), and whether one was `tried`; `similarity` to the reference; of pairs the loss of the rejected answer, and
`gain`: how much further apart the tuned model puts chosen and rejected than the base (nats).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from . import private_said
from .systems import ordered

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
        ("seconds", pa.float64()),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
        ("slices", pa.list_(pa.struct([("by", pa.string()), ("value", pa.string())]))),
        (
            "calls",
            pa.struct(
                [
                    ("tools", pa.string()),
                    ("expected", pa.string()),
                    ("said", pa.string()),
                    ("tried", pa.bool_()),
                ]
            ),
        ),
        ("similarity", pa.float64()),
        ("rejected_sum", pa.float64()),
        ("rejected_tokens", pa.int64()),
        ("gain", pa.float64()),
        ("private", pa.list_(pa.string())),
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
MORE = ("calls", "similarity", "rejected_sum", "rejected_tokens", "gain", "private")


@dataclass(frozen=True)
class Answers:
    """One system's lines, sorted by id. N rows, K labels; absent losses are NaN in `loss_sum_N` and 0 in `loss_tokens_N`;
    `probability_NK` is None where not every row has probabilities. `slices`: the (by, value) of each row's parts. `private`: the kinds of
    personal data that the answer says of itself (private_said); None: it was not looked at."""

    ids: tuple[str, ...]
    references: tuple[str, ...]
    predictions: tuple[str | None, ...]
    loss_sum_N: NDArray[np.float64]
    loss_tokens_N: NDArray[np.int64]
    probability_NK: NDArray[np.float64] | None = None
    slices: tuple[tuple[tuple[str, str], ...], ...] = ()
    more: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def of(self, column: str) -> tuple[Any, ...]:
        """What every row has of a column of MORE; None where it has nothing."""
        return self.more.get(column, (None,) * len(self))

    def numbers(self, column: str) -> NDArray[np.float64]:
        """The same as numbers [N], NaN for None."""
        return np.array([np.nan if value is None else value for value in self.of(column)], np.float64)

    @property
    def private(self) -> tuple[Sequence[str] | None, ...]:
        """The kinds of personal data that each answer says; None where that was not looked for."""
        return self.of("private")

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
            {name: tuple(values[i] for i in at) for name, values in self.more.items()},
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
            {name: self.of(name) + other.of(name) for name in {**self.more, **other.more}},
        )


def table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """Lines in any order as the table: sorted, typed."""
    lines = list(lines)
    order = {name: i for i, name in enumerate(ordered({line["model"] for line in lines}))}
    return pa.Table.from_pylist(sorted(lines, key=lambda line: (order[line["model"]], line["id"])), SCHEMA)


def by_system(predictions: pa.Table) -> dict[str, Answers]:
    """System -> its answers, in the order of systems.ordered; the table's own order does not matter."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(predictions.to_pylist(), key=lambda line: line["id"]):
        found.setdefault(line["model"], []).append(line)
    return {system: _answers(found[system]) for system in ordered(found)}


def _answers(lines: Sequence[dict[str, Any]]) -> Answers:
    return Answers(
        tuple(line["id"] for line in lines),
        tuple(line["reference"] for line in lines),
        tuple(line["prediction"] for line in lines),
        np.array([np.nan if line["loss_sum"] is None else line["loss_sum"] for line in lines], np.float64),
        np.array([line["loss_tokens"] or 0 for line in lines], np.int64),
        _probabilities(lines),
        tuple(tuple((one["by"], one["value"]) for one in line["slices"] or ()) for line in lines),
        {name: tuple(line.get(name) for line in lines) for name in MORE},
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
        "seconds": answer.seconds,
        "tokens_in": answer.tokens_in,
        "tokens_out": answer.tokens_out,
        "slices": [{"by": by, "value": value} for by, value in parts],
        "calls": _calls(question, answer),
        "rejected_sum": answer.rejected[0] if answer.rejected else None,
        "rejected_tokens": answer.rejected[1] if answer.rejected else None,
        "private": private_said.column(question, answer.text) if part.labels is None else None,
        **(answer.kept or {}),
    }


def said_of(line: Mapping[str, Any], question: Question, text: str, part: Task) -> dict[str, Any]:
    """The columns of a line that are told from its answer, once another model has given that."""
    calls = line["calls"]
    if calls is not None:
        from .calls import said_in

        calls = {**calls, **said_in(text)}
    return {"calls": calls, "private": private_said.column(question, text) if part.labels is None else None}


def _calls(question: Question, answer: Answer) -> dict[str, Any] | None:
    if not question.tools or question.answer is None or question.form is None:
        return None
    from .calls import line as told

    return told(question.tools, question.answer, answer.text, question.form)


def write(predictions: pa.Table, path: Path) -> None:
    pq.write_table(predictions, path, compression="zstd")


def read(path: Path) -> pa.Table:
    return pq.read_table(path, schema=SCHEMA)
