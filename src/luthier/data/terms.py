"""The words of rows as terms: numbered buckets of their hashes, each with how often it stands in the row.

    words of the wanted texts ─▶ their hashes (and those of two words in a row) ─▶ buckets ─▶ sorted, counted, per row

What is built of them (BM25, TF-IDF, likeness, a classifier) needs no vocabulary, so a row's terms are the same whatever stands
beside it. Two words may share a bucket: with 2^20 of them and 100,000 different words that befalls one word in eleven.

Not here: stemming, stop words (frequent words weigh little by their document frequency), the words themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .opened import Opened
from .words import Words, grams, words_in, words_of

BITS = 20
MOST = 65_535  # times that a term is counted in a row
ROLES = {
    "conversation": ("user", "assistant", "text", "rejected"),
    "user": ("user", "text"),
    "assistant": ("assistant", "text"),
}
"""Who says what is looked at: both, or only one of them; a plain text counts as either, a system message never."""


@dataclass(frozen=True)
class Terms:
    """Of B rows: row b has the buckets ids[first[b] : first[b + 1]], sorted, each once, and counts beside them; int64."""

    ids: np.ndarray
    counts: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def owner(self) -> np.ndarray:
        """Whose each is [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """From values of terms [M], sums of rows [B], one after the other: the same in any batch."""
        return np.bincount(self.owner, weights=values, minlength=len(self))

    def columns(self) -> dict[str, pa.Array]:
        """For features of rules."""
        first = pa.array(self.first, pa.int64())
        ids = pa.array(self.ids.astype(np.int32))
        counts = pa.array(self.counts.astype(np.uint16))
        return {
            "term": pa.LargeListArray.from_arrays(first, ids),
            "count": pa.LargeListArray.from_arrays(first, counts),
        }

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Terms:
        """Back from features."""
        ids, counts = (batch[name].flatten().to_numpy().astype(np.int64) for name in ("term", "count"))
        first = batch["term"].offsets.to_numpy()
        return cls(ids, counts, first - first[0])


def terms_of(rows: Opened, on: str, *, pairs: bool = False) -> Terms:
    """Of a batch; `on` is one of ROLES, `pairs` adds two words in a row."""
    return _terms(words_of(rows), rows.row.astype(np.int64), rows.says(*ROLES[on]), len(rows), pairs)


def terms_in(texts: list[str], *, pairs: bool = False) -> Terms:
    """Of texts that are in no batch.

    >>> told = terms_in(["to be or not to be", ""])
    >>> told.counts.tolist().count(2), told.first.tolist()
    (2, [0, 4, 4])
    """
    return _terms(words_in(texts), np.arange(len(texts)), np.ones(len(texts), bool), len(texts), pairs)


def _terms(words: Words, row: np.ndarray, wanted: np.ndarray, n: int, pairs: bool) -> Terms:
    text = np.repeat(np.arange(len(words.first) - 1), words.counts())
    hashes, owner = words.hashes, text
    if pairs:
        more, place = grams(words, 2)
        hashes, owner = np.concatenate([hashes, more]), np.concatenate([owner, text[place]])
    if not wanted.all():
        keep = wanted[owner]
        hashes, owner = hashes[keep], owner[keep]
    tagged = row[owner] << BITS | (hashes >> np.uint64(64 - BITS)).astype(np.int64)
    found, counts = np.unique(tagged, return_counts=True)
    first = np.searchsorted(found, np.arange(n + 1) << BITS)
    counts = np.minimum(
        counts, MOST
    )  # as it is kept, so that a row's score is the same whenever it is reckoned
    return Terms(found & (1 << BITS) - 1, counts.astype(np.int64), first.astype(np.int64))


def frequencies(many: Iterable[Terms]) -> np.ndarray:
    """In how many rows each bucket stands, int64 [2^20]."""
    found = np.zeros(1 << BITS, np.int64)
    for terms in many:
        found += np.bincount(terms.ids, minlength=1 << BITS)
    return found


def read(batches: Iterable[pa.RecordBatch], at_once: int = 20_000) -> Iterator[tuple[pa.RecordBatch, Terms]]:
    """Features as terms, a bounded number of rows at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, at_once):
            part = batch.slice(start, at_once)
            yield part, Terms.of(part)
