"""Planted flips are found; the choice of what is believed by a plain twin; and order does not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.records import hashed
from luthier.data.rules.label_noise import LabelNoise, believed
from luthier.data.testing import batch_of, gathered

pytest.importorskip("sklearn")


def corpus(seed: int, n: int, flipped: float) -> tuple[pa.RecordBatch, dict[str, str]]:
    """Rows of 12 words, eight of them of the label's own 40; and the true label of those that were given another one."""
    draw = random.Random(seed)
    ids = hashed(map(str, range(n))).to_pylist()
    rows, wrong = [], {}
    for name in ids:
        label = draw.choice("abc")
        words = draw.choices([f"{label}{j}" for j in range(40)], k=8) + draw.choices(
            [f"word{j}" for j in range(60)], k=4
        )
        if draw.random() < flipped:
            wrong[name] = label
            label = draw.choice([other for other in "abc" if other != label])
        rows.append([("user", " ".join(words)), ("assistant", label)])
    return batch_of(*rows, id=ids), wrong


@pytest.mark.parametrize("flipped", [0.05, 0.1])
def test_planted_flips_are_found(tmp_path: Path, flipped: float) -> None:
    """Labels that words tell well: most flips are found, and nearly nothing else. A label is believed only from its mean
    probability on, so that a row of which the classifier is less sure than usual is left alone."""
    batch, wrong = corpus(0, 1200, flipped)
    found = gathered("label_noise", [batch], tmp_path)
    hits = set(found.trail) & set(wrong)
    assert len(hits) >= 0.8 * len(wrong) and len(hits) >= 0.95 * len(found.trail)
    told = {name: why.split("likely '")[1][0] for name, (_, why) in found.trail.items()}
    assert sum(told[name] == wrong[name] for name in hits) >= 0.95 * len(hits)
    assert found.account.counts == {"doubted": len(found.trail)}
    pairs = [note for note in found.account.notes if note.startswith("given")]
    assert sum(int(note.split(": ")[1].split()[0]) for note in pairs) == len(found.trail)


def test_rows_go_or_count_less(tmp_path: Path) -> None:
    batch, _ = corpus(1, 300, 0.1)
    marked = gathered("label_noise", [batch], tmp_path / "1")
    assert set(gathered("label_noise", [batch], tmp_path / "2", do="drop").removed) == set(marked.trail)
    less = gathered("label_noise", [batch], tmp_path / "3", do="downweight", weight=0.5)
    assert (
        {name for name, row in less.left.items() if row["weight"] == 0.5}
        == set(marked.trail)
        == set(less.trail)
    )


@given(
    st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.integers(0, 10)] * 3)), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.25]),
)
@settings(max_examples=80, deadline=None)
def test_what_is_believed_is_what_the_plain_twin_says(rows: list[Any], margin: float) -> None:
    given_, chances = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float) / 8
    threshold = []
    for label in range(3):
        own = [chances[k][label] for k in range(len(rows)) if given_[k] == label]
        threshold.append(sum(own) / max(len(own), 1))
    expected = []
    for k, row in enumerate(chances):
        sure = [label for label in range(3) if row[label] >= threshold[label]]
        if sure:
            likely = max(sure, key=lambda label: (row[label], -label))
            if likely != given_[k] and row[likely] - row[given_[k]] >= margin:
                expected.append((k, likely))
    places, likely = believed(chances, given_, margin)
    assert list(zip(places.tolist(), likely.tolist(), strict=True)) == expected


@pytest.mark.parametrize("size", [20, 50])
def test_order_and_batches_do_not_matter(tmp_path: Path, size: int) -> None:
    batch, _ = corpus(2, 250, 0.1)
    whole = gathered("label_noise", [batch], tmp_path / "whole")
    mixed = batch.take(pa.array(random.Random(0).sample(range(250), 250)))
    found = gathered("label_noise", [mixed.slice(n, size) for n in range(0, 250, size)], tmp_path / "parts")
    assert found.trail == whole.trail and found.account.plain() == whole.account.plain() and whole.trail


def test_odd_tasks(tmp_path: Path) -> None:
    one = [("user", "x"), ("assistant", "same")]
    assert not gathered("label_noise", [batch_of(one, one)], tmp_path / "1").trail
    few = [[("user", f"row {k}"), ("assistant", str(k % 2))] for k in range(4)]
    assert len(gathered("label_noise", [batch_of(*few)], tmp_path / "2", folds=20).left) == 4
    with pytest.raises(DataError, match="needs a label for every row"):
        gathered("label_noise", [batch_of("plain")], tmp_path / "3")
    with pytest.raises(ValidationError, match="weight is for do: downweight"):
        LabelNoise(weight=0.5)
