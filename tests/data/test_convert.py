"""Conversions: what is written is read back the same, through every layout that can say it, and nothing is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError, SpecError
from luthier.data import convert as module
from luthier.data.convert import LAYOUTS, CannotSay, convert, row_of
from luthier.data.json_text import dumps
from luthier.data.records import RECORD, content_ids
from luthier.data.spec import SourceSpec

TEXT = st.text(max_size=8)
SAID = TEXT.filter(lambda text: bool(text.strip()))
TOOLS = '[{"type":"function","function":{"name":"f"}}]'
NONE: dict[str, Any] = dict.fromkeys(RECORD.names) | {"origin": "t:1"}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@st.composite
def chats(draw: st.DrawFn, tools: bool = True) -> dict[str, Any]:
    messages = [turn("system", draw(TEXT))] if draw(st.booleans()) else []
    called = False
    for _ in range(draw(st.integers(1, 3))):
        messages.append(turn("user", draw(TEXT)))
        if tools and draw(st.booleans()):
            called = True
            said = [
                dumps({"name": "f", "arguments": {"x": draw(TEXT | st.integers())}})
                for _ in range(draw(st.integers(1, 2)))
            ]
            messages += [turn("call", one) for one in said]
            messages += [turn("tool", draw(TEXT)) for _ in said]
        messages.append(turn("assistant", draw(TEXT)))
    return NONE | {"messages": messages, "tools": TOOLS if called else None}


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, Any]:
    return NONE | {"messages": [turn("user", draw(SAID)), turn("assistant", draw(TEXT))]}


RECORDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "openai": chats(),
    "sharegpt": chats(),
    "alpaca": pairs(),
    "prompt_completion": pairs() | st.builds(
        lambda one, said: one | {"messages": [turn("system", said), *one["messages"]]}, pairs(), TEXT),
    "labelled": pairs(),
    "preference": st.builds(lambda one, other: one | {"rejected": other}, chats(tools=False), TEXT),
    "rated": st.builds(lambda one, rating: one | {"rating": float(rating)}, chats(tools=False), st.booleans()),
    "text": st.builds(lambda text: NONE | {"text": text}, TEXT),
}  # fmt: skip


def ids(records: list[dict[str, Any]]) -> list[str]:
    batch = pa.RecordBatch.from_pylist(records, RECORD)
    return content_ids(
        *(batch[name] for name in ("messages", "text", "rejected", "rating", "tools"))
    ).to_pylist()


def read(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, batches, _ = module._read(SourceSpec.model_validate({"files": "in.jsonl"}), folder, str)
    return [record for batch in batches for record in batch.to_pylist()]


def test_every_layout_has_records() -> None:
    assert RECORDS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("one", LAYOUTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_back_through_every_layout_that_can_say_it(
    tmp_path: Path, one: str, data: st.DataObject
) -> None:
    records = data.draw(st.lists(RECORDS[one], min_size=1, max_size=3))
    known = ids(records)
    rows = [row_of(record, one) for record in records]
    again = read(tmp_path, rows)
    assert [record["id"] for record in again] == known
    assert [row_of(record, one) for record in again] == rows
    other = data.draw(st.sampled_from([name for name in LAYOUTS if name != one]))
    try:
        told = [row_of(record, other) for record in again]
    except CannotSay:
        return
    there = read(tmp_path, told)
    assert [record["id"] for record in there] == known
    assert [row_of(record, one) for record in there] == rows


CAN = {  # which layouts can say a plain question and answer, and what else there is
    "pair": {"openai", "sharegpt", "alpaca", "prompt_completion", "labelled"},
    "system": {"openai", "sharegpt", "prompt_completion"},
    "turns": {"openai", "sharegpt"},
    "tools": {"openai", "sharegpt"},
    "rejected": {"preference"},
    "rated": {"rated"},
    "text": {"text"},
}
QA = [turn("user", "q"), turn("assistant", "a")]
EXAMPLES = {
    "pair": NONE | {"messages": QA},
    "system": NONE | {"messages": [turn("system", "s"), *QA]},
    "turns": NONE | {"messages": [*QA, *QA]},
    "tools": NONE | {"messages": QA, "tools": TOOLS},
    "rejected": NONE | {"messages": QA, "rejected": "r"},
    "rated": NONE | {"messages": QA, "rating": 1.0},
    "text": NONE | {"text": "t"},
}


@pytest.mark.parametrize("what", EXAMPLES)
def test_what_a_layout_cannot_say_is_refused(what: str) -> None:
    found = set()
    for layout in LAYOUTS:
        try:
            row_of(EXAMPLES[what], layout)
            found.add(layout)
        except CannotSay as why:
            assert layout in str(why)
    assert found == CAN[what]


def write(folder: Path, rows: list[dict[str, Any]]) -> SourceSpec:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceSpec.model_validate({"files": "in.jsonl"})


def test_a_file_is_converted_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = [{"messages": QA}, {"messages": [turn("system", "s"), *QA]}]
    source, out = write(tmp_path, rows), tmp_path / "out.jsonl"
    with pytest.raises(
        DataError,
        match=r"in\.jsonl:2: it has a system message, for which alpaca has no place; `prompt_completion` has",
    ):
        convert(source, "alpaca", out, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    done = convert(source, "prompt_completion", out, tmp_path)
    assert (done.shape.name, done.rows, done.set_aside) == ("messages", 2, {})
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"system": None, "prompt": "q", "completion": "a"},
        {"system": "s", "prompt": "q", "completion": "a"},
    ]
    for to, path, told in (
        ("openai", out, "already there"),
        ("chatml", tmp_path / "b.jsonl", "no layout 'chatml'"),
        ("openai", tmp_path / "b.csv", "no name of a JSON Lines file"),
        ("openai", tmp_path / "no" / "b.jsonl", "there is no folder"),
    ):
        with pytest.raises(SpecError, match=told):
            convert(source, to, path, tmp_path)


def test_a_map_says_what_is_read_and_rows_set_aside_are_told(tmp_path: Path) -> None:
    write(tmp_path, [{"q": "1", "a": ["x", "y", "z"]}, {"q": "2", "a": ["x"]}])
    wish = {"user": "q", "ranking": "a", "on_bad_row": "set_aside"}
    source = SourceSpec.model_validate({"files": "in.jsonl", "map": wish})
    done = convert(source, "preference", tmp_path / "out.jsonl", tmp_path)
    assert done.rows == 2 and list(done.set_aside) == ["in.jsonl:2"]


def test_sharegpt_calls_are_written_as_other_tools_write_them(tmp_path: Path) -> None:
    called = [
        turn("user", "q"),
        turn("call", '{"name":"f","arguments":{"x":1}}'),
        turn("tool", "r"),
        turn("assistant", "a"),
    ]
    assert row_of(NONE | {"messages": called, "tools": TOOLS}, "sharegpt") == {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name":"f","arguments":{"x":1}}'},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a"},
        ],
        "tools": TOOLS,
    }
