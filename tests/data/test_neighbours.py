"""Pairs against comparing all with all: none that is not, and nearly all that are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import neighbours
from luthier.data.neighbours import layout, near
from luthier.data.vectors import cosines, quantised


def planted(seed: int, n: int, size: int, lean: float, cosine: float) -> np.ndarray:
    """n vectors that share a direction (`lean`), and as many again, each with about the wanted cosine to one of them."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=(n, size)) + lean
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    aside = draw.normal(size=(n, size))
    aside -= (aside * first).sum(axis=1, keepdims=True) * first
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return quantised(np.concatenate([first, cosine * first + np.sqrt(1 - cosine**2) * aside]))


@given(
    st.integers(0, 1000), st.integers(1, 40), st.sampled_from([8, 64]), st.sampled_from([0.5, 0.8, 0.95, 1.0])
)
@settings(max_examples=40, deadline=None)
def test_what_is_reported_is_true_sorted_and_told_once(seed: int, n: int, size: int, least: float) -> None:
    vectors = planted(seed, n, size, 0.3, 0.9)
    vectors[seed % n] = 0
    a, b, cosine = near(vectors, least, lambda _: None)
    exact = cosines(vectors, vectors)
    assert np.array_equal(cosine, exact[a, b]) and (cosine >= least).all() and (a < b).all()
    pairs = list(zip(b.tolist(), a.tolist(), strict=True))
    assert pairs == sorted(set(pairs))


@pytest.mark.parametrize("lean", [0.0, 0.7])
@pytest.mark.parametrize("least", [0.8, 0.9, 0.97])
def test_nearly_all_pairs_are_found(least: float, lean: float) -> None:
    """2,000 pairs a little above the least cosine, among 4,000 vectors; those found are promised to be 0.99 of them."""
    vectors = planted(7, 2000, 128, lean, least + 0.01)
    a, _b, _ = near(vectors, least, lambda _: None)
    exact = np.triu(cosines(vectors, vectors) >= least, 1)
    assert exact.sum() >= 1500
    assert len(a) / exact.sum() > 0.98


def test_a_crowd_is_told_and_does_not_take_all_memory() -> None:
    notes: list[str] = []
    vectors = np.tile(quantised(np.random.default_rng(0).normal(size=(1, 64))), (1000, 1))
    vectors = np.concatenate([vectors, quantised(np.random.default_rng(1).normal(size=(300, 64)))])
    a, b, _ = near(vectors, 0.9, notes.append)
    assert set(b.tolist()) == set(range(1, 1000)) and len(a) <= 1000 * (neighbours.WINDOW + neighbours.FIRST)
    assert notes and notes[0].startswith("as many as 1")
    # each of the crowd is compared with the first of it, which is the one that stays
    assert {int(other) for one, other in zip(a, b, strict=True) if one == 0} == set(range(1, 1000))


def test_layouts_find_what_they_promise() -> None:
    for n in (2, 100, 10**4, 10**6):
        for cosine in (0.5, 0.7, 0.9, 0.99, 1.0):
            bits, tables = layout(n, cosine)
            missed = (1 - (1 - np.arccos(cosine) / np.pi) ** bits) ** tables
            assert missed <= 0.0101 or tables == neighbours.MOST_TABLES
