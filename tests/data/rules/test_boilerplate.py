"""What is frequent by a plain count, what is left of texts, and that order and batches do not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.digests import fold
from luthier.data.records import hashed
from luthier.data.rules.boilerplate import PIECES
from luthier.data.testing import HOSTILE, batch_of, gathered

FOOTER = "This message is confidential and for you alone."
SIGNED = "Kind regards, the support team of Example"


@given(
    st.text(st.sampled_from("ab .!?\n\r。"), max_size=30) | st.sampled_from(HOSTILE),
    st.sampled_from(list(PIECES)),
)
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_whole_text(text: str, unit: str) -> None:
    pieces = pl.Series([text]).str.extract_all(PIECES[unit]).to_list()[0]
    assert "".join(pieces) == text


def test_frequent_lines_go_and_what_is_left_stays_as_it_was(tmp_path: Path) -> None:
    """The footer stands in 3 of 5 rows, folded; the signature in 2."""
    rows = [
        f"first\n\n{FOOTER}",
        f"second\n  {FOOTER.upper()} \nmore",
        f"third\n{SIGNED}\n{FOOTER}\n{FOOTER}\n",
        f"fourth\n{SIGNED}",
        "fifth  \n",
    ]
    found = gathered("boilerplate", [batch_of(*rows)], tmp_path / "1", rows=3)
    assert [row["text"] for row in found.left.values()] == [
        "first", "second\nmore", f"third\n{SIGNED}", f"fourth\n{SIGNED}", "fifth  \n",
    ]  # fmt: skip
    assert list(found.trail.values()) == [
        ("changed", "a line that stands in many rows"),
        ("changed", "a line that stands in many rows"),
        ("changed", "2 lines that stand in many rows"),
    ]
    assert found.account.counts == {"lines": 4}
    assert found.account.notes == ["frequent lines: 1, each in 3 rows or more, one of them in 3"]
    assert len(gathered("boilerplate", [batch_of(*rows)], tmp_path / "2", rows=2, do="drop").left) == 1
    marked = gathered("boilerplate", [batch_of(*rows)], tmp_path / "3", rows=3, do="mark")
    assert [row["text"] for row in marked.left.values()] == rows
    assert set(marked.trail.values()) == {("noted", "a line that stands in 3 rows")}


def test_nothing_is_emptied_and_short_lines_answers_and_labels_are_left(tmp_path: Path) -> None:
    label = "a label of more than twenty characters"
    rows = [
        [("user", FOOTER), ("assistant", label)],
        [("user", f"x\nThanks!\n{FOOTER}"), ("assistant", label)],
    ]
    batch = batch_of(*rows)
    found = gathered("boilerplate", [batch], tmp_path, rows=2, on="conversation")
    texts = [[turn["content"] for turn in row["messages"]] for row in found.left.values()]
    assert texts == [[FOOTER, label], ["x\nThanks!", label]]


def test_sentences_go_from_within_a_line(tmp_path: Path) -> None:
    rows = [f"Question {n}? {FOOTER} It costs 3.14 in all." for n in range(3)]
    found = gathered("boilerplate", [batch_of(*rows)], tmp_path, rows=3, unit="sentence", shortest=25)
    assert [row["text"] for row in found.left.values()] == [
        f"Question {n}? It costs 3.14 in all." for n in range(3)
    ]


lines = st.lists(st.sampled_from(["a", "b ", "B", "c d", "", " e"]), max_size=5)


@given(st.lists(lines, min_size=1, max_size=15), st.integers(2, 4), st.sampled_from([0.0, 0.3]))
@settings(max_examples=50, deadline=None)
def test_what_is_frequent_is_what_a_plain_count_says(
    tmp_path_factory: Any, rows: list[list[str]], least: int, share: float
) -> None:
    texts = ["\n".join(row) for row in rows]
    sets = [{fold(line) for line in row if line.strip()} for row in rows]
    frequent = {
        line
        for one in sets
        for line in one
        if sum(line in other for other in sets) >= max(least, share * len(rows))
    }
    found = gathered(
        "boilerplate",
        [batch_of(*texts)],
        tmp_path_factory.mktemp("b"),
        rows=least,
        share=share,
        shortest=1,
        do="drop",
    )
    expected = [texts[n] for n, one in enumerate(sets) if not one & frequent]
    assert [row["text"] for row in found.left.values()] == expected


@pytest.mark.parametrize("size", [1, 16])
def test_order_and_batches_do_not_matter(tmp_path: Path, size: int) -> None:
    draw = random.Random(0)
    rows = [
        "\n".join(draw.choices([FOOTER, SIGNED, "some other line of text", *map(str, range(50))], k=4))
        for _ in range(100)
    ]
    batch = batch_of(*rows, id=hashed(map(str, range(100))).to_pylist())
    whole = gathered("boilerplate", [batch], tmp_path / "whole", rows=5)
    mixed = batch.take(pa.array(draw.sample(range(100), 100)))
    found = gathered(
        "boilerplate", [mixed.slice(n, size) for n in range(0, 100, size)], tmp_path / "parts", rows=5
    )
    assert (found.left, found.trail) == (whole.left, whole.trail) and whole.trail
    assert found.account.plain() == whole.account.plain()
