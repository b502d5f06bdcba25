"""How records look as lines of text: JSON Lines in the forms that trainers read, or flat CSV.

    conversation    {"messages": [{"role": ..., "content": ...}, ...]}              OpenAI's chat form, with its tools and calls
    plain text      {"text": ...}
    preference      {"prompt": [...], "chosen": [{...}], "rejected": [{...}]}       TRL's conversational forms
    thumbs          {"prompt": [...], "completion": [{...}], "label": true}

A line says what is learnt and nothing else; ids, groups, sources and weights leave as Parquet or as a table. Not here: where
the lines go (export_files).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError
from luthier.data.convert import written_calls
from luthier.data.json_text import loads
from luthier.data.tools import before_answer

if TYPE_CHECKING:
    import pyarrow as pa

FLAT = ("user assistant", "system user assistant")
CSV_COLUMNS = ("id", "system", "user", "assistant", "rejected", "rating", "text", "label", "group", "weight")
RISKY = ("=", "+", "-", "@", "\t", "\r")


def line_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """One record as a JSON object.

    >>> line_of({"messages": [{"role": "user", "content": "Hi", "name": None}], "label": "x"})
    {'messages': [{'role': 'user', 'content': 'Hi'}]}
    """
    rating = row.get("rating")
    rated = {"rating": rating} if rating is not None else {}
    if row.get("messages") is None:
        return {"text": row["text"], **rated}
    told = [{key: cell for key, cell in turn.items() if cell is not None} for turn in row["messages"]]
    said, at, more = told, before_answer(told), {}
    if row.get("tools"):
        said, at, more = written_calls(told), len(written_calls(told[:at])), {"tools": loads(row["tools"])}
    if row.get("rejected") is not None:
        worse = [{"role": "assistant", "content": row["rejected"]}]
        return {"prompt": said[:at], "chosen": said[at:], "rejected": worse, **more, **rated}
    if rating in (0, 1):
        return {"prompt": said[:at], "completion": said[at:], "label": bool(rating), **more}
    return {"messages": said, **more, **rated}


class JsonLines:
    suffix = ".jsonl"

    def facts(self) -> dict[str, Any]:
        return {}

    def head(self) -> bytes:
        return b""

    def lines(self, batch: pa.RecordBatch) -> bytes:
        return "".join(
            json.dumps(line_of(row), ensure_ascii=False, allow_nan=False) + "\n" for row in batch.to_pylist()
        ).encode()


class Csv:
    """One line a record; only columns that some record of the dataset fills. A cell that a spreadsheet would run as a formula
    has an apostrophe before it, and how many do is told."""

    suffix = ".csv"

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Looks at every record first. Raises SpecError when one does not fit on a line of cells."""
        filled: set[str] = set()
        for batch in batches:
            filled |= _filled(batch)
        self._columns = [name for name in CSV_COLUMNS if name in filled]
        self._guarded = 0

    def facts(self) -> dict[str, Any]:
        return {"guarded_cells": self._guarded}

    def head(self) -> bytes:
        return self._written([self._columns])

    def lines(self, batch: pa.RecordBatch) -> bytes:
        return self._written(self._cells(row) for row in batch.to_pylist())

    def _cells(self, row: Mapping[str, Any]) -> Iterator[str]:
        cells = {**row, **{turn["role"]: turn["content"] for turn in row.get("messages") or ()}}
        for name in self._columns:
            cell = cells.get(name)
            text = "" if cell is None else str(cell)
            if text.startswith(RISKY) and not _is_number(text):
                self._guarded += 1
                text = f"'{text}"
            yield text

    def _written(self, lines: Iterable[Iterable[str]]) -> bytes:
        into = io.StringIO()
        writer = csv.writer(into, lineterminator="\n")
        whole = csv.writer(into, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for line in map(list, lines):
            # Python before 3.11.9 leaves a lone carriage return without quotes, and readers end the row there
            (whole if any("\r" in cell for cell in line) else writer).writerow(line)
        return into.getvalue().encode()


def _filled(batch: pa.RecordBatch) -> set[str]:
    """The columns of CSV that some of these records fill."""
    filled = {
        name for name in CSV_COLUMNS if name in batch.schema.names and batch[name].null_count < len(batch)
    }
    for row in batch.to_pylist() if "messages" in batch.schema.names else ():
        turns = row["messages"]
        if turns is None:
            continue
        roles = " ".join(turn["role"] for turn in turns)
        more = (
            "tools"
            if row.get("tools")
            else next(
                (
                    key
                    for turn in turns
                    for key, cell in turn.items()
                    if key not in ("role", "content") and cell is not None
                ),
                None,
            )
        )
        if roles not in FLAT or more:
            raise SpecError(
                f"the row {row['id'][:12]} ({row['origin']}) does not fit on one line of cells: "
                + (f"its messages have {more}." if more else f"its messages are {roles.replace(' ', ', ')}."),
                remedy="CSV takes a question and an answer, with a system message before them at most; write --format jsonl.",
            )
        filled |= set(roles.split())
    return filled


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
