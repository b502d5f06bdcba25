"""Rows of `task: extract`: what is kept, what is set aside and why, and the schema that the dataset then has."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.task import TaskSpec

pytest.importorskip("jsonschema")

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TASK = {"kind": "extract", "schema": SCHEMA}


def rows(n=40, **other):
    return [{"text": f"row {i} of town", "json": json.dumps({"city": f"c{i}", "n": i})} for i in range(n)]


def data(files):
    return {"sources": [{"files": files, "map": {"user": "text", "assistant": "json"}}]}


def test_rows_whose_answer_is_not_what_the_schema_says_are_set_aside(prepare, jsonl):
    bad = [
        {"text": "bad one", "json": "{'city': 'x'}"},
        {"text": "bad two", "json": '{"n": 1}'},
        {"text": "bad three", "json": '{"city": "x", "city": "y"}'},
    ]
    done = prepare(data(jsonl(rows() + bad)), TASK)
    assert sorted((one["rule"], one["reason"]) for one in done.removed()) == [
        ("json_schema", "the answer does not meet the schema: 'city' is a required property"),
        (
            "json_schema",
            "the answer is not JSON: Expecting property name enclosed in double quotes at character 2",
        ),
        ("json_schema", "the answer is not JSON: the key 'city' stands twice in one object"),
    ]
    task = done.facts["task"]
    assert task["schema"] == SCHEMA and task["labels"] is None
    assert task["instruction"].startswith("Extract the data that the text holds. Answer with JSON")
    assert '"required":["city"]' in task["instruction"]


def test_without_a_schema_it_is_that_of_the_training_rows(prepare, jsonl):
    told = rows()
    train = prepare(data(jsonl(told)), {"kind": "extract"})
    assert train.facts["task"]["schema"] == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
    told[0]["json"] = json.dumps({"city": "x", "more": 1})
    sides = {
        row["messages"][-1]["content"]: row["split"]
        for row in prepare(data(jsonl(told)), {"kind": "extract"}).rows()
    }
    side = sides[told[0]["json"]]
    again = prepare(data(jsonl(told)), {"kind": "extract"}).facts["task"]["schema"]
    assert ("more" in again["properties"]) == (side == "train")


def test_objects_in_cells_are_written_as_json(prepare, jsonl):
    told = [{"text": f"row {i}", "json": {"city": "Köln", "n": i}} for i in range(30)]
    done = prepare(data(jsonl(told)), TASK)
    assert {row["messages"][-1]["content"] for row in done.rows()} == {
        f'{{"city":"Köln","n":{i}}}' for i in range(30)
    }


def test_a_schema_in_a_file_is_the_same_as_one_written_out(prepare, jsonl, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    files = jsonl(rows())
    assert prepare(data(files), {**TASK, "schema": "s.json"}).bytes() == prepare(data(files), TASK).bytes()
    with pytest.raises(DataError, match=r"no\.json cannot be read: No such file"):
        prepare(data(files), {**TASK, "schema": "no.json"})
    (tmp_path / "bad.json").write_text('{"type": "objekt"}')
    with pytest.raises(DataError, match=r"bad\.json: this is no JSON Schema: 'objekt'"):
        prepare(data(files), {**TASK, "schema": "bad.json"})


def test_plain_text_and_schemas_of_other_tasks_are_refused(prepare, jsonl):
    source = {"sources": [{"files": jsonl(rows()), "map": {"text": "text"}}]}
    with pytest.raises(DataError, match="an extractor needs an answer for every row"):
        prepare(source, TASK)
    with pytest.raises(ValidationError, match="a schema belongs to `kind: extract`; this task is chat"):
        TaskSpec.model_validate({"kind": "chat", "schema": SCHEMA})
    with pytest.raises(ValidationError, match="points outside the schema"):
        TaskSpec.model_validate({"kind": "extract", "schema": {"$ref": "https://example.org/s"}})
