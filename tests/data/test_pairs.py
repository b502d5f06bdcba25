"""Better and worse answers, and ratings: which layouts are read, what each becomes, ids, and what rules do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.core.errors import DataError
from luthier.data.connectors.protocol import Block
from luthier.data.lineage import find_row
from luthier.data.mapping import Bad, Layout, to_records
from luthier.data.opened import Opened
from luthier.data.propose import propose
from luthier.data.records import RECORD, TURNS, content_ids, turns
from luthier.data.shapes import detect
from luthier.data.spec import MapSpec

Prepare = Any  # the fixture of conftest.py
ASKED = {"role": "user", "content": "2 + 2?"}
GOOD, BAD = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}


def read(rows: list[dict[str, Any]], wish: MapSpec | None = None, arrow: bool = False) -> tuple[Any, Bad]:
    """Rows as a JSON file (lists) or a Parquet file (Arrow arrays) would bring them."""
    shape = detect(list(rows[0]), rows, "t.jsonl")
    layout = Layout.of(shape, wish, None, classify=False, source="t", weight=1.0)
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in layout.columns}
    if arrow:
        columns = {name: pa.array(cells) for name, cells in columns.items()}
    return to_records(Block(columns, "t.jsonl", range(1, len(rows) + 1)), layout)


PREFERENCES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, {"user": "prompt", "chosen": "chosen", "rejected": "rejected"}),
    ({"system": None, "question": "2 + 2?", "chosen": "4", "rejected": "5"},
     {"system": "system", "user": "question", "chosen": "chosen", "rejected": "rejected"}),
    ({"prompt": "2 + 2?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, {"chosen": "chosen", "rejected": "rejected"}),
    ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}),
    ({"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"},
     {"chosen": "chosen", "rejected": "rejected"}),
]  # fmt: skip


@pytest.mark.parametrize("arrow", [False, True])
@pytest.mark.parametrize(("row", "wish"), PREFERENCES)
def test_every_layout_of_a_pair_becomes_the_same_record(row: Any, wish: Any, arrow: bool) -> None:
    shape = detect(list(row), [row], "t.jsonl")
    assert (shape.name, shape.map) == ("preference", MapSpec.model_validate(wish))
    batch, bad = read([row, row], arrow=arrow and "system" not in row)
    assert bad.reasons == []
    assert batch["messages"].to_pylist() == [[ASKED, GOOD]] * 2
    assert batch["rejected"].to_pylist() == ["5", "5"]
    assert batch["rating"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("row", "wish"),
    [
        ({"prompt": "2 + 2?", "completion": "4", "label": True}, {"user": "prompt", "assistant": "completion", "rating": "label"}),
        ({"prompt": "2 + 2?", "completion": "4", "label": "TRUE"}, {"user": "prompt", "assistant": "completion", "rating": "label"}),
        ({"prompt": [ASKED], "completion": [GOOD], "label": True}, {"messages": "prompt", "chosen": "completion", "rating": "label"}),
        ({"messages": [ASKED, GOOD], "liked": True}, {"messages": "messages", "rating": "liked"}),
    ],
)  # fmt: skip
def test_every_layout_with_a_rating(row: Any, wish: Any) -> None:
    shape = detect(list(row), [row], "t.jsonl")
    assert (shape.name, shape.map) == ("rated", MapSpec.model_validate(wish))
    batch, bad = read([row])
    assert bad.reasons == []
    assert (batch["messages"].to_pylist(), batch["rating"].to_pylist()) == ([[ASKED, GOOD]], [1.0])


def test_a_label_that_is_no_truth_value_rates_nothing() -> None:
    row = {"prompt": "p", "completion": "c", "label": "queue"}
    assert detect(list(row), [row], "t").map.rating is None
    text = {"text": "a text", "label": True}  # nothing to rate: this is a classification
    assert detect(list(text), [text], "t").name == "labelled"


def test_ratings_are_numbers_in_any_format() -> None:
    wish = MapSpec(rating="stars")
    rows = [{"prompt": "p", "completion": "c", "stars": v} for v in (1, 0.5, True, "2.5", "false", " 3 ")]
    assert read(rows, wish)[0]["rating"].to_pylist() == [1.0, 0.5, 1.0, 2.5, 0.0, 3.0]
    rows = [{"prompt": "p", "completion": "c", "stars": v} for v in (True, False)]
    assert read(rows, wish, arrow=True)[0]["rating"].to_pylist() == [1.0, 0.0]
    odd = ["up", "nan", float("inf"), None, "1_0", [1]]
    _, bad = read([{"prompt": "p", "completion": "c", "stars": v} for v in odd], wish)
    assert bad.reasons[0] == "'stars' holds 'up', not a number; write 1 or true for good, 0 or false for bad"
    assert bad.reasons[3] == "the rating is missing ('stars' is empty)"
    assert len(bad.reasons) == len(odd)


def test_pairs_that_cannot_be_compared_are_told() -> None:
    other = {"role": "user", "content": "3 + 3?"}
    rows = [
        {"chosen": [ASKED, GOOD], "rejected": [other, BAD]},
        {"chosen": [ASKED, GOOD], "rejected": []},
        {"chosen": [ASKED, GOOD], "rejected": None},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED]},
        {"chosen": [ASKED], "rejected": [ASKED, BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    ]
    batch, bad = read(rows)
    assert batch["rejected"].to_pylist() == ["5"]
    assert bad.reasons == [
        "'rejected' differs from the chosen conversation before its last answer",
        "the rejected answer is missing ('rejected' is empty)",
        "the rejected answer is missing ('rejected' is empty)",
        "'rejected' does not end with the assistant, so it rejects no answer",
        "the conversation does not end with the assistant, so there is no answer to learn",
    ]
    _, bad = read([{"prompt": "p", "chosen": "c", "rejected": v} for v in ("r", None)])
    assert bad.reasons == ["the rejected answer is missing ('rejected' is empty)"]
    _, bad = read([{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "a plain text"}])
    assert "neither a list of messages nor a transcript" in bad.reasons[0]
    _, bad = read([{"prompt": [ASKED], "chosen": v, "rejected": [BAD]} for v in ([GOOD], [])])
    assert bad.reasons == ["the chosen answer is missing ('chosen' is empty)"]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"user": "u", "assistant": "a", "chosen": "c"}, "assistant and chosen both name the answer"),
        ({"rejected": "r"}, "rejected has nothing to stand against"),
        ({"chosen": "c"}, "chosen alone is a whole conversation"),
        ({"text": "t", "rejected": "r"}, "plain text has no answers to compare"),
        ({"chosen": ["a", "b"], "rejected": "r"}, "without user, chosen and rejected are each one column"),
        ({"user": "u", "rejected": "r"}, "a pair needs user, and assistant or label"),
    ],
)
def test_maps_that_make_no_pair_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MapSpec.model_validate(wish)


# ids


def test_rows_without_pairs_keep_the_ids_they_always_had() -> None:
    # Written down before records knew of pairs and ratings.
    messages = pa.array(
        [
            [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
            None,
            [{"role": "system", "content": "s"}, {"role": "user", "content": "é"}, {"role": "assistant", "content": ""}],
        ],
        TURNS,
    )  # fmt: skip
    text = pa.array([None, "plain", None], pa.string())
    known = [
        "aba1abd9002b161b6488b1bb36c4814d",
        "1229bcf6cc5067a8a3e842f9da44ffe2",
        "7e329175c767b752b7819f00541785c0",
    ]
    assert content_ids(messages, text).to_pylist() == known
    none = pa.nulls(3, pa.string()), pa.nulls(3, pa.float64())
    assert content_ids(messages, text, *none).to_pylist() == known


pieces = st.one_of(st.none(), st.text(alphabet="a\x00:1rejectdng", max_size=12))
rows_of_content = st.tuples(
    st.text(alphabet="a\x00:1rejectdng", max_size=12), pieces, st.sampled_from([None, 0.0, 1.0, 2.5])
)


@given(st.lists(rows_of_content, min_size=1, max_size=12, unique=True))
@settings(max_examples=200, deadline=None)
def test_different_contents_have_different_ids(rows: Any) -> None:
    messages = pa.array([[ASKED, {"role": "assistant", "content": said}] for said, _, _ in rows], TURNS)
    texts = pa.array([said for said, _, _ in rows], pa.string())
    none = pa.nulls(len(rows), pa.string())
    rejected = pa.array([r for _, r, _ in rows], pa.string())
    rating = pa.array([v for _, _, v in rows], pa.float64())
    ids = content_ids(messages, none, rejected, rating).to_pylist()
    assert len(set(ids)) == len(rows)
    of_texts = content_ids(pa.nulls(len(rows), TURNS), texts, none, rating).to_pylist()
    assert len(set(of_texts)) == len({(said, value) for said, _, value in rows})


# rules


def batch_of(*rows: tuple[str, str | None]) -> pa.RecordBatch:
    """(chosen, rejected) of each row, with a plain text between to see that nothing slips."""
    records: list[dict[str, Any]] = []
    for i, (chosen, rejected) in enumerate(rows):
        turns_ = [ASKED, {"role": "assistant", "content": chosen}]
        records.append(
            {"id": f"{2 * i:032x}", "messages": turns_, "rejected": rejected, "source": "t", "origin": "t:1"}
        )
        records.append({"id": f"{2 * i + 1:032x}", "text": f"plain {i}", "source": "t", "origin": "t:2"})
    return pa.RecordBatch.from_pylist(records, schema=RECORD)


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.text(max_size=5)), max_size=6))
@settings(max_examples=100, deadline=None)
def test_contents_go_back_where_they_came_from(rows: Any) -> None:
    batch = batch_of(*rows)
    rows_opened = Opened(batch)
    assert rows_opened.close().equals(batch)
    before = [rows_opened.of_row(i) for i in range(batch.num_rows)]
    rows_opened.edit(rows_opened.text + "!")
    marked = Opened(rows_opened.close())
    for i in range(batch.num_rows):
        assert marked.of_row(i) == [said + "!" for said in before[i]]
    assert turns(batch)["role"].to_list().count("rejected") == sum(r is not None for _, r in rows)


def run(name: str, batch: pa.RecordBatch, **wish: Any) -> Any:
    """(the rows afterwards, what the rule said of them)"""
    rule, opened = plugin.load("rule", name), Opened(batch)
    said = rule.run(opened, rule.spec.model_validate(wish))
    opened.edit(said.text, said.label)
    return opened.close(), said


def test_normalize_edits_the_rejected_answer_too_and_says_so() -> None:
    batch, said = run("normalize", batch_of(("four", "five  \u200b"), ("four", "five")))
    assert batch["rejected"].to_pylist() == ["five", None, "five", None]
    assert said.changed.to_pylist() == ["invisible characters, whitespace", None, None, None]


def test_drop_empty_looks_at_the_rejected_answer() -> None:
    _, said = run("drop_empty", batch_of(("4", " "), ("4", "4"), ("4", "5"), ("4", None)))
    assert said.removed.to_pylist()[::2] == ["the rejected turn is empty", "the rejected answer is the chosen one", None, None]  # fmt: skip


def test_length_can_count_the_rejected_answer() -> None:
    batch = batch_of(("four", "five hundred"), ("four", "five"))
    assert run("length", batch, max=5, on="rejected")[1].removed.to_pylist()[::2] == [
        "12 chars, more than 5",
        None,
    ]
    # "2 + 2?" has 6 characters: 6 + 4 + 12 and 6 + 4 + 4
    assert run("length", batch, max=14, on="all")[1].removed.to_pylist()[::2] == [
        "22 chars, more than 14",
        None,
    ]


# the stage


def test_pairs_from_file_to_dataset(prepare: Prepare, jsonl: Any) -> None:
    rows = [{"prompt": f"question {i}", "chosen": f"good  {i}", "rejected": f"bad  {i}"} for i in range(40)]
    rows += [rows[0], {**rows[1], "rejected": "another bad one"}]
    jsonl(rows)
    rules = {"quality": ["normalize", "drop_empty", "deduplicate"]}
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": rules}, {"instruction": "Answer."})
    # one row repeats; one has the same conversation and another rejected answer, and stays
    assert (done.rule("deduplicate")["removed"], len(done.rows())) == (1, 41)
    for row in done.rows():
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
        assert row["rejected"].startswith(("bad ", "another")) and "  " not in row["rejected"]
    assert done.rule("normalize")["changed"] == 42
    assert "bad" in done.rule("deduplicate")["examples"][0]["before"]
    found = find_row(done.out, done.rows()[0]["id"])
    assert found is not None and found["rejected"] == done.rows()[0]["rejected"] and found["rating"] is None
    characters = sum(len(t["content"]) for row in done.rows() for t in row["messages"])
    assert done.facts["characters"] == characters + sum(len(row["rejected"]) for row in done.rows())


def test_a_word_for_a_rating_stops_the_line_with_the_remedy(prepare: Prepare, jsonl: Any) -> None:
    jsonl([{"prompt": f"p{i}", "completion": "c", "thumb": "up"} for i in range(20)])
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: 'thumb' holds 'up', not a number; write 1 or true for good"
    ):
        prepare({"sources": [{"files": "rows.jsonl", "map": {"rating": "thumb"}}]})


def test_parquet_brings_truth_values(prepare: Prepare, tmp_path: Path) -> None:
    table = pa.table(
        {"prompt": [f"p{i}" for i in range(40)], "completion": ["c"] * 40, "label": [True, False] * 20}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    done = prepare({"sources": [{"files": "rows.parquet"}]})
    ratings = [row["rating"] for row in done.rows()]
    assert (ratings.count(1.0), ratings.count(0.0)) == (20, 20)


def test_proposals_name_the_method(tmp_path: Path, jsonl: Any) -> None:
    pairs = propose(
        jsonl([{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(30)]), tmp_path
    )
    assert (pairs.method.value, pairs.task.value, pairs.labels) == ("dpo", "chat", None)
    assert pairs.map.value == {"user": "prompt", "chosen": "chosen", "rejected": "rejected"}
    hh = [
        {"chosen": f"\n\nHuman: {i}\n\nAssistant: a", "rejected": f"\n\nHuman: {i}\n\nAssistant: b"}
        for i in range(30)
    ]
    assert propose(jsonl(hh), tmp_path).map.value == {"chosen": "chosen", "rejected": "rejected"}
    rated = propose(
        jsonl([{"prompt": f"p{i}", "completion": "c", "label": bool(i % 2)} for i in range(30)]), tmp_path
    )
    assert (rated.method.value, rated.task.value) == ("kto", "chat")
    assert (
        propose(jsonl([{"prompt": f"p{i}", "completion": "c"} for i in range(30)]), tmp_path).method.value
        == "sft"
    )


# several tasks


def test_each_source_may_have_its_own_instruction(prepare: Prepare, jsonl: Any) -> None:
    jsonl([{"prompt": f"a{i}", "completion": "x"} for i in range(20)], "a.jsonl")
    jsonl([{"prompt": f"b{i}", "completion": "y"} for i in range(20)], "b.jsonl")
    sources = [
        {"files": "a.jsonl", "name": "plain"},
        {"files": "b.jsonl", "name": "own", "task": {"instruction": "Second.", "instruction_role": "user"}},
    ]
    done = prepare({"sources": sources}, {"instruction": "First."})
    for row in done.rows():
        first = row["messages"][0]
        if row["source"] == "plain":
            assert first == {"role": "system", "content": "First."}
        else:
            assert first["role"] == "user" and first["content"].startswith("Second.\n\nb")
    told = {entry["name"]: entry for entry in done.facts["sources"]}
    assert [entry["name"] for entry in done.facts["sources"]] == ["plain", "own"]
    assert (told["plain"]["instruction"], told["own"]["instruction"]) == ("First.", "Second.")
    assert {name: sum(entry["counts"].values()) for name, entry in told.items()} == {"plain": 20, "own": 20}


def test_two_sources_never_share_a_name(prepare: Prepare, jsonl: Any) -> None:
    jsonl([{"prompt": f"a{i}", "completion": "x"} for i in range(20)], "a.jsonl")
    sources = [
        {"files": "a.jsonl", "name": "a.jsonl"},
        {"files": "a.jsonl"},
        {"files": "a.jsonl", "name": "a.jsonl"},
    ]
    done = prepare({"sources": sources, "split": {"validation": 0, "test": 0}})
    assert {row["source"] for row in done.rows()} == {"a.jsonl", "a.jsonl#2", "a.jsonl#3"}
