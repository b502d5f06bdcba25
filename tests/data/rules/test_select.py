"""Which rows stay, quotas, scores, and that order and batches do not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.records import hashed
from luthier.data.rules.select import Select
from luthier.data.testing import batch_of, gathered


def topics(seed: int, sizes: list[int]) -> list[str]:
    """Rows of so many topics: ten words each of the topic's 15, beside five that all share."""
    draw = random.Random(seed)
    found = []
    for topic, size in enumerate(sizes):
        words = [f"{chr(97 + topic)}{chr(97 + k)}word" for k in range(15)]
        found += [" ".join([*draw.sample(words, 10), "the", "a", "of", "to", "is"]) for _ in range(size)]
    return found


@pytest.mark.parametrize(("way", "fewest"), [("spread", 12), ("coverage", 8)])
def test_rare_topics_are_there(tmp_path: Path, way: str, fewest: int) -> None:
    """12 topics, one of 200 rows and 11 of 4. Of 12 rows drawn by lot one had of three topics on average: 1 + 11 times the chance
    1 - (240 over 12) / (244 over 12) = 0.18 that a small one is among them. Coverage gives the large one more than one."""
    sizes = [200] + [4] * 11
    batch = batch_of(*topics(0, sizes))
    found = gathered("select", [batch], tmp_path, n=12, way=way)
    chosen = {row["text"][0] for row in found.left.values()}
    assert len(found.left) == 12 and len(chosen) >= fewest
    assert set(found.removed.values()) == {"not among the 12 that were chosen by diversity"}
    assert found.account.notes[-1].startswith(
        "12 of 244 rows stay; to the nearest of them rows have a cosine of 0."
    )


def test_every_label_keeps_its_share(tmp_path: Path) -> None:
    texts = topics(1, [30, 30])
    labels = ["x"] * 45 + ["y"] * 15
    batch = batch_of(
        *[[("user", text), ("assistant", label)] for text, label in zip(texts, labels, strict=True)]
    )
    left = gathered("select", [batch], tmp_path / "1", n=8, per="label").left
    assert sorted(row["label"] for row in left.values()) == ["x"] * 6 + ["y"] * 2
    left = gathered("select", [batch], tmp_path / "2", share=0.1, per="label").left
    assert len(left) == 6
    with pytest.raises(DataError, match="needs one for every row"):
        gathered("select", [batch_of("plain", "text")], tmp_path / "3", n=1, per="label")


def test_the_highest_by_score_that_differ(tmp_path: Path) -> None:
    """Of three copies the best one stays; then the best of the others; what has no score comes last."""
    copy = "the very same words of one text"
    rows = [
        copy,
        copy,
        copy,
        "something quite different there",
        "another thing altogether",
        "no score at all",
    ]
    rating = [0.9, 1.0, 0.8, 0.5, 0.1, None]
    batch = batch_of(*rows, rating=rating)
    ids = batch["id"].to_pylist()

    def chosen(n: int) -> list[int]:
        wish: dict[str, Any] = {"by": "learning_value", "score": "rating", "n": n}
        found = gathered("select", [batch], tmp_path / str(n), **wish)
        assert found.account.notes[0] == "1 rows have no score, and come last"
        return sorted(ids.index(name) for name in found.left)

    assert [chosen(n) for n in (1, 2, 3, 4)] == [[1], [1, 3], [1, 3, 4], [1, 3, 4, 5]]
    assert chosen(5) == [0, 1, 3, 4, 5]  # the copies come when nothing else is left


@pytest.mark.parametrize(
    "wish", [{}, {"way": "coverage"}, {"by": "learning_value", "score": "len(text)"}, {"embedder": "hashed"}]
)
def test_order_and_batches_do_not_matter(tmp_path: Path, wish: dict[str, Any]) -> None:
    rows = topics(2, [40, 30, 30, 20])
    batch = batch_of(*rows, id=hashed(map(str, range(120))).to_pylist())
    whole = gathered("select", [batch], tmp_path / "whole", n=15, **wish)
    draw = random.Random(0)
    for size in (1, 16):
        mixed = batch.take(pa.array(draw.sample(range(120), 120)))
        found = gathered(
            "select", [mixed.slice(n, size) for n in range(0, 120, size)], tmp_path / str(size), n=15, **wish
        )
        assert found.left == whole.left and found.account.plain() == whole.account.plain()
    assert len(gathered("select", [batch], tmp_path / "all", n=120, **wish).left) == 120


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({}, "n or share"),
        ({"share": 0}, "leaves no rows"),
        ({"n": 1, "by": "learning_value"}, "belong together"),
        ({"n": 1, "score": "rating"}, "belong together"),
        ({"n": 1, "by": "learning_value", "score": "rating", "way": "coverage"}, "is for diversity"),
        ({"n": 1, "by": "learning_value", "score": "user"}, "a score is a number"),
        ({"n": 1, "apart": 0.5}, "is for by: learning_value"),
    ],
)
def test_settings_that_contradict_are_refused(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Select.model_validate(wish)
