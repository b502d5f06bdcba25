"""How much of two rows is the same, and which pairs are worth asking: shingles, their Jaccard index, and bands.

    words ─▶ shingles: every k words in a row ─▶ a sorted set of 48-bit hashes per row ─▶ bands: a few hashes of samples

The Jaccard index of two rows is |A ∩ B| / |A ∪ B| of their sets of shingles. Shingles do not cross the edges of texts; a
text of fewer than k words is one shingle.

A band is a sample of `rows` shingles that depends on the set alone, so two sets of index s agree on it with a probability
near s^rows, and on one of many bands almost surely; sets that have little in common almost never agree (Indyk and Motwani,
1998). All bands are drawn together: a shingle's hash names one band, and each band takes its lowest few; a band that is not
full takes from a second drawing, and so on (after "fast similarity sketching", Dahlgaard, Knudsen and Thorup, 2017).
So a set is hashed about once, not once for each sample.

Where there is a C compiler, a row is worked on alone and stays in the processor's first cache (words.c); what is here does the
same for all rows of a batch at once.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np

from . import compiled
from .words import STEP, Words, grams, mix, short_texts

BITS = 48  # of a shingle's hash: above them stands the row while a batch is sorted
MOST_ROWS = 1 << 16
SAMPLES = 128
FOUND = 0.999
DRAWINGS = 16
DRAWN_BITS = 40
BLOCK = 1 << 16  # shingles at once: what they take stays in the processor's second cache


@dataclass(frozen=True)
class Shingles:
    """Of B rows: those of row b are values[first[b] : first[b + 1]], sorted, each once; uint64."""

    values: np.ndarray
    first: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """[B]"""
        return np.diff(self.first)


def shingles(words: Words, row: np.ndarray, wanted: np.ndarray, rows: int, k: int) -> Shingles:
    """Those of the `wanted` texts [T] of each of B = `rows`; `row` [T] says whose a text is."""
    if (library := compiled.library()) is not None:
        return _compiled_shingles(library, words, *by_row(row, wanted, rows), k)
    hashes, text = _of_texts(words, k)
    if not wanted.all():
        keep = wanted[text]
        hashes, text = hashes[keep], text[keep]
    owner = row[text].astype(np.uint64)
    hashes >>= np.uint64(64 - BITS)
    parts = []
    for low in range(0, max(rows, 1), MOST_ROWS):
        some = slice(None) if rows <= MOST_ROWS else owner // np.uint64(MOST_ROWS) == low // MOST_ROWS
        tagged = (owner[some] - np.uint64(low)) << np.uint64(BITS) | hashes[some]
        tagged.sort()
        fresh = np.ones(len(tagged), bool)
        np.not_equal(tagged[1:], tagged[:-1], out=fresh[1:])
        parts.append((tagged[fresh], min(MOST_ROWS, rows - low)))
    sizes = [
        np.bincount((tagged >> np.uint64(BITS)).astype(np.int64), minlength=n) for tagged, n in parts if n > 0
    ]
    values = np.concatenate([tagged for tagged, _ in parts]) & np.uint64((1 << BITS) - 1)
    return Shingles(
        values, np.concatenate([[0], np.cumsum(np.concatenate(sizes) if sizes else [])]).astype(np.int64)
    )


def by_row(row: np.ndarray, wanted: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The `wanted` texts of each row: (texts, row after row, each row's in their order; where each row's begin, and the end)."""
    texts = np.flatnonzero(wanted)
    owner = row[texts]
    if (owner[1:] < owner[:-1]).any():
        order = np.argsort(owner, kind="stable")
        texts, owner = texts[order], owner[order]
    return texts, np.searchsorted(owner, np.arange(rows + 1))


def _compiled_shingles(
    library: ctypes.CDLL, words: Words, texts: np.ndarray, begins: np.ndarray, k: int
) -> Shingles:
    most = len(words.hashes) + 1
    scratch, past, values = np.empty(most, np.uint64), np.empty(most, np.uint32), np.empty(most, np.uint64)
    first = np.empty(len(begins), np.int64)
    compiled.call(
        library.luthier_shingles, words.hashes, words.first, texts, begins, len(begins) - 1, k, BITS,
        scratch, past, values, first,
    )  # fmt: skip
    return Shingles(values[: first[-1]], first)


def _of_texts(words: Words, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of shingles, the text of each), in no order."""
    hashes, _ = grams(words, k)
    text = np.repeat(np.arange(len(words.first) - 1), np.maximum(words.counts() - k + 1, 0))
    short, which = short_texts(words, k)
    return (np.concatenate([hashes, short]), np.concatenate([text, which])) if len(short) else (hashes, text)


def layout(similarity: float) -> tuple[int, int]:
    """(bands, rows of each): the most rows with which a pair of just this index still agrees on one of the bands with a
    probability of 0.999, of at most 128 samples. Equal sets need no band: `whole` finds them.

    >>> layout(0.85), layout(0.7), layout(1)
    ((18, 7), (26, 4), (0, 0))
    """
    best = (0, 0)
    for rows in range(1, SAMPLES + 1) if similarity < 1 else ():
        bands = math.ceil(math.log(1 - FOUND) / math.log1p(-(similarity**rows)))
        if bands * rows <= SAMPLES:
            best = (bands, rows)
    return best


def banded(sets: Shingles, bands: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the bands uint64 [B, bands], which of them are there [B, bands]: none is of a row without words)."""
    n = len(sets.sizes)
    out, taken = np.zeros((n, bands), np.uint64), np.zeros((n, bands), np.uint8)
    if (library := compiled.library()) is not None:
        lowest, found = np.empty(bands * rows, np.uint64), np.empty(bands, np.int64)
        compiled.call(
            library.luthier_banded, sets.values, sets.first, n, bands, rows, DRAWINGS, DRAWN_BITS,
            lowest, found, out, taken,
        )  # fmt: skip
        return out, taken > 0
    start = 0
    while start < n and bands:
        end = max(int(np.searchsorted(sets.first, sets.first[start] + BLOCK, "right")) - 1, start + 1)
        end = min(end, start + (1 << 64 - DRAWN_BITS) // bands)
        first = sets.first[start : end + 1]
        values = sets.values[first[0] : first[-1]]
        owner = np.repeat(np.arange(end - start, dtype=np.uint64), np.diff(first))
        _draw(values, owner, out[start:end].reshape(-1), taken[start:end].reshape(-1), bands, rows)
        start = end
    return mix(out), taken > 0


def _draw(
    values: np.ndarray, owner: np.ndarray, out: np.ndarray, taken: np.ndarray, bands: int, rows: int
) -> None:
    """Adds to every band's hash those of the shingles it takes, until all are full or nothing new can be expected."""
    wide = np.uint64(DRAWN_BITS)
    for drawing in range(DRAWINGS):
        drawn = mix(values + _nth(drawing + 1))
        place = owner * np.uint64(bands) + ((drawn >> np.uint64(32)) * np.uint64(bands) >> np.uint64(32))
        if drawing:
            open_ = taken[place] < rows
            drawn, place = drawn[open_], place[open_]
        drawn >>= np.uint64(64 - DRAWN_BITS)
        drawn |= place << wide
        drawn.sort()
        place = (drawn >> wide).astype(np.int64)
        begin = np.flatnonzero(np.concatenate([[True], place[1:] != place[:-1]])) if len(place) else place
        where = place[begin]
        lengths = np.diff(np.append(begin, len(place)))
        nth = np.arange(len(place)) - np.repeat(begin, lengths)
        room = rows - taken[where].astype(np.int64)
        chosen = mix((drawn & np.uint64((1 << DRAWN_BITS) - 1)) + _nth(drawing))
        chosen[nth >= np.repeat(room, lengths)] = 0
        if len(begin):
            out[where] += np.add.reduceat(chosen, begin)
            taken[where] += np.minimum(lengths, room).astype(np.uint8)
        lacking = np.any(taken.reshape(-1, bands) < rows, axis=1)
        stay = lacking[owner.astype(np.int64)]
        values, owner = values[stay], owner[stay]
        if not len(values):
            return


def _nth(drawing: int) -> np.uint64:
    return np.uint64(drawing * int(STEP) % (1 << 64))


def whole(sets: Shingles) -> np.ndarray:
    """One hash for each row's whole set, uint64 [B]: equal for equal sets."""
    if (library := compiled.library()) is not None:
        told = np.empty(len(sets.sizes), np.uint64)
        compiled.call(library.luthier_whole, sets.values, sets.first, len(told), told)
        return told
    out = sets.sizes.astype(np.uint64) * STEP
    full = np.flatnonzero(sets.sizes)
    if len(full):
        out[full] += np.add.reduceat(mix(sets.values), sets.first[:-1][full])
    return mix(out)


def shared(a: Shingles, b: Shingles) -> np.ndarray:
    """How many shingles row p of `a` and row p of `b` have in common, [P]; at most 65,536 pairs."""
    n = len(a.sizes)
    assert n <= MOST_ROWS
    if (library := compiled.library()) is not None:
        both = np.empty(n, np.int64)
        compiled.call(library.luthier_shared, a.values, a.first, b.values, b.first, n, both)
        return both
    pair = np.concatenate([np.repeat(np.arange(n, dtype=np.uint64), one.sizes) for one in (a, b)])
    told = pair << np.uint64(BITS) | np.concatenate([a.values, b.values])
    told.sort()
    twice = told[1:][told[1:] == told[:-1]] >> np.uint64(BITS)
    return np.bincount(twice.astype(np.int64), minlength=n)
