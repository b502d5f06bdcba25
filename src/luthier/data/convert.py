"""Records as rows of the layouts that other tools read, and files from one layout to another.

    openai             {"messages": [{"role", "content", "tool_calls"}], "tools": [..]}
    sharegpt           {"conversations": [{"from", "value"}], "tools": JSON}
    alpaca             {"instruction", "input", "output"}
    prompt_completion  {"system", "prompt", "completion"}
    labelled           {"text", "label"}
    preference         {"prompt": [messages], "chosen": [message], "rejected": [message], "tools"}
    rated              {"prompt": [messages], "completion": [message], "label": true or false}
    text               {"text"}

Reading a file that was written so gives the same records (shapes.detect knows each of them). What a layout cannot say is
refused, never left out. Ids, groups and weights are no part of what a row says; they stay behind.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from luthier.core.errors import DataError, SpecError, did_you_mean

from .connectors import connect
from .connectors.protocol import Secret
from .grouped import whole
from .json_text import dumps, loads
from .mapping import Layout
from .reading import Job, read_part
from .shapes import Shape, shape_of
from .spec import SourceSpec
from .tools import CALL, TOOL, chat

HEAD_ROWS = 1_000
Row = dict[str, Any]
Record = Mapping[str, Any]

SHARE = {"system": "system", "user": "human", "assistant": "gpt", CALL: "function_call", TOOL: "observation"}


class CannotSay(ValueError):
    """The layout has no place for what the record says."""


def _messages(record: Record, layout: str) -> list[Row]:
    """The turns of a conversation that is neither compared nor rated."""
    _refuse(record["text"] is not None, layout, "plain text", "text")
    _refuse(record["rejected"] is not None, layout, "a rejected answer", "preference")
    _refuse(record["rating"] is not None, layout, "a rating", "rated")
    return list(record["messages"])


def _refuse(wrong: bool, layout: str, what: str, better: str | None = None) -> None:
    if wrong:
        more = f"; `{better}` has" if better else ""
        raise CannotSay(f"it has {what}, for which {layout} has no place{more}")


def _pair(record: Record, layout: str, *, system: bool) -> tuple[str | None, str, str]:
    """(system, user, assistant)."""
    turns = _messages(record, layout)
    _refuse(bool(record["tools"]), layout, "tools", "openai")
    first = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
    _refuse(first is not None and not system, layout, "a system message", "prompt_completion")
    wrong = [turn["role"] for turn in turns] != ["user", "assistant"]
    _refuse(wrong, layout, "more than one question and its answer", "openai")
    return first, turns[0]["content"], turns[1]["content"]


def _openai(record: Record) -> Row:
    messages = written_calls(_messages(record, "openai"))
    return {"messages": messages, "tools": loads(record["tools"]) if record["tools"] else None}


def written_calls(turns: list[Row]) -> list[Row]:
    """Turns as OpenAI's messages, arguments as JSON text."""
    messages = chat(turns)
    for message in messages:
        for one in message.get("tool_calls", ()):
            one["function"]["arguments"] = dumps(one["function"]["arguments"])
            message["content"] = message["content"] or None
    return messages


def _sharegpt(record: Record) -> Row:
    turns = _messages(record, "sharegpt")
    return {
        "conversations": [{"from": SHARE[turn["role"]], "value": turn["content"]} for turn in turns],
        "tools": record["tools"],
    }


def _alpaca(record: Record) -> Row:
    _, user, answer = _pair(record, "alpaca", system=False)
    _refuse(not user.strip(), "alpaca", "an empty question")
    return {"instruction": user, "input": "", "output": answer}


def _prompt_completion(record: Record) -> Row:
    system, user, answer = _pair(record, "prompt_completion", system=True)
    return {"system": system, "prompt": user, "completion": answer}


def _labelled(record: Record) -> Row:
    _, user, answer = _pair(record, "labelled", system=False)
    return {"text": user, "label": answer}


def _apart(record: Record, layout: str) -> tuple[list[Row], Row]:
    """What stands before the last answer, and that."""
    _refuse(record["text"] is not None, layout, "plain text", "text")
    _refuse(bool(record["tools"]) and layout != "preference", layout, "tools", "openai")
    *prompt, answer = written_calls(record["messages"]) if record["tools"] else record["messages"]
    _refuse(not prompt, layout, "nothing before its answer")
    return prompt, answer


def _preference(record: Record) -> Row:
    _refuse(record["rejected"] is None, "preference", "no rejected answer")
    _refuse(record["rating"] is not None, "preference", "a rating")
    prompt, answer = _apart(record, "preference")
    return {
        "prompt": prompt,
        "chosen": [answer],
        "rejected": [{"role": "assistant", "content": record["rejected"]}],
        **({"tools": loads(record["tools"])} if record["tools"] else {}),
    }


def _rated(record: Record) -> Row:
    rating = record["rating"]
    _refuse(rating is None, "rated", "no rating")
    _refuse(rating not in (0.0, 1.0), "rated", f"the rating {rating}, neither 1 nor 0")
    _refuse(record["rejected"] is not None, "rated", "a rejected answer")
    prompt, answer = _apart(record, "rated")
    return {"prompt": prompt, "completion": [answer], "label": bool(rating)}


def _text(record: Record) -> Row:
    _refuse(record["text"] is None, "text", "a conversation", "openai")
    _refuse(record["rating"] is not None, "text", "a rating")
    return {"text": record["text"]}


LAYOUTS: Mapping[str, Callable[[Record], Row]] = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "labelled": _labelled,
    "preference": _preference,
    "rated": _rated,
    "text": _text,
}


def row_of(record: Record, layout: str) -> Row:
    """A record as a row of a layout. Raises CannotSay."""
    return LAYOUTS[layout](record)


@dataclass(frozen=True)
class Converted:
    """What was read and written; `set_aside` says why rows are not there, by place, where the map allows it."""

    shape: Shape
    rows: int
    set_aside: dict[str, str]


def convert(source: SourceSpec, to: str, out: Path, base: Path, secret: Secret = str) -> Converted:
    """Write the rows of a source as JSON Lines of another layout. Never overwrites, and leaves nothing half written. Raises
    DataError for a row that cannot be read, or that the layout cannot say."""
    if to not in LAYOUTS:
        raise SpecError(f"there is no layout {to!r}.", remedy=did_you_mean(to, list(LAYOUTS)))
    if out.suffix != ".jsonl":
        raise SpecError(f"{out} is no name of a JSON Lines file.", remedy="Let it end in .jsonl")
    if out.exists():
        raise SpecError(f"{out} is already there.", remedy="Name a file that does not exist yet.")
    shape, batches, set_aside = _read(source, base, secret)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    rows = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for batch in batches:
                for record in batch.to_pylist():
                    file.write(dumps(_said(record, to)) + "\n")
                    rows += 1
        os.rename(partial, out)
    except FileNotFoundError:
        raise SpecError(f"there is no folder {out.parent}.", remedy="Make it first.") from None
    finally:
        partial.unlink(missing_ok=True)
    return Converted(shape, rows, set_aside)


def _said(record: Record, to: str) -> Row:
    try:
        return row_of(record, to)
    except CannotSay as why:
        raise DataError(
            f"{record['origin']}: {why}.",
            remedy="Nothing was written. Choose another layout, or leave such rows out.",
        ) from None


def _read(
    source: SourceSpec, base: Path, secret: Secret
) -> tuple[Shape, Iterator[pa.RecordBatch], dict[str, str]]:
    connector = connect(source, base, secret)
    name = source.name or source.default_name
    head = connector.head(HEAD_ROWS)
    shape = shape_of(source.map, head, name)
    layout = Layout.of(shape, source.map, None, classify=False, source=name, weight=1.0, columns=head.columns)
    job = Job.of(source, base, layout, secret, hidden=False)
    parts = connector.parts()
    set_aside: dict[str, str] = {}

    def batches() -> Iterator[pa.RecordBatch]:
        for part in [whole(parts)] if layout.map.conversation is not None else parts:
            for found in read_part(job, part):
                yield found.records
                for line in found.removed.to_pylist() if found.removed is not None else ():
                    set_aside[line["origin"]] = line["reason"]

    return shape, batches(), set_aside
