"""Choices against plain twins that look at everything in every step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import diversity
from luthier.data.diversity import apart, coverage, select, spread
from luthier.data.vectors import cosines, quantised

cases = st.tuples(st.integers(0, 500), st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 32]))
LAWS = settings(max_examples=60, deadline=None)


def vectors(seed: int, n: int, size: int) -> np.ndarray:
    """Some stand there twice, and one is blank."""
    found = quantised(np.random.default_rng(seed).normal(size=(n, size)))
    found[n // 2 :: 5] = found[0]
    found[seed % n] *= seed % 3 > 0
    return found


def plain_spread(like: np.ndarray, first: int, n: int) -> list[int]:
    chosen = [first]
    while len(chosen) < n:
        near = like[:, chosen].max(axis=1)
        near[chosen] = 2
        chosen.append(int(np.argmin(near)))
    return chosen


@given(cases, st.sampled_from([1, 3, 4096]))
@LAWS
def test_spread_is_the_farthest_first(case: tuple[int, int, int, int], pool: int) -> None:
    seed, n, k, size = case
    found = vectors(seed, n, size)
    like = diversity._Rows(found).cosines(found)
    before, diversity.POOL = diversity.POOL, pool
    try:
        chosen = spread(found, min(k, n)).tolist()
    finally:
        diversity.POOL = before
    said, blank = np.flatnonzero(found.any(axis=1)), np.flatnonzero(~found.any(axis=1))
    first = said.tolist().index(chosen[0]) if len(said) else 0
    among = said[plain_spread(like[np.ix_(said, said)], first, min(k, len(said)))] if len(said) else said
    assert chosen == [*among, *blank][: min(k, n)]


@given(cases)
@LAWS
def test_coverage_adds_most_in_every_step(case: tuple[int, int, int, int]) -> None:
    seed, n, k, size = case
    found = vectors(seed, n, size)
    like = np.maximum(diversity._Rows(found).cosines(found), 0).astype(np.float64)
    chosen = coverage(found, min(k, n)).tolist()
    covered = np.zeros(n)
    for place in chosen:
        gains = np.maximum(like - covered, 0).sum(axis=1)
        assert gains[place] == pytest.approx(gains.max(), abs=1e-4)
        covered = np.maximum(covered, like[place])
    assert len(set(chosen)) == min(k, n)


@given(cases, st.sampled_from([0.2, 0.7, 1.0]))
@LAWS
def test_apart_takes_the_best_that_are_not_too_near(case: tuple[int, int, int, int], nearest: float) -> None:
    seed, n, k, size = case
    found = vectors(seed, n, size)
    like = diversity._Rows(found).cosines(found)
    order = np.random.default_rng(seed).permutation(n)
    kept, left = [], []
    for place in order.tolist():
        if len(kept) == min(k, n):
            break
        (kept if all(like[place, other] < np.float32(nearest) for other in kept) else left).append(place)
    assert apart(found, order, min(k, n), nearest).tolist() == (kept + left)[: min(k, n)]


def test_rows_in_parts_are_chosen_again_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = vectors(1, 100, 32)
    for way in ("spread", "coverage"):
        monkeypatch.setitem(diversity.MOST, way, 40)
        notes: list[str] = []
        assert len(set(select(found, 10, way, notes.append).tolist())) == 10
        assert len(set(select(found, 30, way, notes.append).tolist())) == 30
        assert notes == [
            "100 rows are more than 40: chosen in 3 parts, and 10 of twice as many chosen again",
            "100 rows are more than 40: chosen in 3 parts, and what they gave was taken as it was",
        ]


def test_what_it_is_for() -> None:
    """Of 20 clusters, one of 400 rows and 19 of 6: 20 rows by spread have one of each, by coverage the large one has more; 20
    drawn by lot have about 16 of the large one."""
    draw = np.random.default_rng(0)
    sizes = [400] + [6] * 19
    centre = np.repeat(draw.normal(size=(20, 64)), sizes, axis=0)
    cluster = np.repeat(np.arange(20), sizes)
    found = quantised(centre + 0.2 * draw.normal(size=centre.shape))
    assert len(set(cluster[spread(found, 20)].tolist())) == 20
    assert len(set(cluster[coverage(found, 20)].tolist())) >= 19
    like = cosines(found, found)
    assert like[:, spread(found, 20)].max(axis=1).min() > like[:, :20].max(axis=1).min()


def test_rows_without_anything_to_compare_come_last() -> None:
    draw = np.random.default_rng(3)
    found = quantised(draw.normal(size=(40, 16)))
    found[::4] = 0
    chosen = spread(found, 35).tolist()
    assert len(set(chosen)) == 35
    assert chosen[:30] == np.flatnonzero(found.any(axis=1))[spread(found[found.any(axis=1)], 30)].tolist()
    assert chosen[30:] == [0, 4, 8, 12, 16]
    assert spread(np.zeros((3, 16), found.dtype), 2).tolist() == [0, 1]


def test_the_same_again_is_taken_in_order_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten different vectors, 300 of each, and a pool that holds few of them."""
    monkeypatch.setattr(diversity, "POOL", 64)
    ten = quantised(np.random.default_rng(4).normal(size=(10, 16)))
    found = np.tile(ten, (300, 1))
    seen = 0

    class Counting(diversity._Rows):
        def cosines(self, others: np.ndarray) -> np.ndarray:
            nonlocal seen
            seen += len(self) * len(others)
            return super().cosines(others)

    monkeypatch.setattr(diversity, "_Rows", Counting)
    chosen = spread(found, 2_000).tolist()
    assert len(set(chosen)) == 2_000 and {n % 10 for n in chosen[:10]} == set(range(10))
    assert chosen[10:] == [n for n in range(3_000) if n not in chosen[:10]][:1_990]
    assert seen < 3_000 * 100
