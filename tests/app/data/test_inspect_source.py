"""A file before there is a recipe: the figures are those that plain loops give, and no private value is shown anywhere."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import statistics
from pathlib import Path

import pytest

from luthier.app.data import raw
from luthier.app.report.source_page import render
from luthier.core.errors import DataError, SpecError

WORDS = [
    "lamp",
    "order",
    "shop",
    "week",
    "refund",
    "parcel",
    "late",
    "broken",
    "invoice",
    "courier",
    "pay",
    "card",
    "letter",
    "door",
    "phone",
    "wait",
]


def sentence(seed: int, n: int = 30) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


@pytest.fixture
def tickets(shop):
    """60 rows that differ, five equal to an earlier one, four nearly so (the last of 30 words is another), three without a queue."""
    rows = [
        {"body": sentence(i), "queue": ("billing", "delivery")[i % 3 == 0], "customer": i // 3, "score": i / 2 if i % 4 else None}
        for i in range(60)
    ]  # fmt: skip
    rows += [dict(row) for row in rows[:5]]
    rows += [{**row, "body": row["body"].rsplit(" ", 1)[0] + " otherwise"} for row in rows[10:14]]
    rows += [{**row, "body": sentence(100 + n), "queue": ""} for n, row in enumerate(rows[:3])]
    return rows, shop.rows(rows, "tickets.jsonl")


def test_the_figures_are_those_of_plain_loops(shop, tickets):
    rows, path = tickets
    found = shop.app.data.inspect(str(path))
    told = found["records"]
    assert (found["format"], found["head_rows"], told["rows"], told["all"]) == ("jsonl", 72, 72, True)
    by_name = {one["name"]: one for one in found["columns"]}
    assert list(by_name) == ["body", "queue", "customer", "score"]
    assert by_name["queue"] == {
        "name": "queue",
        "types": {"text": 69},
        "empty": 3,
        "distinct": 2,
        "longest": 8,
    }
    assert by_name["score"]["types"] == {"number": sum(row["score"] is not None for row in rows)}
    assert by_name["customer"]["distinct"] == 20 and by_name["customer"]["longest"] is None
    assert found["layouts"][0]["map"] == {"user": "body", "label": "queue"}
    assert told["task"]["value"] == "classify" and told["group_by"]["value"] == "customer"
    counts = {label: sum(row["queue"] == label for row in rows) for label in ("billing", "delivery")}
    assert told["labels"]["counts"] == {**counts, "(empty)": 3} and told["labels"]["column"] == "queue"
    assert told["labels"]["balance"]["ratio"] == pytest.approx(counts["billing"] / 3)
    characters = [len(row["body"]) + len(row["queue"]) for row in rows]
    figures = told["lengths"]["characters"]["sides"]["rows"]
    assert figures["mean"] == pytest.approx(statistics.mean(characters), abs=0.01)
    assert figures["max"] == max(characters)
    assert told["lengths"]["tokens"]["unit"] == "words" and "--base" in told["lengths"]["tokens"]["why"]
    twice = told["duplicates"]
    assert (twice["exact"], twice["folded"], twice["repeated_inputs"]) == (5, 5, 5)
    # 31 words with the label: of 28 + 3 shingles of either, those that hold the other word differ: 3 of the 31
    assert twice["near"] == 5 + 4


def test_the_estimate_of_near_copies_finds_what_the_rule_removes(shop):
    """20 rows with a copy that is one word away, 10 with two equal copies, and 10 alone."""
    rows = []
    for n in range(40):
        words = sentence(n, 60)
        copies = [words.replace(" ", " other ", 1)] if n < 20 else [words, words] if n < 30 else []
        rows += [
            {"text": text, "queue": "a" if n % 2 else "b", "customer": str(n)} for text in (words, *copies)
        ]
    path = shop.rows(rows)
    dataset = shop.prepare("data.rules.quality=[near_duplicates]")
    removed = [line for line in shop.table(dataset, "removed") if line["rule"] == "near_duplicates"]
    told = shop.app.data.inspect(str(path), page=False)["records"]["duplicates"]
    assert told["near"] == len(removed) == 20 + 20


def test_rows_that_cannot_be_read_are_part_of_what_is_seen(shop, tickets):
    rows, path = tickets
    path.write_text(path.read_text() + '{"body": \n' + json.dumps({**rows[0], "body": None}) + "\n")
    told = shop.app.data.inspect(str(path), page=False)["records"]
    assert told["rows"] == 72 and told["set_aside"] == 2
    assert sorted(one["origin"].rpartition(":")[2] for one in told["faults"]) == ["73", "74"]


def test_a_layout_that_nobody_knows_still_has_columns(shop):
    path = shop.folder / "odd.csv"
    path.write_text("a,b\n1,2\n3,\n")
    found = shop.app.data.inspect(str(path))
    assert found["records"] is None and found["layouts"] == [] and "a, b" in found["why"]
    assert [(one["name"], one["empty"]) for one in found["columns"]] == [("a", 0), ("b", 1)]
    assert "is not recognised" in Path(found["report"]).read_text(encoding="utf-8")
    mapped = shop.app.data.inspect(str(path), map_="{text: a}", page=False)
    assert mapped["records"]["rows"] == 2 and mapped["layouts"][0]["reason"] == "the recipe says so"


PRIVATE = ("jane@example.com", "4111 1111 1111 1111", "+49 30 901820", "81.2.69.142", "AKIAIOSFODNN7EXAMPLE")


def test_no_private_value_is_in_the_result_or_on_the_page(shop):
    rows = [
        {"text": f"Row {n} of {sentence(n)}", "queue": "a", "contact": "nobody", "more": {"k": ["x"]}}
        for n in range(40)
    ]
    for row, value in zip(rows, PRIVATE, strict=False):
        row["text"] = f"It is {value} now."
    rows[0]["contact"], rows[1]["more"] = PRIVATE[0], {"k": ["deep", {"mail": PRIVATE[0]}]}
    rows[2] |= {"text": None, "contact": None}
    found = shop.app.data.inspect(str(shop.rows(rows)))
    everything = json.dumps(found, ensure_ascii=False) + Path(found["report"]).read_text(encoding="utf-8")
    assert [value for value in PRIVATE if value in everything] == []
    assert found["private"]["columns"] == {
        "text": {"email": 1, "card": 1, "ip": 1, "key": 1}, "contact": {"email": 1}, "more": {"email": 1},
    }  # fmt: skip
    assert found["private"]["with"] == 4 and "[CARD_1]" in everything and "[EMAIL_1]" in everything


def test_tokens_are_those_of_the_base_that_is_named(shop, tickets, tiny_base, monkeypatch):
    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    rows, path = tickets
    told = shop.app.data.inspect(str(path), base=str(tiny_base), page=False)["records"]["lengths"]["tokens"]
    template = Template(load_tokenizer(tiny_base), 4096)
    want = [
        len(template.encode([{"role": "user", "content": row["body"]}, {"role": "assistant", "content": row["queue"]}]).ids)
        for row in rows
    ]  # fmt: skip
    assert told["unit"] == "tokens" and told["by"] == str(tiny_base) and told["sampled"] is None
    figures = told["sides"]["rows"]
    assert (figures["rows"], figures["max"]) == (len(want), max(want))
    assert figures["mean"] == pytest.approx(statistics.mean(want), abs=0.01)
    monkeypatch.setattr(raw, "COUNTED", 10)
    again = shop.app.data.inspect(str(path), base=str(tiny_base), page=False)
    assert again["records"]["lengths"]["tokens"]["sampled"] == 10


def test_a_long_file_is_looked_at_as_far_as_is_said(shop, tickets, monkeypatch):
    _, path = tickets
    monkeypatch.setattr(raw, "ROWS", 20)
    found = shop.app.data.inspect(str(path))
    assert found["records"]["rows"] == 20 and not found["records"]["all"]
    assert "The first 20 rows were looked at" in Path(found["report"]).read_text(encoding="utf-8")


def test_a_source_as_a_recipe_writes_it(shop):
    with sqlite3.connect(shop.folder / "d.db") as database:
        database.execute("create table t (q text, a text)")
        database.executemany("insert into t values (?, ?)", [(sentence(n), f"answer {n}") for n in range(12)])
    written = f"{{sql: 'sqlite:///{shop.folder / 'd.db'}', query: 'select q, a from t', key: q, map: {{user: q, assistant: a}}}}"
    found = shop.app.data.inspect(written)
    assert found["records"]["rows"] == 12 and found["records"]["task"]["value"] == "chat"
    assert found["records"]["labels"] is None
    with pytest.raises(SpecError, match="no key 'sqll'"):
        shop.app.data.inspect("{sqll: x}")
    with pytest.raises(SpecError, match="a secret is written in the URL") as told:
        shop.app.data.inspect("https://me:hunter2@host.example/rows.jsonl")
    assert "hunter2" not in str(told.value)


def test_what_is_no_file_is_said(shop):
    with pytest.raises(DataError, match="there is no such file"):
        shop.app.data.inspect(str(shop.folder / "nothing.jsonl"))
    dataset = shop.prepare()
    with pytest.raises(SpecError, match="is a dataset"):
        shop.app.data.inspect(dataset.digest, map_="{text: a}")


def test_a_hostile_row_stays_text(shop):
    hostile = [
        "</style><script>alert(1)</script>",
        "\u202egnirts\u202c",
        "<img src=x onerror=alert(1)>",
        "a\x00b",
    ]
    path = shop.rows({"text": f"{hostile[n % 4]} {n}", "label": hostile[n % 2]} for n in range(40))
    found = shop.app.data.inspect(str(path))
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "\u202e" not in page and "\x00" not in page
    assert not re.search(r"<[^>]*\b(src|href|on\w+)\s*=", page) and "default-src &#39;none&#39;" in page
    assert render(found) == page


def test_labels_that_are_masked_alike_are_counted_apart(shop):
    named = [("a@x.com", 10), ("b@x.com", 5), ("billing", 20)]
    path = shop.rows(
        [
            {"text": sentence(100 * k + n), "label": label}
            for k, (label, many) in enumerate(named)
            for n in range(many)
        ],
        "l.jsonl",
    )
    told = shop.app.data.inspect(str(path))["records"]["labels"]
    assert told["counts"] == {"billing": 20, "[EMAIL_1]": 10, "[EMAIL_2]": 5}


def test_a_file_without_a_header_shows_no_private_value_as_one(shop):
    path = shop.folder / "bare.csv"
    path.write_text("".join(f"jo{n}@firm.com,+49 30 123456{n},{sentence(n)}\n" for n in range(9)))
    found = shop.app.data.inspect(str(path))
    assert "jo0@firm.com" not in str(found) and "1234560" not in str(found)
