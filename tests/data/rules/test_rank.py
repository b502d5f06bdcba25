"""Scores against a plain twin of Python dictionaries, who stays, and that order and batches do not matter."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.records import hashed
from luthier.data.rules.rank import Rank
from luthier.data.testing import Carried, batch_of, gathered

WORDS = ["refund", "invoice", "password", "login", "parcel", "late", "the", "a", "of"]
corpora = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=12)
goals = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join), min_size=1, max_size=3
)
LAWS = settings(max_examples=40, deadline=None)


def scores(found: Carried) -> dict[str, float]:
    told = {**found.removed, **{name: why for name, (_, why) in found.trail.items()}}
    return {name: float(why.split()[1]) for name, why in told.items()}


def bm25(rows: list[str], goal: list[str]) -> list[float]:
    told = [Counter(row.split()) for row in rows]
    n, mean = len(rows), max(sum(sum(row.values()) for row in told) / len(rows), 1e-9)
    asked = Counter(word for text in goal for word in text.split())

    def one(row: Counter[str]) -> float:
        total = 0.0
        for word, often in asked.items():
            df = sum(word in other for other in told)
            if df:
                weight = math.log(1 + (n - df + 0.5) / (df + 0.5)) * often * 9 / (8 + often)
                room = 1.2 * (0.25 + 0.75 * sum(row.values()) / mean)
                total += weight * row[word] * 2.2 / (row[word] + room)
        return total

    return [one(row) for row in told]


def cosine(rows: list[str], goal: list[str]) -> list[float]:
    told = [Counter(row.split()) for row in rows]

    def vector(words: Counter[str]) -> dict[str, float]:
        idf = {w: math.log((len(rows) + 1) / (sum(w in row for row in told) + 1)) + 1 for w in words}
        return unit({w: math.sqrt(n) * idf[w] for w, n in words.items()})

    def unit(one: dict[str, float]) -> dict[str, float]:
        long = math.sqrt(sum(v * v for v in one.values()))
        return {w: v / long for w, v in one.items()} if long else {}

    mean: Counter[str] = Counter()
    for text in goal:
        mean.update(vector(Counter(text.split())))  # type: ignore[arg-type]
    centre = unit(dict(mean))  # type: ignore[arg-type]
    return [sum(v * centre.get(w, 0) for w, v in vector(row).items()) for row in told]


@given(corpora, goals, st.sampled_from([("bm25", bm25), ("cosine", cosine)]))
@LAWS
def test_scores_are_those_of_the_plain_twin(
    tmp_path_factory: Any, rows: list[str], goal: list[str], method: Any
) -> None:
    folder = tmp_path_factory.mktemp("rank")
    (folder / "goal.jsonl").write_text("".join(f'{{"t": "{text}"}}\n' for text in goal))
    name, plain = method
    batch = batch_of(*rows)
    found = gathered(
        "rank", [batch], folder / "work", to=str(folder / "goal.jsonl"), method=name, at_least=0.3
    )
    expected = dict(zip(batch["id"].to_pylist(), plain(rows, goal), strict=True))
    assert scores(found) == pytest.approx(expected, abs=1e-3, rel=1e-3)
    sure = {key: value for key, value in expected.items() if abs(value - 0.3) > 1e-5}
    assert {key for key in sure if key in found.left} == {key for key, value in sure.items() if value >= 0.3}


@given(
    corpora,
    st.integers(1, 14),
    st.sampled_from([None, 0.1, 0.5, 1.0]),
    st.sampled_from(["bm25", "cosine", "embedding"]),
)
@LAWS
def test_the_highest_stay_and_of_equal_ones_the_lowest_ids(
    tmp_path_factory: Any, rows: list[str], n: int, share: float | None, method: str
) -> None:
    batch = batch_of(*rows)
    size = {"n": n} if share is None else {"share": share}
    found = gathered(
        "rank", [batch], tmp_path_factory.mktemp("rank"), goal="late refund", method=method, **size
    )
    wanted = min(n, len(rows)) if share is None else max(round(share * len(rows)), 1)
    assert len(found.left) == wanted
    told = scores(found)
    kept, gone = ([(-told[name], name) for name in names] for names in (found.left, found.removed))
    assert not gone or max(kept) < min(gone)


@pytest.mark.parametrize("method", ["bm25", "cosine", "embedding"])
def test_order_and_batches_do_not_matter(tmp_path: Path, method: str) -> None:
    draw = random.Random(1)
    rows = [" ".join(draw.choices(WORDS, k=draw.randrange(9))) for _ in range(150)]
    batch = batch_of(*rows, id=hashed(map(str, range(150))).to_pylist())
    wish = {"goal": "a late parcel", "method": method, "n": 40}
    whole = gathered("rank", [batch], tmp_path / "whole", **wish)
    for size in (1, 16):
        mixed = batch.take(pa.array(draw.sample(range(150), 150)))
        parts = [mixed.slice(start, size) for start in range(0, 150, size)]
        found = gathered("rank", parts, tmp_path / str(size), **wish)
        assert (found.left, found.removed, found.trail) == (whole.left, whole.removed, whole.trail)
        assert found.account.plain() == whole.account.plain()


def test_planted_rows_are_found(tmp_path: Path) -> None:
    """100 of 1,000 rows say something about refunds in the words of a goal of two sentences; the rest is about other things."""
    draw = random.Random(2)
    about = ["refund", "invoice", "charged", "twice", "money", "back", "payment"]
    other = [f"word{k}" for k in range(300)]
    filler = ["the", "a", "of", "to", "is", "my", "on", "and", "we", "it"]
    planted = set(range(0, 1000, 10))
    rows = [
        " ".join(
            draw.sample(about, 2) * (n in planted) + draw.choices(other, k=12) + draw.choices(filler, k=8)
        )
        for n in range(1000)
    ]
    batch = batch_of(*rows)
    ids = batch["id"].to_pylist()
    goal = "I was charged twice and want my money back. A refund of the invoice or payment."
    for method in ("bm25", "cosine", "embedding"):
        found = gathered("rank", [batch], tmp_path / method, goal=goal, method=method, n=100)
        hits = sum(ids[n] in found.left for n in planted)
        assert hits >= (100 if method != "embedding" else 60), (method, hits)


def test_what_all_rows_lack_is_told(tmp_path: Path) -> None:
    found = gathered("rank", [batch_of("a b", "c")], tmp_path, goal="zebra", n=1)
    assert found.account.notes[1] == "no row has anything in common with the goal: it says nothing of them"
    assert list(found.removed.values()) == ["score 0 is not among the highest 1"]
    with pytest.raises(DataError, match=r"the goal \(\.\.\.\) has no word"):
        gathered("rank", [batch_of("a")], tmp_path, goal="...", n=1)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"n": 1}, "goal or to"),
        ({"goal": "x", "to": "y", "n": 1}, "goal or to"),
        ({"goal": " ", "n": 1}, "blank"),
        ({"goal": "x"}, "n, share or at_least"),
        ({"goal": "x", "n": 1, "share": 0.5}, "n, share or at_least"),
        ({"goal": "x", "share": 0}, "leaves no rows"),
        ({"goal": "x", "n": 1, "embedder": "hashed"}, "uses no embedder"),
        ({"goal": "x", "n": 1, "method": "embedding", "pairs": True}, "looks at none"),
        ({"goal": "x", "at_least": 2, "method": "cosine"}, "no cosine is above 1"),
    ],
)
def test_settings_that_contradict_are_refused(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Rank.model_validate(wish)


def test_the_longest_row_has_the_score_that_it_was_chosen_by(tmp_path: Path) -> None:
    batch = batch_of("invoice " + "x " * 70_000, "y")
    found = gathered("rank", [batch], tmp_path, goal="invoice", n=1)
    assert found.account.removed == 1 and len(found.left) == 1
