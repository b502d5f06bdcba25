"""Each rule by itself, on batches; laws by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.data.opened import Opened
from luthier.data.records import RECORD
from luthier.data.rules.rule import RowRule

Prepare = Any  # the fixture of conftest.py: data and task in, what one run left behind out

texts = st.text(max_size=30)
conversations = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=4
)


def batch_of(*rows: str | list[tuple[str, str]]) -> pa.RecordBatch:
    """A plain text, or a conversation as (role, content)."""
    records = []
    for i, row in enumerate(rows):
        messages = (
            None if isinstance(row, str) else [{"role": role, "content": content} for role, content in row]
        )
        label = None if messages is None else messages[-1]["content"]
        text = row if isinstance(row, str) else None
        records.append(
            {
                "id": f"{i:032x}",
                "messages": messages,
                "text": text,
                "label": label,
                "source": "t",
                "origin": f"t:{i + 1}",
                "weight": 1.0,
            }
        )
    return pa.RecordBatch.from_pylist(records, schema=RECORD)


@dataclass
class Ran:
    """What a row rule has made of a batch."""

    batch: pa.RecordBatch
    changed: list[str | None]
    removed: list[str | None]


def run(name: str, batch: pa.RecordBatch, **wish: Any) -> Ran:
    rule = plugin.load("rule", name)
    assert isinstance(rule, RowRule)
    rows = Opened(batch)
    said = rule.run(rows, rule.spec.model_validate(wish))
    rows.edit(said.text, said.label, dict(said.columns))
    none = [None] * batch.num_rows
    told = [none if why is None else why.to_pylist() for why in (said.changed, said.removed)]
    return Ran(rows.close(), *told)


def row_text(batch: pa.RecordBatch, row: int) -> list[str]:
    return Opened(batch).of_row(row)


def normalized(text: str, **wish: Any) -> str:
    return row_text(run("normalize", batch_of(text), **wish).batch, 0)[0]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("cafe\u0301", "café"),
        ("a\u200bb\u00adc\ufeff", "abc"),
        ("a\x00b\x07c\x1b[0m", "abc[0m"),
        ("user\u202etxt", "usertxt"),
        ("👩\u200d💻", "👩\u200d💻"),  # the joiner makes one picture of two, so it stays
        ("  a  b\t\tc \u00a0 d ", "a b c d"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a \n\n\n\n  b", "a\n\nb"),
        ("ﬁne", "ﬁne"),
        ("", ""),
    ],
)
def test_normalize(text: str, want: str) -> None:
    assert normalized(text) == want


def test_normalize_settings() -> None:
    code = "def f():\n    return  1  \n\n"
    assert normalized(code, whitespace="trim") == "def f():\n    return  1"
    assert normalized("a \n b", newlines="space") == "a b"
    assert normalized("ﬁne", form="NFKC") == "fine"
    untouched = " a\u200b\r\n\u0301 "
    assert normalized(untouched, form="none", invisible=False, whitespace="keep") == untouched


def test_normalize_says_what_it_changed_and_edits_the_label_too() -> None:
    done = run(
        "normalize",
        batch_of(
            [("user", "a\u200b  b"), ("assistant", "x ")], [("user", "a"), ("assistant", "x")], "plain  text"
        ),
    )
    assert done.changed == ["invisible characters, whitespace", None, "whitespace"]
    assert done.batch["label"].to_pylist() == ["x", "x", None]
    assert done.batch["messages"].to_pylist()[0][0] == {"role": "user", "content": "a b"}


@given(
    st.lists(conversations | texts, min_size=1, max_size=5),
    st.sampled_from(["collapse", "trim", "keep"]),
    st.sampled_from(["NFC", "NFKC"]),
)
@settings(max_examples=80, deadline=None)
def test_normalize_twice_is_normalize_once_and_rows_do_not_touch_each_other(
    rows: Any, whitespace: str, form: str
) -> None:
    wish = {"whitespace": whitespace, "form": form}
    once = run("normalize", batch_of(*rows), **wish).batch
    twice = run("normalize", once, **wish)
    assert twice.batch.equals(once)
    assert twice.changed == [None] * len(rows)
    for i, row in enumerate(rows):
        assert row_text(once, i) == row_text(run("normalize", batch_of(row), **wish).batch, 0)


def test_drop_empty() -> None:
    rows = [
        [("user", " \n"), ("assistant", "a")],
        [("user", "u"), ("assistant", "")],
        [("system", ""), ("user", "u"), ("assistant", "a")],
        "  ",
        "text",
    ]
    want = ["the user turn is empty", "the assistant turn is empty", None, "the text turn is empty", None]
    removed = run("drop_empty", batch_of(*rows)).removed
    assert removed == want


@pytest.mark.parametrize(
    ("wish", "want"),
    [
        ({"min": 4}, ["3 chars, fewer than 4", None, None]),
        ({"max": 4}, [None, "7 chars, more than 4", "9 chars, more than 4"]),
        ({"min": 4, "max": 8}, ["3 chars, fewer than 4", None, "9 chars, more than 8"]),
        ({"max": 1, "unit": "words"}, [None, "2 words, more than 1", None]),
        (
            {"min": 2, "on": "assistant"},
            ["1 chars, fewer than 2", "1 chars, fewer than 2", "0 chars, fewer than 2"],
        ),
        ({"max": 8, "on": "all"}, ["9 chars, more than 8", None, "9 chars, more than 8"]),
    ],
)
def test_length(wish: dict[str, Any], want: list[str | None]) -> None:
    rows = [
        [("system", "sssss"), ("user", "äöü"), ("assistant", "a")],
        [("user", "uuu vvv"), ("assistant", "a")],
        "plaintext",
    ]
    removed = run("length", batch_of(*rows), **wish).removed
    assert removed == want


def test_rules_accept_an_empty_batch_and_a_slice() -> None:
    whole = batch_of(
        "a  b", [("user", "c  d"), ("assistant", "x")], "e  f", [("user", ""), ("assistant", "y")]
    )
    part = whole.slice(1, 2)
    for name, wish in (("normalize", {}), ("drop_empty", {}), ("length", {"min": 1})):
        assert run(name, whole.slice(0, 0), **wish).batch.num_rows == 0
        assert run(name, part, **wish).batch.num_rows == 2
    assert row_text(run("normalize", part).batch, 0) == ["c d", "x"]


def rows_of_labels(sizes: dict[str, int]) -> list[dict[str, str]]:
    return [{"text": f"{label} text {i}", "label": label} for label, n in sizes.items() for i in range(n)]


SOURCE = {"files": "rows.jsonl"}


def test_deduplicate_keeps_the_lowest_id_and_says_what_it_was_the_same_as(
    prepare: Prepare, jsonl: Any
) -> None:
    rows = [{"prompt": f"question {i % 20}", "completion": "x"} for i in range(30)]
    rows += [{"prompt": "QUESTION  1", "completion": "X"}]
    jsonl(rows)
    done = prepare({"sources": [SOURCE], "rules": {"quality": ["deduplicate"]}})
    assert len(done.rows()) == 20
    assert done.rule("deduplicate")["removed"] == 11
    kept = {row["id"] for row in done.rows()}
    for row in done.removed():
        assert row["reason"].removeprefix("the same as ") in kept
        assert row["reason"].removeprefix("the same as ") < row["id"]
    exact = prepare({"sources": [SOURCE], "rules": {"quality": [{"deduplicate": {"fold": False}}]}})
    assert len(exact.rows()) == 21


def test_deduplicate_tells_of_inputs_with_different_labels(prepare: Prepare, jsonl: Any) -> None:
    rows = [
        *rows_of_labels({"a": 20, "b": 20}),
        {"text": "a text 3", "label": "b"},
        {"text": "A text 4", "label": "b"},
    ]
    jsonl(rows)
    both = prepare({"sources": [SOURCE], "rules": {"quality": ["deduplicate"]}}, {"kind": "classify"})
    assert both.rule("deduplicate")["removed"] == 0
    assert both.rule("deduplicate")["notes"][0].startswith(
        "2 inputs stand there with more than one answer or label"
    )
    one = prepare(
        {"sources": [SOURCE], "rules": {"quality": [{"deduplicate": {"on": "user"}}]}}, {"kind": "classify"}
    )
    assert one.rule("deduplicate")["removed"] == 2


@pytest.mark.parametrize(("limit", "most"), [("smallest", min), ("median", sorted), (15, None)])
def test_balance_acts_on_the_rows_of_train_alone(prepare: Prepare, jsonl: Any, limit: Any, most: Any) -> None:
    jsonl(rows_of_labels({"a": 40, "b": 20, "c": 10}))
    plain = prepare({"sources": [SOURCE]}, {"kind": "classify"})
    done = prepare(
        {"sources": [SOURCE], "rules": {"quantity": [{"balance": {"at_most": limit}}]}}, {"kind": "classify"}
    )
    before, after = ({label: n["train"] for label, n in one.facts["labels"].items()} for one in (plain, done))
    sizes = list(before.values())
    cap = limit if most is None else most(sizes) if most is min else most(sizes)[1]  # the median of three
    assert after == {label: min(n, cap) for label, n in before.items()} and sum(after.values()) < sum(sizes)
    assert done.rule("balance")["rows_in"] == sum(sizes)
    assert {row["reason"] for row in done.removed()} <= {
        f"{label} has more than {cap} rows" for label in "abc"
    }
    for side in ("validation", "test"):
        assert done.split(side) == plain.split(side)


def test_balance_chooses_by_id_so_that_more_room_keeps_the_earlier_choice(
    prepare: Prepare, jsonl: Any
) -> None:
    jsonl(rows_of_labels({"a": 40, "b": 20}))
    kept = []
    for limit in (10, 15):
        done = prepare(
            {"sources": [SOURCE], "rules": {"quantity": [{"balance": {"at_most": limit}}]}},
            {"kind": "classify"},
        )
        kept.append({row["id"] for row in done.rows()})
    assert kept[0] < kept[1]


def test_balance_without_labels_is_refused(prepare: Prepare, jsonl: Any) -> None:
    from luthier.core.errors import DataError

    jsonl([{"prompt": f"p{i}", "completion": "c"} for i in range(30)])
    with pytest.raises(DataError, match="balance by label needs labels"):
        prepare({"sources": [SOURCE], "rules": {"quantity": ["balance"]}})
