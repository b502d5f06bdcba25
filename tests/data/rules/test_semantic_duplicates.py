"""Who goes, that nothing goes by a chain, and that order and batches do not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.embedders.hashed import Hashed, HashedSpec
from luthier.data.records import hashed
from luthier.data.testing import batch_of, gathered
from luthier.data.vectors import cosines

LETTERS = random.Random(9)
WORDS = ["".join(LETTERS.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(400)]


def corpus(seed: int, n: int) -> list[str]:
    """Texts of 12 words, and copies with their words in another order and one of them replaced."""
    draw = random.Random(seed)
    rows = [draw.sample(WORDS, 12) for _ in range(n)]
    for k in range(0, n, 3):
        copy = draw.sample(rows[k], 12)
        copy[0] = draw.choice(WORDS)
        rows.append(copy)
    return [" ".join(row) for row in rows]


@given(
    st.integers(0, 99),
    st.integers(1, 30),
    st.sampled_from(["lowest_id", "longest"]),
    st.sampled_from([0.6, 0.9]),
)
@settings(max_examples=30, deadline=None)
def test_a_row_goes_only_for_one_that_stays_and_comes_before(
    tmp_path_factory: Any, seed: int, n: int, keep: str, least: float
) -> None:
    rows = corpus(seed, n)
    batch = batch_of(*rows)
    found = gathered(
        "semantic_duplicates", [batch], tmp_path_factory.mktemp("s"), similarity=least, keep=keep
    )
    text = dict(zip(batch["id"].to_pylist(), rows, strict=True))
    rank = {name: (-len(told) if keep == "longest" else 0, name) for name, told in text.items()}
    for name, why in found.removed.items():
        cosine, other = why.removeprefix("cosine ").split(" with ")
        assert other in found.left and rank[other] < rank[name]
        exact = cosines(*(Hashed(HashedSpec()).embed([text[one]]) for one in (name, other)))[0, 0]
        assert float(cosine) <= exact < float(cosine) + 0.0011 and exact >= least


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    """600 texts of words drawn by chance, 200 copies of which one of twelve words is another: all within a cosine of 0.8."""
    found = gathered("semantic_duplicates", [batch_of(*corpus(3, 600))], tmp_path, similarity=0.8)
    assert 196 <= len(found.removed) <= 200
    assert found.account.notes[0].startswith(f"{len(found.removed)} families of like rows, the largest of 2")


def test_other_labels_are_never_alike_but_where_one_side_is_compared(tmp_path: Path) -> None:
    rows = batch_of(*[[("user", "the same words here"), ("assistant", label)] for label in "aab"])
    assert len(gathered("semantic_duplicates", [rows], tmp_path / "1").left) == 2
    assert len(gathered("semantic_duplicates", [rows], tmp_path / "2", on="user").left) == 1
    assert len(gathered("semantic_duplicates", [batch_of("", "")], tmp_path / "3").left) == 2


def test_order_and_batches_do_not_matter(tmp_path: Path) -> None:
    rows = corpus(4, 150)
    batch = batch_of(*rows, id=hashed(map(str, range(len(rows)))).to_pylist())
    whole = gathered("semantic_duplicates", [batch], tmp_path / "whole", similarity=0.8)
    assert len(whole.removed) >= 48
    draw = random.Random(0)
    for size in (1, 16):
        mixed = batch.take(pa.array(draw.sample(range(len(rows)), len(rows))))
        parts = [mixed.slice(start, size) for start in range(0, len(rows), size)]
        found = gathered("semantic_duplicates", parts, tmp_path / str(size), similarity=0.8)
        assert found.removed == whole.removed and found.account.plain() == whole.account.plain()
