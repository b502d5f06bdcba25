"""Places inside a row: what a path finds, what it does not, and that formats agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.connectors.protocol import Block
from luthier.data.json_text import dumps, loads
from luthier.data.maps import MapSpec
from luthier.data.paths import paths_of, reach, steps_of, value_of

from .conftest import Prepare

Jsonl = Callable[..., str]
ROWS: list[dict[str, Any]] = [
    {"ticket": {"body": "q1", "tags": ["a", "b"]}, "turns": [{"text": "x"}, {"text": "y"}], "a.b": "literal"},
    {"ticket": {"body": None, "tags": []}, "turns": None, "a.b": "more"},
]


def reached(rows: list[dict[str, Any]], path: str) -> tuple[list[Any], dict[int, str]]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    block = Block({name: [row.get(name) for row in rows] for name in columns}, "t", range(1, len(rows) + 1))
    problems: dict[int, str] = {}
    return reach(block, paths_of([path], columns, "t"), problems).columns[path], problems


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("ticket.body", ["q1", None]),
        ("ticket.tags[1]", ["b", None]),
        ("turns[-1].text", ["y", None]),
        ("turns[5].text", [None, None]),
        ("ticket.absent", [None, None]),
        ("a.b", ["literal", "more"]),
        (r"a\.b", ["literal", "more"]),
    ],
)
def test_a_path_finds_what_is_there(path: str, values: list[Any]) -> None:
    assert reached(ROWS, path) == (values, {})


def test_json_in_text_is_read_on_the_way(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = [{"payload": json.dumps(row)} for row in ROWS] + [{"payload": ""}, {"payload": None}]
    assert reached(rows, "payload.ticket.body") == (["q1", None, None, None], {})
    nested = [{"payload": json.dumps({"inner": json.dumps({"x": 1})})}]
    assert reached(nested, "payload.inner.x") == ([1], {})


def test_a_step_into_what_has_no_inside_is_a_problem_of_its_row() -> None:
    rows = [{"a": {"b": 3}}, {"a": [1]}, {"a": "{oops"}, {"a": True}, {"a": {"b": {"c": "fine"}}}]
    values, problems = reached(rows, "a.b.c")
    assert values == [None, None, None, None, "fine"]
    assert problems == {
        0: "'a.b.c' leads nowhere: 'c' is looked for in a number, not in an object",
        1: "'a.b.c' leads nowhere: 'b' is looked for in a list, not in an object; say which of it, as in [0]",
        2: "'a.b.c' leads nowhere: it is not valid JSON: Expecting property name enclosed in double quotes (character 2)",
        3: "'a.b.c' leads nowhere: 'b' is looked for in true or false, not in an object",
    }


@pytest.mark.parametrize("text", ["a..b", ".a", "a.", "a[x]", "a[0", "[0]", "a]b", "a[0]b", ""])
def test_what_is_no_path_is_refused_and_a_column_of_that_name_is_not(text: str) -> None:
    with pytest.raises(ValueError, match="is no path"):
        steps_of(text)
    if text:
        with pytest.raises(DataError, match="there is no column"):
            paths_of([text], ["b"], "t")
        assert paths_of([text], [text], "t") == {}


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4))
def test_any_name_can_be_written_in_a_path(names: list[str]) -> None:
    escaped = [name.translate({ord(c): f"\\{c}" for c in ".[]\\"}) for name in names]
    assert steps_of(".".join(escaped)) == names


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "NaN", "1e999", '"\\ud800"', "[" * 5000, "[" * 250 + "]" * 250]
)
def test_json_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        loads(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON)
def test_json_is_written_as_it_is_read(value: Any) -> None:
    assert loads(dumps(value)) == value


def test_parquet_csv_and_json_lines_give_the_same_dataset(
    prepare: Prepare, jsonl: Jsonl, tmp_path: Path
) -> None:
    import csv

    rows = [{"t": {"q": f"question {n}", "n": [n]}, "a": {"text": [{"v": f"answer {n}"}]}} for n in range(30)]
    wish = {"system": {"constant": "Be brief."}, "user": "Re: {t.q} ({t.n[0]})", "assistant": "a.text[-1].v"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t", "a"])
        writer.writerows([json.dumps(row["t"]), json.dumps(row["a"])] for row in rows)
    jsonl(rows, "rows.jsonl")
    found = [
        prepare({"sources": [{"files": f"rows.{kind}", "map": wish, "name": "r"}]})
        for kind in ("jsonl", "parquet", "csv")
    ]
    ids = [{row["id"] for row in one.rows()} for one in found]
    assert ids[0] == ids[1] == ids[2]
    [one] = [row for row in found[0].rows() if row["messages"][2]["content"] == "answer 7"]
    assert [turn["content"] for turn in one["messages"]] == ["Be brief.", "Re: question 7 (7)", "answer 7"]


def test_a_typed_column_without_the_key_says_what_it_has(tmp_path: Path, prepare: Prepare) -> None:
    pq.write_table(pa.Table.from_pylist([{"t": {"body": "x"}, "a": "y"}]), tmp_path / "rows.parquet")
    with pytest.raises(
        DataError, match=r"'t.bdy' leads nowhere: there is no 'bdy' beside body(.|\n)*did you mean 'body'"
    ):
        prepare({"sources": [{"files": "rows.parquet", "map": {"user": "t.bdy", "assistant": "a"}}]})


def test_constants_label_a_whole_source(prepare: Prepare, jsonl: Jsonl) -> None:
    sources = [
        {"files": jsonl([{"m": f"{kind} {n}"} for n in range(20)], f"{kind}.jsonl"),
         "map": {"user": "m", "label": {"constant": kind}}}
        for kind in ("spam", "ham")
    ]  # fmt: skip
    found = prepare({"sources": sources}, task={"kind": "classify"})
    assert {row["label"] for row in found.rows() if row["messages"][1]["content"].startswith("ham")} == {
        "ham"
    }


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"user": {"constant": "x"}, "assistant": {"constant": "y"}}, "no column is read"),
        ({"user": "u", "assistant": "a", "rating": {"constant": "up"}}, "a rating is a number"),
    ],
)
def test_constants_that_mean_nothing_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MapSpec.model_validate(wish)


def test_messages_may_be_json_in_text_or_lie_inside(prepare: Prepare, jsonl: Jsonl) -> None:
    def chat(n: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]

    def share(n: int) -> list[dict[str, str]]:
        return [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": "a"}]

    ways: list[tuple[Callable[[int], Any], str]] = [
        (lambda n: {"m": chat(n)}, "m"),
        (lambda n: {"m": json.dumps(chat(n))}, "m"),
        (lambda n: {"body": {"m": chat(n)}}, "body.m"),
        (lambda n: {"body": json.dumps({"m": share(n)})}, "body.m"),
    ]
    told = [
        prepare({"sources": [{"files": jsonl([row(n) for n in range(30)]), "map": {"messages": path}}]})
        for row, path in ways
    ]
    assert len({frozenset(row["id"] for row in one.rows()) for one in told}) == 1
    assert value_of({"body": json.dumps({"m": share(1)})}, "body.m") == share(1)


def test_two_texts_of_json_in_one_typed_column_are_two(tmp_path: Path, prepare: Prepare) -> None:
    rows = [
        {
            "ticket": {
                "request": json.dumps({"body": f"Question {n}?"}),
                "reply": json.dumps({"body": f"Answer {n}."}),
            }
        }
        for n in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = {"user": "ticket.request.body", "assistant": "ticket.reply.body"}
    done = prepare({"sources": [{"files": "rows.parquet", "map": found}]})
    for row in done.rows():
        asked, said = (turn["content"] for turn in row["messages"])
        assert (asked[:8], said[:6]) == ("Question", "Answer")
        assert asked.split()[1].strip("?") == said.split()[1].strip(".")
