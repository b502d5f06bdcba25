"""The primitive Top against a plain twin."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.rules.primitives import Top
from luthier.data.testing import decided

tables = st.lists(
    st.tuples(st.sampled_from(["", "a", "b"]), st.integers(-3, 6)), min_size=1, max_size=20
).map(lambda pairs: [(f"{k:02}", part, score) for k, (part, score) in enumerate(pairs)])


def plain(rows: list[tuple[str, str, int]], n: int | None, share: float | None) -> set[int]:
    """The rows (id, part, score) that stay, by exact fractions."""
    stay = set()
    for part in {part for _, part, _ in rows}:
        own = sorted((-score, name, k) for k, (name, other, score) in enumerate(rows) if other == part)
        for place, (_, _, k) in enumerate(own, 1):
            limit = Fraction(round((share or 0) * 10**9), 10**9)
            if place <= n if n is not None else Fraction(2 * place - 1, 2 * len(own)) < limit:
                stay.add(k)
    return stay


@given(
    tables,
    st.integers(1, 9),
    st.sampled_from([None, 0.1, 1 / 3, 0.5, 1.0]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_the_highest_of_each_part_stay_whatever_the_order(rows: Any, n: int, share: Any, random: Any) -> None:
    random.shuffle(rows)
    columns = {name: [row[k] for row in rows] for k, name in enumerate(("id", "part", "score"))}
    size = n if share is None else None
    gone, _ = decided(Top(size, share), columns)
    assert set(range(len(rows))) - set(gone) == plain(rows, size, share)
    for row, why in gone.items():
        assert why.startswith(f"score {rows[row][2]} is not among the highest ")
