"""What is JSON, what meets a schema, which schemas are refused, and fences."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import MissingPart
from luthier.data.rules.json_schema import JsonSchema, wrong
from luthier.data.testing import HOSTILE, batch_of, obeys, run

CITY: dict[str, Any] = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def answered(*answers: str) -> Any:
    return batch_of(*([("user", "u"), ("assistant", answer)] for answer in answers))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": [1, 2.5e3, null, true, "x"]}', None),
        ('"text"', None),
        (" 1 ", None),
        ("", "is not JSON: Expecting value at character 1"),
        ("{'a': 1}", "is not JSON: Expecting property name enclosed in double quotes at character 2"),
        ('{"a": 1} and more', "is not JSON: Extra data at character 10"),
        ("[1, NaN]", "is not JSON: the value NaN is no number of JSON"),
        ("[-Infinity]", "is not JSON: the value -Infinity is no number of JSON"),
        ('{"a": 1, "b": 2, "a": 3}', "is not JSON: the key 'a' stands twice in one object"),
        ("9" * 5000, "is not JSON: a number has too many digits"),
        ("[" * 51 + "]" * 51, "is nested deeper than 50 levels"),
        ("[" * 100_000, "is nested deeper than 50 levels"),
        (json.dumps("[" * 100), None),  # brackets in a string
        ("[" * 50 + "]" * 50, None),
        ("1" * 100_001, "has 100001 characters, more than 100000"),
        ('"\\ud800"', "is not JSON: it holds half a surrogate pair, which is no character"),
        ("[1e999]", "is not JSON: the number 1e999 is too large"),
    ],
)
def test_what_is_json(text: str, reason: str | None) -> None:
    assert wrong(text, JsonSchema()) == reason
    want = None if reason is None else f"the answer {reason}"
    assert run("json_schema", answered(text)).removed == [want]


def test_what_meets_a_schema() -> None:
    pytest.importorskip("jsonschema")
    done = run("json_schema", answered('{"city": "Ulm"}', "{}", '{"city": 5}', "[]"), schema=CITY)
    assert done.removed == [
        None,
        "the answer does not meet the schema: 'city' is a required property",
        "the answer does not meet the schema at city: 5 is not of type 'string'",
        "the answer does not meet the schema: [] is not of type 'object'",
    ]


def test_which_texts_must_be_json() -> None:
    rows = batch_of(
        [("user", "u"), ("assistant", "hm"), ("user", "v"), ("assistant", "{}"), ("rejected", "no")],
        "plain text",
    )
    assert run("json_schema", rows).removed == [None, None]
    assert run("json_schema", rows, on="assistant").removed == [
        "the answer is not JSON: Expecting value at character 1",
        None,
    ]
    assert run("json_schema", rows, on="label").removed == [None, "there is no label"]


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ("  ~~~\r\n[1]\r\n~~~\n", "[1]"),
        ("````\n```json\n1\n```\n````", "1"),
        ("[1]", "[1]"),
        ('"```\\n1\\n```"', '"```\\n1\\n```"'),
    ],
)
def test_fences_are_taken_off(answer: str, inside: str) -> None:
    done = run("json_schema", answered(answer), repair="fences")
    assert done.removed == [None] and done.texts == [["u", inside]]
    assert done.batch["label"].to_pylist() == [inside]
    assert done.changed == (["code fence"] if inside != answer else [None])
    assert done.counts == ({"fences": 1} if inside != answer else {})
    by_label = run("json_schema", answered(answer), repair="fences", on="label")
    assert by_label.texts == [["u", inside]] and by_label.batch["label"].to_pylist() == [inside]


@pytest.mark.parametrize(
    "answer", ["Here:\n```json\n1\n```", "```json\n1\n``` that is it", "```json\n{\n```", "``` 1 ```"]
)
def test_what_is_more_than_a_fence_stays_and_goes(answer: str) -> None:
    done = run("json_schema", answered(answer), repair="fences")
    assert done.removed[0] and done.texts == [["u", answer]]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (
            {"$ref": "https://example.org/s.json"},
            "\\$ref 'https://example.org/s.json' points outside the schema, and nothing",
        ),
        ({"properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}}, "points outside the schema"),
        ({"$ref": "other.json#/a"}, "points outside the schema"),
        ({"$ref": "#/$defs/none"}, "the schema points to what it does not have"),
        ({"$ref": "#"}, "the schema refers to itself without end; remove the circle"),
        (
            {"type": "objekt"},
            "this is no JSON Schema: 'objekt' is not valid under any of the given schemas \\(at type\\)",
        ),
        ({"pattern": "("}, "no JSON Schema|no regular expression"),
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Any], told: str) -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(ValidationError, match=told):
        JsonSchema.model_validate({"schema": schema})


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"not": schema}
    with pytest.raises(ValidationError, match="nested deeper than 64 levels; write it flatter"):
        JsonSchema.model_validate({"schema": schema})


def test_a_schema_may_refer_to_itself_where_the_answer_ends_it() -> None:
    pytest.importorskip("jsonschema")
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    done = run("json_schema", answered('{"next": {"next": {}}}', '{"next": {"x": 1}}'), schema=tree)
    assert done.removed[0] is None and "Additional properties are not allowed" in str(done.removed[1])


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert run("json_schema", answered("{}")).removed == [None]
    with pytest.raises(MissingPart, match="json_schema with a schema needs the package 'jsonschema'"):
        run("json_schema", answered(), schema=CITY)


def test_settings_are_written_and_read_as_schema() -> None:
    wish = JsonSchema.model_validate({"schema": CITY, "repair": "fences"})
    assert wish.plain()["schema"] == CITY and JsonSchema.model_validate(wish.plain()) == wish
    with pytest.raises(ValidationError, match="repair"):
        JsonSchema.model_validate({"repair": True})


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)  # fmt: skip


@given(values, st.sampled_from([None, 2]))
@settings(max_examples=100, deadline=None)
def test_whatever_is_written_as_json_is_json(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert wrong(text, JsonSchema()) is None
    assert run("json_schema", answered(f"```json\n{text}\n```"), repair="fences").texts == [["u", text]]


@given(
    st.lists(
        st.text('`~{}[]",:1a\n ', max_size=20) | st.sampled_from(["```\n1\n```", "{}"]),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None)
def test_laws(texts: list[str]) -> None:
    rows: list[Any] = [[("user", "u"), ("assistant", text)] for text in texts]
    for on in ("answer", "assistant", "label"):
        obeys("json_schema", [*rows, "plain"], repair="fences", on=on)


def test_hostile_texts() -> None:
    obeys(
        "json_schema",
        [[("user", "u"), ("assistant", text)] for text in HOSTILE],
        repair="fences",
        deepest=200,
    )


@pytest.mark.parametrize("piece", ["```\n", "`", "[", '{"a":', '"\\', "\n", "~~~json\n```\n"])
def test_linear(piece: str) -> None:
    wish, seconds = JsonSchema(repair="fences", longest=1_000_000), []
    for size in (50_000, 200_000):
        start = time.process_time()
        run("json_schema", answered(piece * (size // len(piece))), **wish.plain())
        seconds.append(time.process_time() - start)
    assert seconds[1] < 10 * seconds[0] + 0.1
