"""What people have said of answers, from a file: JSON Lines or CSV, a line for each verdict.

id       the row
verdict  a whole number, or win, tie or loss of the tuned model's answer
answer   the text that was judged; without it the tuned model's answer of this evaluation
against  the other system of a win, tie or loss
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, did_you_mean

COLUMNS = ("id", "verdict", "answer", "against")
OUTCOMES = ("win", "tie", "loss")
LARGEST_BYTES = 50_000_000


@dataclass(frozen=True)
class Word:
    """One verdict: `score` of a single answer, or `outcome` against another system."""

    id: str
    score: int | None
    outcome: str | None
    answer: str | None
    against: str | None


def read(path: Path) -> list[Word]:
    """Raises DataError with the line of the first thing that is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"evaluate.judge.human: {path.name} cannot be read: {error.strerror}.",
            remedy="Name a file of verdicts beside the recipe, JSON Lines or CSV with the columns id and verdict.",
        ) from None
    if len(data) > LARGEST_BYTES:
        raise DataError(f"{path.name} is larger than {LARGEST_BYTES:,} bytes.", remedy="Give fewer verdicts.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not UTF-8 text (byte {error.start}).", remedy="Save it as UTF-8."
        ) from None
    lines = _csv(text) if path.suffix.lower() == ".csv" else _json_lines(text, path.name)
    found = [_word(told, f"{path.name}:{number}") for number, told in lines]
    if not found:
        raise DataError(
            f"{path.name} holds no verdict.", remedy="Leave evaluate.judge.human out, or fill it."
        )
    return found


def _csv(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for row in rows:
        yield rows.line_num, {name: value for name, value in row.items() if value not in (None, "")}


def _json_lines(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise DataError(
                f"{name}:{number}: this is no JSON object.", remedy='Write {"id": ..., "verdict": ...}'
            )
        yield number, told


def _word(told: Mapping[str, Any], at: str) -> Word:
    for key in told:
        if key not in COLUMNS:
            raise DataError(
                f"{at}: there is no column {str(key)[:60]!r}.", remedy=did_you_mean(str(key), COLUMNS)
            )
    id_, verdict = told.get("id"), told.get("verdict")
    if not isinstance(id_, str) or verdict is None:
        raise DataError(
            f"{at}: `id` and `verdict` are needed.", remedy="`luthier lineage` tells the ids of rows."
        )
    answer, against = told.get("answer"), told.get("against")
    if not isinstance(answer, str | None) or not isinstance(against, str | None):
        raise DataError(f"{at}: `answer` and `against` are texts.", remedy="Leave them out, or write texts.")
    if verdict in OUTCOMES:
        return Word(id_, None, verdict, answer, against)
    number = str(verdict).strip()
    if isinstance(verdict, bool) or not number.lstrip("+-").isdecimal() or len(number) > 5:
        raise DataError(
            f"{at}: the verdict {str(verdict)[:40]!r} is neither a whole number nor one of {', '.join(OUTCOMES)}.",
            remedy="Write what people said in one of these two forms.",
        )
    if against is not None:
        raise DataError(
            f"{at}: a number is of one answer, and `against` names another.", remedy="Write win, tie or loss."
        )
    return Word(id_, int(number), None, answer, None)
