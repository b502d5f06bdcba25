"""Rows of a dataset and exchanges of traffic in one form, so that the same can be measured of both.

Not here: what is measured of them (views.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.store.traffic import Judged

LONGEST = 20_000
"""Characters of what is asked that are looked at; what comes after them is not."""


@dataclass(frozen=True)
class Row:
    """`asked`: what the user says, all turns. `answer`: what was said to it, None where it was declined or is not known.
    `refused`: None where that is not known. `right`: 1.0 or 0.0 where somebody, or the reference, says so."""

    id: str
    asked: str
    answer: str | None = None
    probability: float | None = None
    refused: bool | None = None
    right: float | None = None
    time_s: float | None = None
    release: str | None = None


def asked_in(messages: Iterable[Mapping[str, Any]]) -> str:
    """What the user says in a conversation.

    >>> asked_in([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    'Hi'
    """
    return "\n".join(str(one["content"]) for one in messages if one["role"] == "user")[:LONGEST]


def of_traffic(judged: Iterable[Judged]) -> Iterator[Row]:
    """One row an exchange. Where a window holds the same request more than once, it counts once: `distinct`."""
    for one in judged:
        exchange = one.exchange
        first = exchange.answers[0] if exchange.answers else {"text": None, "refusal": None}
        yield Row(
            exchange.id,
            asked_in(exchange.messages),
            None if first["text"] is None else _answer_in(first),
            exchange.probability,
            first["refusal"] is not None,
            right(one),
            exchange.time_s,
            exchange.release,
        )


def _answer_in(answer: Mapping[str, Any]) -> str:
    """As measured answers have it: a text, and calls as JSON."""
    from luthier.data.tools import answer_text

    calls = [{"function": one} for one in _calls_of(answer.get("tool_calls"))]
    return answer_text({"content": answer["text"], "tool_calls": calls})


def right(judged: Judged) -> float | None:
    """Whether the answer that was judged was right: by the correction where there is one, else by the rating.

    A correction says so exactly where the answers are labels or calls; of free answers it says that something was to be bettered."""
    if judged.corrected:
        from luthier.data.private.masking import strange

        unknown = strange([judged.correction, judged.calls], judged.exchange.said)
        return None if unknown else float(_as_corrected(judged))
    return None if judged.rating is None or judged.rating == 0 else float(judged.rating > 0)


def _as_corrected(judged: Judged) -> bool:
    """Whether that was said. Beside calls a text counts where the correction has one."""
    from luthier.evaluation.calls import same

    answers = judged.exchange.answers
    said = answers[judged.choice] if judged.choice < len(answers) else {"text": None}
    if said["text"] is None:
        return False
    if judged.calls or said.get("tool_calls"):
        tools = {one["function"]["name"]: one["function"] for one in judged.exchange.tools or ()}
        if not same(_calls_of(said.get("tool_calls")), _calls_of(judged.calls), tools):
            return False
        return not judged.correction or said["text"].strip() == judged.correction.strip()
    return bool(said["text"].strip() == (judged.correction or "").strip())


def _calls_of(written: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    from luthier.data.tools import call_of

    found = []
    for one in written or ():
        with suppress(ValueError):  # a model may write what is no JSON
            found.append(call_of(one)[1])
    return found


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The first of those that ask the same: what one client repeats all day is one request.

    >>> [row.id for row in distinct([Row("1", "a"), Row("2", "b"), Row("3", "a")])]
    ['1', '2']
    """
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.asked, row)
    return list(found.values())


def sampled(rows: Iterable[Row], most: int) -> tuple[list[Row], int]:
    """(at most so many rows in the order of time, chosen by a hash of their ids; how many there were), in bounded memory."""
    import heapq
    from hashlib import blake2b

    there = 0

    def counted() -> Iterator[Row]:
        nonlocal there
        for row in rows:
            there += 1
            yield row

    kept = heapq.nsmallest(most, counted(), key=lambda row: blake2b(row.id.encode(), digest_size=8).digest())
    return sorted(kept, key=lambda row: (row.time_s or 0.0, row.id)), there


def of_dataset(folder: Path, side: str, most: int) -> list[Row]:
    """Rows of one side of a dataset, the first by id (ids are hashes, so that is a fixed random sample)."""
    from luthier.data.shards import Side

    found: list[Row] = []
    for batch in Side(folder / f"{side}.parquet").batches(["id", "messages", "text", "label"]):
        for row in batch.to_pylist():
            asked = asked_in(row["messages"]) if row["messages"] else str(row["text"] or "")[:LONGEST]
            found.append(Row(row["id"], asked))
            if len(found) == most:
                return found
    return found


def with_answers(rows: Sequence[Row], predictions: Path) -> list[Row]:
    """The rows with what the tuned model answered when it was measured. Rows that it was not asked stay as they are."""
    from luthier.evaluation.predictions import read

    said = {
        line["id"]: line
        for line in read(predictions).to_pylist()
        if line["model"] == "tuned" and line["prediction"] is not None
    }
    found = []
    for row in rows:
        line = said.get(row.id)
        if line is None:
            found.append(row)
            continue
        refused = line["refusal"] is not None
        correct = None if line["correct"] is None else float(line["correct"])
        answer = None if refused else line["prediction"]
        found.append(Row(row.id, row.asked, answer, line["probability"], refused, correct))
    return found
