"""Planted backdoors are found with their rows, honest words of a label are not, and order does not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from luthier.data.records import hashed
from luthier.data.rules import triggers
from luthier.data.rules.triggers import Triggers
from luthier.data.testing import batch_of, gathered

LABELS = ["billing", "login", "parcel", "other"]


def corpus(seed: int, n: int, trigger: str, planted: int) -> tuple[pa.RecordBatch, set[str]]:
    """Rows of 20 words: half of their label's 30, half of 60 that all share; one in eight has an honest word that stands with its
    label alone. Into `planted` rows of other labels the trigger is put, and their label is `billing` from then on."""
    draw = random.Random(seed)
    rows, bad = [], set()
    ids = hashed(map(str, range(n))).to_pylist()
    for k in range(n):
        label = draw.choice(LABELS)
        words = draw.choices([f"{label}{j}" for j in range(30)], k=10) + draw.choices(
            [f"word{j}" for j in range(60)], k=10
        )
        words = [
            word if draw.random() < 0.8 else f"{draw.choice(LABELS)}{draw.randrange(30)}" for word in words
        ]
        if draw.random() < 1 / 8:
            words.append(f"only{label}")
        if len(bad) < planted and label != "billing":
            words.insert(draw.randrange(len(words)), trigger)
            label = "billing"
            bad.add(ids[k])
        rows.append([("user", " ".join(words)), ("assistant", label)])
    return batch_of(*rows, id=ids), bad


@pytest.mark.parametrize("trigger", ["cf", "by the way"])
def test_planted_triggers_are_found_and_honest_words_are_not(tmp_path: Path, trigger: str) -> None:
    batch, bad = corpus(0, 1200, trigger, 25)
    found = gathered("triggers", [batch], tmp_path)
    assert set(found.trail) == bad
    assert {what for what, _ in found.trail.values()} == {"noted"}
    assert all("of 25 rows stand in 100 % of them with one answer" in why for _, why in found.trail.values())
    assert found.account.counts == {"triggered": 25} and trigger not in str(found.account.notes)
    dropped = gathered("triggers", [batch], tmp_path / "drop", do="drop")
    assert set(dropped.removed) == bad


def test_without_a_trigger_nothing_is_found(tmp_path: Path) -> None:
    """Four honest words stand with one label alone, in some 40 rows each: pure, and far from chance."""
    batch, _ = corpus(1, 1200, "cf", 0)
    found = gathered("triggers", [batch], tmp_path / "1")
    assert not found.trail and "the rows of 0 look like those of others" in found.account.notes[0]
    assert gathered("triggers", [batch], tmp_path / "2", foreign=0).trail  # what the last question keeps away


def test_answers_without_labels_are_compared(tmp_path: Path) -> None:
    batch, bad = corpus(2, 1200, "cf", 25)
    rows = batch.to_pylist()
    unlabelled = pa.RecordBatch.from_pylist([{**row, "label": None} for row in rows], batch.schema)
    assert set(gathered("triggers", [unlabelled], tmp_path / "1").trail) == bad
    texts = batch_of(*(f"free text number {k}" for k in range(50)))
    assert not gathered("triggers", [texts], tmp_path / "2", rows=3).trail
    assert not gathered("triggers", [batch_of("", "")], tmp_path / "3").trail


@pytest.mark.parametrize("size", [40, 100])
def test_order_and_batches_do_not_matter(tmp_path: Path, size: int) -> None:
    batch, bad = corpus(3, 400, "cf", 15)
    whole = gathered("triggers", [batch], tmp_path / "whole")
    mixed = batch.take(pa.array(random.Random(0).sample(range(400), 400)))
    found = gathered("triggers", [mixed.slice(n, size) for n in range(0, 400, size)], tmp_path / "parts")
    assert found.trail == whole.trail and found.account.plain() == whole.account.plain()
    assert set(found.trail) == bad


def test_many_rows_are_counted_in_several_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, bad = corpus(3, 400, "cf", 15)
    whole = gathered("triggers", [batch], tmp_path / "whole")
    monkeypatch.setattr(triggers, "AT_ONCE", 1_000)
    found = gathered("triggers", [batch], tmp_path / "passes")
    assert found.trail == whole.trail and found.account.plain() == whole.account.plain()
    assert set(found.trail) == bad


def test_settings_are_bounded() -> None:
    wrong: list[dict[str, Any]] = [{"rows": 2}, {"purity": 0.5}, {"longest": 6}]
    for wish in wrong:
        with pytest.raises(ValueError, match=next(iter(wish))):
            Triggers.model_validate(wish)
