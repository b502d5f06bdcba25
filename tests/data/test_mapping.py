"""Layouts: what is recognised, what each becomes, and which rows cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError
from luthier.data.connectors.protocol import Block
from luthier.data.mapping import Layout, to_records
from luthier.data.shapes import detect, message_keys
from luthier.data.spec import MapSpec

CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
]
SHARE = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
LONG = "a text that is clearly longer than a label"


def shape_of(*rows: dict[str, Any]) -> Any:
    return detect(list(rows[0]), rows, "t.jsonl")


def records(
    rows: list[dict[str, Any]],
    wish: MapSpec | None = None,
    classify: bool = False,
    group_by: str | None = None,
) -> Any:
    shape = detect(list(rows[0]), rows, "t.jsonl") if wish is None else None
    if shape is None:
        assert wish is not None
        from luthier.data.shapes import Shape

        keys = message_keys(wish.messages, rows) if wish.messages else None
        shape = Shape("map", wish, 1, "", keys or ("role", "content"))
    layout = Layout.of(shape, wish, group_by, classify=classify, source="t", weight=0.5)
    block = Block(
        {name: [row.get(name) for row in rows] for name in layout.columns}, "t.jsonl", range(1, len(rows) + 1)
    )
    return to_records(block, layout)


def turns_of(rows: list[dict[str, Any]], wish: MapSpec | None = None) -> list[list[tuple[str, str]]]:
    batch, bad = records(rows, wish)
    assert bad.reasons == []
    return [[(t["role"], t["content"]) for t in messages] for messages in batch["messages"].to_pylist()]


@pytest.mark.parametrize(
    ("row", "name", "wish"),
    [
        ({"messages": CHAT, "id": 1}, "messages", {"messages": "messages"}),
        ({"anything": CHAT}, "messages", {"messages": "anything"}),
        ({"conversations": SHARE, "id": "x"}, "sharegpt", {"messages": "conversations"}),
        (
            {"instruction": "i", "input": "", "output": "o"},
            "alpaca",
            {"user": ["instruction", "input"], "assistant": "output"},
        ),
        (
            {"prompt": "p", "completion": "c"},
            "prompt-completion",
            {"user": "prompt", "assistant": "completion"},
        ),
        ({"Question": "p", "Answer": "c"}, "prompt-completion", {"user": "Question", "assistant": "Answer"}),
        (
            {"system": "s", "prompt": "p", "response": "c"},
            "prompt-completion",
            {"system": "system", "user": "prompt", "assistant": "response"},
        ),
        ({"text": "t", "label": 1}, "labelled", {"user": "text", "label": "label"}),
        ({"words": LONG, "category": "x"}, "labelled", {"user": "words", "label": "category"}),
        ({"text": "t"}, "text", {"text": "text"}),
        ({"whatever": "t"}, "text", {"text": "whatever"}),
    ],
)
def test_layouts_are_recognised_with_a_reason(row: dict[str, Any], name: str, wish: dict[str, Any]) -> None:
    shape = shape_of(row)
    assert (shape.name, shape.map) == (name, MapSpec.model_validate(wish))
    assert 0.5 < shape.confidence <= 1
    assert any(repr(column) in shape.reason or column in shape.reason for column in row)


def test_a_layout_that_is_not_recognised_lists_the_columns_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"from the columns a, b\.(.|\n)*map: \{user: COLUMN"):
        shape_of({"a": 1, "b": 2})


def test_each_layout_becomes_the_same_kind_of_conversation() -> None:
    assert turns_of([{"messages": CHAT}]) == [[("system", "s"), ("user", "u"), ("assistant", "a")]]
    assert turns_of([{"conversations": SHARE}]) == [[("user", "u"), ("assistant", "a")]]
    alpaca = [
        {"instruction": "i", "input": "x", "output": "o"},
        {"instruction": "i", "input": " ", "output": "o"},
    ]
    assert turns_of(alpaca) == [[("user", "i\n\nx"), ("assistant", "o")], [("user", "i"), ("assistant", "o")]]
    with_system = [
        {"system": "s", "prompt": "p", "response": "c"},
        {"system": None, "prompt": "q", "response": "d"},
    ]
    assert turns_of(with_system) == [
        [("system", "s"), ("user", "p"), ("assistant", "c")],
        [("user", "q"), ("assistant", "d")],
    ]
    template = MapSpec(user="{title}: {body}\n{{end}}", assistant="reply")
    assert turns_of([{"title": "T", "body": "B", "reply": "R"}], template) == [
        [("user", "T: B\n{end}"), ("assistant", "R")]
    ]


def test_plain_text_stays_text() -> None:
    batch, _ = records([{"text": "a"}])
    assert (batch["text"].to_pylist(), batch["messages"].to_pylist()) == (["a"], [None])


def test_numbers_and_truth_values_become_text_predictably(tmp_path: Path) -> None:
    labels = [1, 2.0, True, False, 0.1, "x"]
    batch, _ = records([{"text": "t", "label": label} for label in labels], classify=True)
    assert batch["label"].to_pylist() == ["1", "2.0", "true", "false", "0.1", "x"]
    for values in ([1, 2], [2.0, 0.1], [True, False]):  # the same from typed columns
        column = pa.array(values)
        layout = Layout(MapSpec(user="t", label="l"), ("role", "content"), True, "t", 1)
        typed, _ = to_records(Block({"t": pa.array(["a", "b"]), "l": column}, "p.parquet", [1, 2]), layout)
        untyped, _ = to_records(Block({"t": ["a", "b"], "l": values}, "p.jsonl", [1, 2]), layout)
        assert typed["label"].to_pylist() == untyped["label"].to_pylist()


def test_messages_are_read_from_parquet_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"conversations": [SHARE, SHARE]}), tmp_path / "t.parquet")
    column = pq.read_table(tmp_path / "t.parquet")["conversations"].combine_chunks()
    layout = Layout(MapSpec(messages="conversations"), ("from", "value"), False, "t", 1)
    batch, _ = to_records(Block({"conversations": column}, "t.parquet", [1, 2]), layout)
    assert batch["messages"].to_pylist()[1] == [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    with pytest.raises(DataError, match="not lists of messages with role and content"):
        to_records(
            Block({"conversations": column}, "t.parquet", [1, 2]),
            Layout(layout.map, ("role", "content"), False, "t", 1),
        )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "t", "label": None}, "the label is missing ('label' is empty)"),
        ({"text": "t"}, "the label is missing ('label' is empty)"),
        ({"text": None, "label": "a"}, "the user text is missing ('text' is empty)"),
        ({"text": ["x"], "label": "a"}, "'text' holds a list, not text"),
        ({"text": {"x": 1}, "label": "a"}, "'text' holds an object, not text"),
    ],
)
def test_a_row_that_lacks_a_part_is_told_with_its_place(row: dict[str, Any], reason: str) -> None:
    batch, bad = records(
        [{"text": "t", "label": "a"}, row, {"text": "u", "label": "b"}], MapSpec(user="text", label="label")
    )
    assert batch["origin"].to_pylist() == ["t.jsonl:1", "t.jsonl:3"]
    assert (bad.origins, bad.reasons) == (["t.jsonl:2"], [reason])


USER, ANSWER = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "the conversation is missing"),
        ([], "the conversation is missing"),
        ("hello", "it is not a list of messages"),
        (["hello"], "a message is not an object"),
        ([USER], "does not end with the assistant"),
        ([USER, ANSWER, USER], "does not end with the assistant"),
        ([USER, {"role": "tool", "content": "x"}, ANSWER], "a message speaks as 'tool'"),
        ([USER, {"content": "x"}], "a message speaks as None"),
        ([{"role": 1, "content": "x"}], "'role' is not text"),
        ([USER, {"role": "assistant", "content": None}], "a message has no content"),
        ([USER, {"role": "system", "content": "s"}, ANSWER], "a system message stands after the first"),
        ([USER, {"role": "assistant", "content": [{"type": "image_url"}]}], "parts that are not text"),
    ],
)
def test_a_conversation_that_cannot_be_learnt_is_told(messages: Any, reason: str) -> None:
    good = {"messages": [USER, ANSWER]}
    batch, bad = records([good, {"messages": messages}, good], MapSpec(messages="messages"))
    assert len(batch) == 2
    assert bad.origins == ["t.jsonl:2"]
    assert reason in bad.reasons[0]


def test_content_parts_of_text_are_joined() -> None:
    parts = {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert turns_of([{"messages": [USER, parts]}])[0][1] == ("assistant", "ab")


def test_ids_name_the_content_and_nothing_else() -> None:
    rows = [{"text": "one", "label": "a"}, {"text": "two", "label": "a"}]
    one, _ = records(rows, MapSpec(user="text", label="label"))
    other, _ = records(rows[::-1], MapSpec(user="text", label="label", on_bad_row="set_aside"))
    assert one["id"].to_pylist() == other["id"].to_pylist()[::-1]
    assert len(set(one["id"].to_pylist())) == 2
    assert all(len(i) == 32 for i in one["id"].to_pylist())
    tricky = [{"text": "a", "label": "b:c"}, {"text": "a:b", "label": "c"}]  # no two contents share one form
    assert len(set(records(tricky, MapSpec(user="text", label="label"))[0]["id"].to_pylist())) == 2


def test_a_group_comes_from_the_map_or_the_split() -> None:
    rows = [{"text": "t", "label": "a", "who": 7, "team": "x"}]
    assert records(rows, MapSpec(user="text", label="label"), group_by="who")[0]["group"].to_pylist() == ["7"]
    assert records(rows, MapSpec(user="text", label="label", group="team"), group_by="who")[0][
        "group"
    ].to_pylist() == ["x"]
