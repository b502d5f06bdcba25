"""Shingles, bands and shared counts, against plain twins with Python sets."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import compiled, sketch
from luthier.data.sketch import (
    BITS,
    DRAWINGS,
    DRAWN_BITS,
    FOUND,
    SAMPLES,
    Shingles,
    banded,
    layout,
    shared,
    shingles,
    whole,
)
from luthier.data.words import Words, words_in

from .test_words import FULL, STEP, each_way, hostile, mix, plain_grams, plain_words, word_hash


@pytest.fixture(scope="module", autouse=True, params=["compiled", "plain"])
def _how(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from each_way(request.param, tmp_path_factory)


few_words = st.lists(st.sampled_from(["a", "b", "c", "Don't", "字", "longer-words"]), max_size=9).map(
    " ".join
)


def plain_shingles(texts: list[str], k: int) -> list[int]:
    found: set[int] = set()
    for text in texts:
        hashes = [word_hash(word) for word in plain_words(text)]
        if hashes:
            found |= {told >> 64 - BITS for told in plain_grams(hashes, min(k, len(hashes)))}
    return sorted(found)


def plain_bands(values: list[int], bands: int, rows: int) -> list[int | None]:
    """Each band takes the lowest few of the shingles that name it, from one drawing after the other."""
    taken: list[list[int]] = [[] for _ in range(bands)]
    for drawing in range(DRAWINGS):
        drawn: list[list[int]] = [[] for _ in range(bands)]
        for value in values:
            told = mix((value + (drawing + 1) * STEP) & FULL)
            drawn[(told >> 32) * bands >> 32].append(told >> 64 - DRAWN_BITS)
        for band, own in zip(taken, drawn, strict=True):
            band += [mix((told + drawing * STEP) & FULL) for told in sorted(own)[: rows - len(band)]]
        if all(len(band) == rows for band in taken):
            break
    return [mix(sum(band) & FULL) if band else None for band in taken]


def sets_of(lists: list[list[int]]) -> Shingles:
    sizes = [len(one) for one in lists]
    return Shingles(
        np.array([value for one in lists for value in one], np.uint64),
        np.concatenate([[0], np.cumsum(sizes)]).astype(int),
    )


@given(
    st.lists(st.tuples(st.integers(0, 4), few_words | hostile, st.booleans()), max_size=9), st.integers(1, 4)
)
@settings(max_examples=200, deadline=None)
def test_shingles_are_those_of_the_twin(texts: list[tuple[int, str, bool]], k: int) -> None:
    row = np.array([row for row, _, _ in texts], np.int64)
    wanted = np.array([wanted for _, _, wanted in texts], bool)
    found = shingles(words_in([text for _, text, _ in texts]), row, wanted, 5, k)
    for n in range(5):
        own = [text for row, text, wanted in texts if row == n and wanted]
        assert found.values[found.first[n] : found.first[n + 1]].tolist() == plain_shingles(own, k)


def test_more_rows_than_a_tag_can_number(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"some words of row {n // 2}" for n in range(40)]
    row = np.arange(40) % 13
    want = shingles(words_in(texts), row, np.ones(40, bool), 15, 2)
    monkeypatch.setattr(sketch, "MOST_ROWS", 4)
    some = shingles(words_in(texts), row, np.ones(40, bool), 15, 2)
    assert np.array_equal(want.values, some.values) and np.array_equal(want.first, some.first)


value_sets = st.lists(st.integers(0, (1 << BITS) - 1), max_size=60, unique=True).map(sorted)


@given(st.lists(value_sets, max_size=6), st.sampled_from([(18, 7), (26, 4), (3, 1), (1, 20)]))
@settings(max_examples=40, deadline=None)
def test_bands_are_those_of_the_twin_whatever_stands_beside(
    rows: list[list[int]], shape: tuple[int, int]
) -> None:
    told, there = banded(sets_of(rows), *shape)
    before, sketch.BLOCK = sketch.BLOCK, 20
    try:
        again = banded(sets_of(rows), *shape)
    finally:
        sketch.BLOCK = before
    assert np.array_equal(told[there], again[0][again[1]])
    for n, values in enumerate(rows):
        plain = plain_bands(values, *shape)
        assert [int(v) if ok else None for v, ok in zip(told[n], there[n], strict=True)] == plain


@given(st.lists(st.tuples(value_sets, value_sets), max_size=6))
@settings(max_examples=50, deadline=None)
def test_shared_and_whole(pairs: list[tuple[list[int], list[int]]]) -> None:
    a, b = sets_of([one for one, _ in pairs]), sets_of([other for _, other in pairs])
    assert shared(a, b).tolist() == [len({*one} & {*other}) for one, other in pairs]
    same = whole(a) == whole(b)
    assert same.tolist() == [one == other for one, other in pairs]


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 0.999])
def test_layout_finds_a_pair_of_just_that_index(similarity: float) -> None:
    bands, rows = layout(similarity)
    assert 1 - (1 - similarity**rows) ** bands >= FOUND and bands * rows <= SAMPLES
    sharper = math.ceil(math.log(1 - FOUND) / math.log(1 - similarity ** (rows + 1)))
    assert sharper * (rows + 1) > SAMPLES


@pytest.mark.parametrize(
    ("similarity", "size"),
    [(0.85, 7), (0.85, 20), (0.85, 160), (0.7, 12), (0.7, 100), (0.5, 30), (0.95, 300)],
)
def test_pairs_at_the_threshold_agree_on_a_band(similarity: float, size: int) -> None:
    draw = random.Random(f"{similarity} {size}")
    one, other = [], []
    for _ in range(2_000):
        # |A| = |B| = size with `both` in common has an index of both / (2 size - both)
        both = math.ceil(2 * size * similarity / (1 + similarity))
        values = draw.sample(range(1 << BITS), 2 * size - both)
        one.append(sorted(values[:size]))
        other.append(sorted(values[size - both :]))
    (told, there), (again, also) = (banded(sets_of(rows), *layout(similarity)) for rows in (one, other))
    found = ((told == again) & there & also).any(axis=1).mean()
    # 2,000 pairs at 0.999: more than 7 misses happen once in a thousand times, and the draws are fixed
    assert found >= 1 - 7 / 2_000


@pytest.mark.parametrize("spread", [1, 1 << 20, 1 << 47])
def test_compiled_sets_are_the_plain_ones_however_many_hashes_begin_alike(spread: int) -> None:
    """Hashes that differ in their lowest bits alone would all stand in one place of the compiled sort."""
    draw = np.random.default_rng(spread)
    hashes = draw.integers(0, spread, 900).astype(np.uint64) << np.uint64(64 - BITS)
    edges = np.array([0, 0, 1, 500, 500, 900])
    none = np.zeros(900, np.int64)
    words = Words(np.zeros(0, np.uint8), unmixed(hashes), edges, none, none)
    row, wanted = np.array([4, 0, 1, 2, 1]), np.array([True, True, True, True, False])
    found = [shingles(words, row, wanted, 5, 1)]
    with compiled.plainly():
        found.append(shingles(words, row, wanted, 5, 1))
    assert np.array_equal(found[0].values, found[1].values) and np.array_equal(found[0].first, found[1].first)
    assert found[0].sizes.tolist()[1] == len(set(hashes[1:500].tolist()))


def unmixed(hashes: np.ndarray) -> np.ndarray:
    """What mixes to these."""
    both = [(31, pow(0x94D049BB133111EB, -1, 1 << 64)), (27, pow(0xBF58476D1CE4E5B9, -1, 1 << 64)), (30, 1)]
    out = []
    for h in hashes.tolist():
        for shift, factor in both:
            told = h
            for _ in range(64 // shift):
                told = h ^ told >> shift
            h = told * factor & FULL
        out.append(h)
    return np.array(out, np.uint64)
