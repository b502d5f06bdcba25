"""The laws of the split, for any rows."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import split
from luthier.data.digests import fold
from luthier.data.opened import Opened
from luthier.data.records import RECORD
from luthier.data.spec import SplitSpec

Row = tuple[str, str, str | None]  # what the user says, the label, the group

inputs = st.sampled_from([f"input {i}" for i in range(12)] + ["INPUT  3", "input\n4", "ｉnput 5"])
labels = st.sampled_from(["a", "b", "c"])
groups = st.sampled_from(["g1", "g2", "g3", "g4", "g5", "g6", None])
plain_rows = st.lists(st.tuples(inputs, labels, st.none()), max_size=30)
grouped_rows = st.lists(st.tuples(inputs, labels, groups), max_size=30)
seeds = st.integers(0, 3)
LAWS = settings(max_examples=40, deadline=None)


DATABASE: list[duckdb.DuckDBPyConnection] = []


@pytest.fixture(autouse=True, scope="module")
def database() -> Any:
    """One connection for all: opening one costs more than a split of thirty rows."""
    DATABASE.append(duckdb.connect(config={"threads": 1}))
    yield
    DATABASE.pop().close()


def divide(
    rows: list[Row], seed: int = 0, stratify: bool = False, **shares: float
) -> list[tuple[str, str | None]]:
    """(side, reason why set aside) of each row."""
    if not rows:
        return []
    spec = SplitSpec.model_validate({"validation": 0.25, "test": 0.25, "seed": seed, **shares})
    records = [
        {
            "id": str(i),
            "messages": [{"role": "user", "content": said}, {"role": "assistant", "content": label}],
            "label": label,
            "group": group,
        }
        for i, (said, label, group) in enumerate(rows)
    ]
    batch = pa.RecordBatch.from_pylist(records, schema=RECORD)
    keys = pa.table({**split.keys(Opened(batch), spec), "row": pa.array(range(len(rows)))})
    database = DATABASE[0]
    database.begin()  # and never committed: the tables are gone for the next call
    try:
        database.register("given", keys)
        database.execute("CREATE TABLE keys AS SELECT * FROM given")

        def keep(name: str, sql: str) -> None:
            database.execute(f"CREATE TABLE {name} AS {sql}")

        sql = split.decide("keys", split.Sides(spec, stratify), keep)
        found = database.execute(f"SELECT row, side, reason FROM ({sql}) ORDER BY row").fetchall()
    finally:
        database.rollback()
    assert [row for row, _, _ in found] == list(range(len(rows)))
    return [(side, reason) for _, side, reason in found]


@given(grouped_rows, seeds, st.booleans(), st.randoms())
@LAWS
def test_the_order_of_rows_does_not_matter(
    rows: list[Row], seed: int, stratify: bool, chance: random.Random
) -> None:
    order = list(range(len(rows)))
    chance.shuffle(order)
    straight = divide(rows, seed, stratify)
    shuffled = divide([rows[i] for i in order], seed, stratify)
    assert shuffled == [straight[i] for i in order]


@given(grouped_rows, seeds, st.booleans())
@LAWS
def test_no_input_and_no_group_is_on_two_sides(rows: list[Row], seed: int, stratify: bool) -> None:
    by_input, by_group = defaultdict(set), defaultdict(set)
    for (said, _, group), (side, reason) in zip(rows, divide(rows, seed, stratify), strict=True):
        if group is not None:
            by_group[group].add(side)
        if reason is None:
            by_input[fold(said)].add(side)
    assert all(len(sides) == 1 for sides in [*by_input.values(), *by_group.values()])


@given(plain_rows, seeds, st.booleans())
@LAWS
def test_without_groups_no_row_is_set_aside(rows: list[Row], seed: int, stratify: bool) -> None:
    assert all(reason is None for _, reason in divide(rows, seed, stratify))


@given(grouped_rows, grouped_rows, seeds)
@LAWS
def test_new_rows_move_old_ones_only_by_the_documented_help(
    old: list[Row], new: list[Row], seed: int
) -> None:
    """A row whose side differs from its draw was helped; only such rows may stand elsewhere after rows were added."""
    before, after = divide(old, seed), divide(old + new, seed)[: len(old)]
    spec = SplitSpec.model_validate({"validation": 0.25, "test": 0.25, "seed": seed})
    moved = set()
    for (said, _, group), (side, _), (later, _) in zip(old, before, after, strict=True):
        if side != later:
            key = f"group:{group}" if group else fold(said)
            moved.add(key)
            drawn = split.side(split.draw(leak_key(said, group), seed), spec)
            assert drawn in (side, later)
    assert len(moved) <= 4  # one key given and one taken back, per held-out side


@given(plain_rows, plain_rows, seeds)
@LAWS
def test_new_rows_move_nothing_where_both_sides_have_rows_by_themselves(
    old: list[Row], new: list[Row], seed: int
) -> None:
    spec = SplitSpec.model_validate({"validation": 0.25, "test": 0.25, "seed": seed})
    drawn = [split.side(split.draw(leak_key(said, None), seed), spec) for said, _, _ in old]
    before = divide(old, seed)
    if {"test", "validation"} <= set(drawn):
        assert [side for side, _ in before] == drawn
        assert divide(old + new, seed)[: len(old)] == before


def leak_key(said: str, group: str | None) -> str:
    from luthier.data.records import hashed

    return f"group:{group}" if group else f"input:{hashed([said], fold=True)[0].as_py()}"


@given(st.lists(st.tuples(st.text(max_size=5), labels, st.none()), min_size=1, max_size=40), seeds)
@LAWS
def test_a_label_with_five_inputs_has_rows_on_both_held_out_sides(rows: list[Row], seed: int) -> None:
    sides, keys = defaultdict(set), defaultdict(set)
    for (said, label, _), (side, _) in zip(
        rows, divide(rows, seed, stratify=True, validation=0.01, test=0.01), strict=True
    ):
        sides[label].add(side)
        keys[label].add(fold(said))
    alone = {
        label
        for label, mine in keys.items()
        if not any(mine & other for name, other in keys.items() if name != label)
    }
    for (
        label
    ) in alone:  # an input under two labels goes to one side for both, which may take it from the other label
        if len(keys[label]) >= split.FEWEST_KEYS:
            assert sides[label] == {"train", "validation", "test"}


def test_shares_hold_on_average() -> None:
    # 4,000 inputs: the standard deviation of a share of 0.1 is sqrt(0.1 * 0.9 / 4000) = 0.0047; four of them are allowed
    sides = [
        side for side, _ in divide([(f"input {i}", "a", None) for i in range(4000)], validation=0.1, test=0.1)
    ]
    for name in ("validation", "test"):
        assert sides.count(name) / 4000 == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 4000))


def test_a_side_that_is_not_wanted_gets_nothing() -> None:
    sides = {
        side
        for side, _ in divide(
            [(f"input {i}", "a", None) for i in range(50)], validation=0, test=0, stratify=True
        )
    }
    assert sides == {"train"}


def test_another_seed_is_another_split() -> None:
    rows: list[Row] = [(f"input {i}", "a", None) for i in range(100)]
    assert divide(rows, seed=0) != divide(rows, seed=1)


def test_an_input_in_two_groups_stays_where_it_is_held_out_most() -> None:
    """Groups on known sides: found by their draws; the shared input survives only in the test."""
    spec = SplitSpec.model_validate({"validation": 0.25, "test": 0.25})
    by_side: dict[str, str] = {}
    for i in range(100):
        by_side.setdefault(split.side(split.draw(f"group:{i}", 0), spec), str(i))
    rows: list[Row] = [("shared", "a", by_side[side]) for side in ("train", "validation", "test")]
    rows += [("own", "a", by_side["train"])]
    found = divide(rows)
    assert [side for side, _ in found] == ["train", "validation", "test", "train"]
    assert [reason is None for _, reason in found] == [False, False, True, True]
    assert found[0][1] == "the same input is in the test split, in another group"


def test_the_labels_a_side_lacks_are_told() -> None:
    counts: dict[str, Any] = {"a": {"train": 3, "validation": 0, "test": 1}}
    assert split.missing_labels(counts, split.SIDES) == [
        "the label 'a' has no row in validation (4 rows in all)"
    ]


@LAWS
@given(grouped_rows, seeds)
def test_folds_hold_back_disjoint_parts_and_leave_the_test_as_it_is(rows: list[Row], seed: int) -> None:
    """Three windows of a quarter after a test of a quarter: every key that is not for the test is held back once."""
    folds = [divide(rows, seed, fold=fold) for fold in range(3)]
    for n in range(len(rows)):
        sides = [told[n][0] for told in folds if told[n][1] is None]
        if "test" in sides:
            assert set(sides) == {"test"}
        elif len(sides) == 3 and not any(group for _, _, group in rows):
            assert sides.count("validation") >= 1


def test_the_first_fold_is_the_split_there_always_was_and_one_too_many_is_refused() -> None:
    assert SplitSpec(fold=0).plain() == SplitSpec().plain()
    assert "fold" not in SplitSpec().plain()
    assert SplitSpec(fold=8, validation=0.1, test=0.1).plain()["fold"] == 8
    with pytest.raises(ValueError, match="there is no fold 9"):
        SplitSpec(fold=9, validation=0.1, test=0.1)
