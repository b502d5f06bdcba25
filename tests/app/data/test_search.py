"""Search finds what a plain loop over the rows finds, shows no more than was asked for, and refuses what makes no sense."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.app.data.where import Condition, expression, frame, read
from luthier.core.errors import NotFound, SpecError
from luthier.data.records import RECORD


def test_words_are_found_in_any_case_and_all_of_them(shop):
    dataset = shop.prepare()
    found = shop.app.data.search(dataset.digest, ["MESSAGE 1", "billing"], limit=3)
    want = [
        r
        for r in shop.every_row(dataset)
        if "Message 1" in r["messages"][1]["content"] and r["label"] == "billing"
    ]
    assert found["matches"] == len(want) == sum(found["by_side"].values()) and len(found["rows"]) == 3
    assert all("Message 1" in row["snippet"] for row in found["rows"])
    assert shop.app.data.search(dataset.digest, ["no such word"])["rows"] == []


def test_conditions_of_every_kind(shop):
    dataset = shop.prepare("data.sources.0.weight=2")
    rows = shop.every_row(dataset)

    def n(*where):
        return shop.app.data.search(dataset.digest[:10], where=where)["matches"]

    assert n("label=billing") == sum(r["label"] == "billing" for r in rows)
    assert n("label!=billing") == sum(r["label"] != "billing" for r in rows)
    assert n("side=test") == len(shop.table(dataset, "test"))
    assert n("origin=rows.jsonl:8") == 1 and n("group=c3") == 2 and n("source~ROWS") == len(rows)
    assert n("weight=2") == len(rows) and n("weight>2") == 0 and n("turns>=3") == len(rows)
    assert n("user~delivery", "label=delivery") == n("assistant=delivery") == n("label=delivery")
    assert n("system~route") == len(rows) and n("text~route") == 0 and n("says~route") == len(rows)
    longest = max(sum(len(t["content"]) for t in r["messages"]) for r in rows)
    assert n(f"characters>={longest}") >= 1 and n(f"characters>{longest}") == 0


def test_rows_that_were_removed_are_shown_to_who_asks(shop, some):
    shop.rows([*some(), some()[5]])
    dataset = shop.prepare()
    found = shop.app.data.search(dataset.digest, where=["side=removed"])
    assert found["matches"] == 1 and found["rows"][0]["rule"] == "deduplicate"
    assert shop.app.data.search(dataset.digest, where=["rule=deduplicate"])["matches"] == 1
    assert shop.app.data.search(dataset.digest, ["Message 5:"])["matches"] == 1  # the one in use


def test_a_dataset_is_named_by_digest_and_run(shop):
    dataset = shop.prepare()
    (made,) = [e for e in shop.app.store.ledger.read(kind="stage.finished") if e.data["step"] == "dataset"]
    for reference in (dataset.digest, dataset.digest[:8], made.subject):
        assert shop.app.data.search(reference, ["message"])["dataset"] == dataset.digest
    for reference in ("run-none", "nothing", "f" * 12):
        with pytest.raises(NotFound):
            shop.app.data.search(reference, ["message"])


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("lable=billing", "did you mean 'label'"),
        ("label", "no condition"),
        ("label>billing", "compares numbers"),
        ("weight~1", "looks into texts"),
        ("weight=heavy", "is not a number"),
        ("weight>nan", "is not a number"),
        ("label~", "looks for nothing"),
        ("side=tset", "there is no side"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_with_the_remedy(shop, where, said):
    dataset = shop.prepare()
    with pytest.raises(SpecError) as caught:
        shop.app.data.search(dataset.digest, where=[where])
    assert said in str(caught.value)


def test_nothing_to_look_for_is_refused(shop):
    dataset = shop.prepare()
    with pytest.raises(SpecError, match="nothing to look for"):
        shop.app.data.search(dataset.digest, ["", " "])


TEXT = st.text(st.sampled_from("aAbB \n.*[(\\ß𝔄"), max_size=6)
ROW = st.fixed_dictionaries(
    {
        "id": st.just("x"),
        "label": st.none() | TEXT,
        "weight": st.floats(0.5, 2, width=32),
        "messages": st.none() | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}), min_size=1, max_size=3),
        "text": st.none() | TEXT,
    }
)  # fmt: skip


@given(
    st.lists(ROW, max_size=6),
    TEXT.filter(bool),
    st.sampled_from(["label", "user", "says"]),
    st.sampled_from(["=", "!=", "~"]),
    st.integers(0, 12),
)
def test_a_condition_holds_where_a_plain_loop_says_so(rows, value, field, op, longest):
    def texts(row):
        turns = row["messages"] or []
        if field == "label":
            return row["label"]
        if field == "user":
            return (
                None
                if row["messages"] is None
                else "\n".join(t["content"] for t in turns if t["role"] == "user")
            )
        told = ["\n".join(t["content"] for t in turns)] if row["messages"] is not None else []
        return "\n".join(told + ([row["text"]] if row["text"] is not None else []))

    def holds(row):
        said = texts(row)
        if op == "~":
            return said is not None and value.lower() in said.lower()
        return (said == value) == (op == "=")

    def short(row):
        return sum(len(t["content"]) for t in row["messages"] or []) + len(row["text"] or "") <= longest

    told = frame(pa.RecordBatch.from_pylist(rows, RECORD), "train").with_row_index()
    for condition, plain in (
        (Condition(field, op, value), holds),
        (Condition("characters", "<=", longest), short),
    ):
        found = told.filter(expression([condition]))["index"].to_list()
        assert found == [n for n, row in enumerate(rows) if plain(row)]


def test_words_are_no_patterns():
    batch = pa.RecordBatch.from_pylist([{"id": "a", "text": "a.b"}, {"id": "b", "text": "axb"}], RECORD)
    assert frame(batch, "train").filter(expression([], ["a.b"]))["id"].to_list() == ["a"]


def test_a_condition_is_read_as_it_is_written():
    assert read(" label = two  words ") == Condition("label", "=", "two  words")
    assert read("user~a=b") == Condition("user", "~", "a=b")
