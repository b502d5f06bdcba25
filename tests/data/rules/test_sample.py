"""How many stay, which, and the primitive against a plain twin."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.opened import Opened
from luthier.data.rules.primitives import Sample
from luthier.data.rules.sample import Sample as Wish
from luthier.data.testing import batch_of, decided, keys, opened


def plain(rows: list[tuple[str, str, str]], n: int | None, share: float | None) -> set[int]:
    """The rows (id, part, rank) that stay, by exact fractions."""
    sizes = Counter(part for _, part, _ in rows)
    places = []
    for k, (name, part, rank) in enumerate(rows):
        place = 1 + sum((r, i) < (rank, name) for i, p, r in rows if p == part)
        places.append((Fraction(2 * place - 1, 2 * sizes[part]), rank, name, k))
    if share is not None:
        return {k for at, _, _, k in places if at < Fraction(round(share * 10**9), 10**9)}
    return {k for *_, k in sorted(places)[:n]}


tables = st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 6)), min_size=1, max_size=20).map(
    lambda pairs: [(f"{k:02}", part, f"{rank:02}") for k, (part, rank) in enumerate(pairs)]
)


def stay(rows: list[tuple[str, str, str]], n: int | None, share: float | None) -> set[int]:
    columns = {name: [row[k] for row in rows] for k, name in enumerate(("id", "part", "rank"))}
    found, _ = decided(Sample(n, share), columns)
    return set(range(len(rows))) - set(found)


@given(
    tables,
    st.integers(1, 25),
    st.sampled_from([None, 0.1, 1 / 3, 0.5, 1.0]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_the_primitive_decides_as_its_plain_twin_whatever_the_order(
    rows: Any, n: int, share: Any, random: Any
) -> None:
    random.shuffle(rows)
    size = None if share is not None else n
    found = stay(rows, size, share)
    assert found == plain(rows, size, share)
    if size is not None:
        assert len(found) == min(n, len(rows))


@given(tables, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_more_room_keeps_the_earlier_choice(rows: Any, n: int) -> None:
    assert stay(rows, n, None) <= stay(rows, n + 1, None)
    assert stay(rows, None, 0.2) <= stay(rows, None, 0.5)


def test_every_part_keeps_its_share() -> None:
    rows = [
        (f"{k:04}", "a" if k < 600 else "b" if k < 900 else "c", f"{(k * 7919) % 1000:04}")
        for k in range(1000)
    ]
    for n, share in ((100, None), (None, 0.1)):
        parts = Counter(rows[k][1] for k in stay(rows, n, share))
        assert parts == {"a": 60, "b": 30, "c": 10}


def test_reasons_and_notes() -> None:
    columns = {"id": ["0", "1", "2"], "part": ["", "", ""], "rank": ["c", "a", "b"]}
    assert decided(Sample(1, None), columns)[0] == dict.fromkeys([0, 2], "not drawn: 1 of 3 rows stay")
    assert decided(Sample(None, 0.34), columns)[0] == dict.fromkeys(
        [0, 2], "not drawn: 0.34 of the rows stay"
    )
    assert decided(Sample(5, None), columns) == ({}, ["all 3 rows stay; the sample may have 5"])


def test_keys() -> None:
    rows = ([("user", "u"), ("assistant", "a")], "text")
    assert keys("sample", opened(*rows), n=1)["part"] == ["", ""]
    assert keys("sample", opened(*rows, group=["g", None]), n=1, by="group")["part"] == ["g", ""]
    assert keys("sample", opened(*rows), n=1, by="source")["part"] == ["t", "t"]
    assert keys("sample", opened(*rows), n=1)["rank"] != keys("sample", opened(*rows), n=1, seed=1)["rank"]
    assert keys("sample", Opened(batch_of()), n=1)["rank"] == []
    with pytest.raises(DataError, match="sample by label needs labels"):
        keys("sample", opened(*rows), n=1, by="label")


def test_rows_from_a_file(prepare: Any, jsonl: Any) -> None:
    jsonl([{"text": f"t{i}", "label": "a" if i < 60 else "b"} for i in range(90)])
    kept = []
    for n in (30, 45):
        rules = {"quality": [{"sample": {"n": n, "by": "label"}}]}
        done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": rules}, {"kind": "classify"})
        assert Counter(row["label"] for row in done.rows()) == {"a": n * 2 // 3, "b": n // 3}
        kept.append({row["id"] for row in done.rows()})
    assert kept[0] < kept[1]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({}, "sample needs n or share, one of them, as in"),
        ({"n": 1, "share": 0.5}, "sample needs n or share, one of them, as in"),
        ({"share": 0}, "share 0 leaves no rows"),
        ({"n": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Wish.model_validate(wish)
