"""Rules that learn from all rows: what they see, that order and batches do not matter, and where a plan puts them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luthier.core import plugin
from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.data.engines import gather
from luthier.data.engines.gather import AllFeatures
from luthier.data.opened import Opened
from luthier.data.plan import Group, Step, plan_of
from luthier.data.records import hashed
from luthier.data.rules.rule import Gathered, GatherRule, RowRule, Said
from luthier.data.spec import RulesSpec, SplitSpec
from luthier.data.split import Sides
from luthier.data.testing import Carried, batch_of, gathered

Prepare = Any


class Mean(Spec):
    """Of a rule for tests: rows longer than the mean go, all others are told how far they are below it."""


def _features(rows: Opened, settings: Mean) -> pa.RecordBatch:
    return pa.record_batch({"bytes": pa.array([len(text) for text in rows.text], pa.int64())})


def _learn(features: Gathered, settings: Mean, note: Callable[[str], None]) -> pa.Table:
    ids = [name for batch in features.read() for name in batch["id"].to_pylist()]
    assert ids == sorted(ids) and len(ids) == features.rows
    assert sum(batch.num_rows for batch in features.read()) == features.rows  # may be read again
    total = int(features.column("bytes").sum())
    note(f"{features.rows} rows of {total} bytes, the first is {ids[0]}")
    return pa.table({"mean": [total // features.rows]})


def _run(rows: Opened, settings: Mean, learnt: pa.Table) -> Said:
    mean = learnt["mean"][0].as_py()
    below = [mean - len(text) for text in rows.text]
    weights = pa.array([float(1 + max(n, 0)) for n in below], pa.float32())
    return Said(
        columns={"weight": weights},
        changed=rows.reasons({k: f"{n} below the mean" for k, n in enumerate(below) if n > 0}),
        removed=rows.reasons({k: f"{-n} above the mean" for k, n in enumerate(below) if n < 0}),
        counts={"below": np.array([n > 0 for n in below])},
    )


MEAN = GatherRule("mean", 1, Mean, "For tests.", _features, _learn, _run)


@pytest.fixture(autouse=True)
def _rule_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugin.BUILT_IN["rule"], "mean", f"{__name__}:MEAN")


def carried(folder: Path, batches: list[pa.RecordBatch]) -> Carried:
    return gathered("mean", batches, folder)


def test_it_learns_from_all_rows_and_says_of_each(tmp_path: Path) -> None:
    """Lengths 1, 2, 3 and 10: the mean is 4."""
    batch = batch_of("a", "bb", "ccc", "d" * 10)
    found = carried(tmp_path, [batch.slice(0, 3), batch.slice(3)])
    ids = batch["id"].to_pylist()
    assert found.removed == {ids[3]: "6 above the mean"}
    assert {name: row["weight"] for name, row in found.left.items()} == {ids[0]: 4, ids[1]: 3, ids[2]: 2}
    assert found.trail == {ids[n]: ("weighed", f"{3 - n} below the mean") for n in range(3)}
    assert (found.account.rows_in, found.account.removed, found.account.changed) == (4, 1, 3)
    assert found.account.counts == {"below": 3}
    assert found.account.notes == [f"4 rows of 16 bytes, the first is {min(ids)}"]


def test_without_rows_there_is_nothing_to_learn(tmp_path: Path) -> None:
    found = carried(tmp_path, [])
    assert (found.left, found.account.rows_in, found.account.notes) == ({}, 0, [])


def test_order_and_batches_do_not_matter(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = ["x" * draw.randrange(60) for _ in range(200)]
    batch = batch_of(*texts, id=hashed(str(n) for n in range(200)).to_pylist())
    whole = carried(tmp_path / "whole", [batch])
    for n in (1, 7, 64):
        order = draw.sample(range(200), 200)
        mixed = batch.take(pa.array(order))
        parts = [mixed.slice(start, n) for start in range(0, 200, n)]
        assert carried(tmp_path / str(n), parts) == _timed(whole)


class _timed:
    """Equal but for the seconds."""

    def __init__(self, whole: Carried) -> None:
        self.whole = whole

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Carried)
        same = (self.whole.left, self.whole.removed, self.whole.trail) == (
            other.left,
            other.removed,
            other.trail,
        )
        return same and self.whole.account.plain() == other.account.plain()


@pytest.mark.parametrize("at_once", [1, 2_000, 10_000])
def test_features_are_sorted_by_parts_where_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """1,000 rows of 16 bytes and more: sorted in 256, 16 parts, or in one."""
    monkeypatch.setattr(gather, "SORT_BYTES", at_once if at_once < 10_000 else 10**9)
    ids = hashed(str(n) for n in range(1000)).to_pylist()
    features = AllFeatures(tmp_path)
    for start in range(0, 1000, 300):
        numbers = list(range(start, min(start + 300, 1000)))
        pairs = pa.FixedSizeListArray.from_arrays(pa.array([n * k for n in numbers for k in (1, 2)]), 2)
        features.add(pa.record_batch({"n": numbers, "pair": pairs, "id": [ids[n] for n in numbers]}))
    features.sort()
    order = sorted(range(1000), key=ids.__getitem__)
    assert [name for batch in features.read() for name in batch["id"].to_pylist()] == sorted(ids)
    assert features.column("n").tolist() == order
    assert features.column("pair").tolist() == [[n, 2 * n] for n in order]
    assert [path.name for path in tmp_path.iterdir()] == ["features.arrow"]
    features.remove()
    assert not list(tmp_path.iterdir())


def test_what_is_too_large_to_travel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "LEARNT_BYTES", 7)
    with pytest.raises(DataError, match="what it has to say of 1 rows takes 8 bytes"):
        carried(tmp_path, [batch_of("a")])


def shape(rules: dict[str, list[Any]], named: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
    def told(group: Group) -> tuple[Any, ...]:
        rows, keyed = ([step.rule.name for step in steps] for steps in (group.rows, group.keyed))
        learns = group.learns.rule.name if group.learns else None
        return rows, learns, keyed, group.numbers, group.sides is not None

    found = plan_of(RulesSpec.model_validate(rules), Sides(SplitSpec(), stratify=False), named)
    assert [step.number for group in found for step in group.steps] == list(
        range(1, sum(map(len, rules.values())) + 1)
    )
    return [told(group) for group in found]


def test_a_plan_numbers_rows_before_it_learns_and_divides_after() -> None:
    assert shape({"quality": ["normalize", "mean"]}, ("a",)) == [
        (["normalize"], None, [], ("a",), False),
        ([], "mean", [], None, False),
        ([], None, [], None, True),
    ]
    assert shape({"quality": ["deduplicate", "mean", "drop_empty"], "quantity": ["mean", "balance"]}) == [
        ([], None, ["deduplicate"], (), False),
        ([], "mean", [], None, False),
        (["drop_empty"], None, [], None, True),
        ([], "mean", [], None, False),
        ([], None, ["balance"], None, False),
    ]


def test_identical_rows_have_ids_of_their_own_when_it_learns(tmp_path: Path, prepare: Prepare) -> None:
    """Every text stands there twice; from 0 to 3 digits are added to its number of two."""
    rows = "".join(f'{{"text": "{n % 40 + 10}{"1" * (n % 4)}"}}\n' for n in range(80))
    (tmp_path / "a.jsonl").write_text(rows)
    wish = {"sources": [{"files": "a.jsonl"}], "split": {"test": 0.5, "validation": 0}}
    found = prepare({**wish, "rules": {"quality": ["mean"], "quantity": ["mean"]}})
    first, second = (entry for entry in found.rules if entry["rule"] == "mean")
    assert first["notes"][0].startswith(
        "80 rows of 280 bytes"
    )  # 2 * 80 + 20 * (0 + 1 + 2 + 3): the mean is 3
    assert (first["removed"], first["changed"]) == (40, 20)
    assert second["rows_in"] < first["rows_out"]  # those of train alone
    lines = [line for line in found.split("trail") if line["what"] == "weighed"]
    assert (
        len({(line["id"], line["step"]) for line in lines})
        == len(lines)
        == first["changed"] + second["changed"]
    )


def test_what_nothing_edits_may_be_noted() -> None:
    from luthier.data.engines.group import run_group

    def _note(rows: Opened, settings: Mean) -> Said:
        return Said(changed=rows.reasons({0: "odd"}))

    step = Step(RowRule("odd", 1, Mean, "", _note), Mean())
    found = run_group(Group((step,)), batch_of("a", "b"))
    assert found.accounts[0].changed == 0
    assert [(line["what"], line["reason"]) for line in found.removed[0].to_pylist()] == [("noted", "odd")]
