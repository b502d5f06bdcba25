"""near_duplicates: of rows that say nearly the same one stays. A row goes only if a row that stays, and comes before it, has
a Jaccard index of at least `similarity` with it over the words themselves, so nothing is removed by a chain or by a hash:

    shingles of words ─▶ bands ─▶ pairs that agree on one ─▶ index by 48-bit hashes ─▶ in order: index by the words

Case, punctuation, whitespace and Unicode variants do not count, and neither do system messages, which many rows share. A
row without any word is never like another. Under `on: conversation` rows with different labels are never alike: one of them
may be labelled wrongly, and that is for a person to say. Neither are rows that call other functions, or could call others; under
`on: assistant` rows that call others.

Not here: meaning (paraphrases share few shingles), and text that is only part of another.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.spec import Spec

from .primitives import Candidates
from .rule import PairRule

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.opened import Opened
    from luthier.data.sketch import Shingles

AT_ONCE = 500_000  # shingles of pairs whose indices are reckoned together


class NearDuplicates(Spec):
    similarity: float = Field(default=0.85, ge=0.5, le=1)
    """The least share of shingles that two rows have in common, of all that either has, for one of them to go."""
    shingle: int = Field(default=3, ge=1, le=20)
    """How many words in a row are compared as one; fewer find looser copies."""
    on: Literal["conversation", "user", "assistant"] = "conversation"
    """What is compared: what both say, or only one of them; a plain text counts as either."""
    keep: Literal["lowest_id", "longest"] = "lowest_id"
    """Which of several stays: the one with the lowest id, or the one with the most words."""

    @property
    def least(self) -> int:
        """In thousandths."""
        return round(self.similarity * 1000)


ROLES = {
    "conversation": ("user", "assistant", "text", "rejected"),
    "user": ("user", "text"),
    "assistant": ("assistant", "text"),
}


def _shingles(rows: Opened, settings: NearDuplicates) -> Shingles:
    from luthier.data import sketch
    from luthier.data.words import words_of

    wanted = rows.says(*ROLES[settings.on])
    return sketch.shingles(words_of(rows), rows.row.astype("int64"), wanted, len(rows), settings.shingle)


def _keys(rows: Opened, settings: NearDuplicates) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    from luthier.data import sketch
    from luthier.data.words import words_of

    found = _shingles(rows, settings)
    salt = _salt(rows, settings)
    told, there = sketch.banded(found, *sketch.layout(settings.similarity))
    rank = np.zeros(len(rows), np.int64)
    if settings.keep == "longest":
        counts = np.where(rows.says(*ROLES[settings.on]), words_of(rows).counts(), 0)
        rank = -rows.per_row(counts, "sum").astype(np.int64)
    columns = {
        "rank": pa.array(rank),
        "n": pa.array(found.sizes.astype(np.int32)),
        "whole": pa.array((sketch.whole(found) ^ salt).view(np.int64)),
    }
    for k, name in enumerate(_candidates(settings).bands):
        columns[name] = pa.array((told[:, k] ^ salt).view(np.int64), mask=~there[:, k])
    return pa.record_batch(columns)


def _salt(rows: Opened, settings: NearDuplicates) -> np.ndarray:
    """What must be equal for rows to be alike, hashed, uint64 [B]."""
    import numpy as np

    whole = settings.on == "conversation"
    salt = _labels(rows) if whole else np.zeros(len(rows), np.uint64)
    if settings.on != "user":
        for row, told in (rows.with_tools() if whole else rows.called()).items():
            salt[row] ^= np.uint64(_hash(told))
    return salt


def _hash(text: str) -> int:
    from hashlib import blake2b

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _labels(rows: Opened) -> np.ndarray:
    """A hash for each row's label, 0 where there is none, uint64 [B]."""
    import numpy as np

    labels = rows.label
    if labels.null_count() == len(labels):
        return np.zeros(len(labels), np.uint64)
    known = {label: _hash(label) for label in labels.unique().drop_nulls().to_list()}
    return np.array([known.get(label, 0) for label in labels.to_list()], np.uint64)


def _candidates(settings: NearDuplicates) -> Candidates:
    from luthier.data.sketch import layout

    bands, _ = layout(settings.similarity)
    return Candidates(tuple(f"band_{k:02}" for k in range(bands)), settings.least)


def _features(rows: Opened, settings: NearDuplicates) -> pa.RecordBatch:
    """Columns: features, the row's shingles as sorted hashes; told, its words, blanks between and a line for each text."""
    import numpy as np
    import pyarrow as pa

    from luthier.data.sketch import by_row
    from luthier.data.words import lines, words_of

    found = _shingles(rows, settings)
    texts, begins = by_row(rows.row.astype(np.int64), rows.says(*ROLES[settings.on]), len(rows))
    told, edges = lines(words_of(rows), texts, begins)
    strings = pa.Array.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(edges), pa.py_buffer(told)]
    )
    hashes = pa.array(found.values.view(np.int64))
    lists = pa.LargeListArray.from_arrays(pa.array(found.first), hashes)
    return pa.record_batch({"features": lists, "told": strings})


def _solve(
    features: Iterator[pa.RecordBatch],
    pairs: Iterator[pa.RecordBatch],
    settings: NearDuplicates,
    note: Callable[[str], None],
) -> pa.Table:
    """Greedy, in the order of who stays. The index by hashes says which pairs are worth the words; a row whose like has
    gone is compared with the one that that had to go for."""
    import pyarrow as pa

    held = _Held(features, settings.shingle)
    gone: dict[int, tuple[int, int]] = {}  # place: (that of the row that stays, hundredths they share)
    for row, before in _near(held, pairs, settings.least):
        staying = [place for place in before if place not in gone]
        theirs = [gone[place][0] for place in before if place in gone]
        for place in dict.fromkeys([*staying, *theirs]):
            both, either = held.compare(place, row)
            if both * 1000 >= settings.least * either:
                gone[row] = (place, both * 100 // either)
                break
    if gone:
        families = Counter(place for place, _ in gone.values())
        largest = 1 + max(families.values())
        note(f"{len(families)} families of near duplicates, the largest of {largest} rows")
    rows = [int(held.rows[place]) for place in gone]
    why = [f"{share / 100:.2f} like {held.name(place)}" for place, share in gone.values()]
    return pa.table({"row": pa.array(rows, pa.int64()), "reason": pa.array(why, pa.string())})


def _near(held: _Held, pairs: Iterator[pa.RecordBatch], least: int) -> Iterator[tuple[int, list[int]]]:
    """(place of a row, places of rows before it whose index by hashes is at least `least` thousandths), in order."""
    import numpy as np

    at_hand = -1
    before: list[int] = []
    for batch in pairs:
        a, b = (held.places(batch[name].to_numpy()) for name in ("a", "b"))
        near = np.flatnonzero(_index(held, a, b, least))
        for place, row in zip(a[near].tolist(), b[near].tolist(), strict=True):
            if row != at_hand:
                if before:
                    yield at_hand, before
                at_hand, before = row, []
            before.append(place)
    if before:
        yield at_hand, before


def _index(held: _Held, a: np.ndarray, b: np.ndarray, least: int) -> np.ndarray:
    """Pairs whose index by hashes is at least `least` thousandths, bool [P]."""
    import numpy as np

    from luthier.data.sketch import MOST_ROWS, shared

    sizes = held.sizes[a] + held.sizes[b]
    ends = np.cumsum(sizes)
    out = np.zeros(len(a), bool)
    start = 0
    while start < len(a):
        room = (ends[start - 1] if start else 0) + AT_ONCE
        end = min(max(int(np.searchsorted(ends, room, "right")), start + 1), start + MOST_ROWS)
        both = shared(held.take(a[start:end]), held.take(b[start:end]))
        out[start:end] = both * 1000 >= least * (sizes[start:end] - both)
        start = end
    return out


class _Held:
    """Features by place: the number of a row among those that have any."""

    def __init__(self, features: Iterator[pa.RecordBatch], shingle: int) -> None:
        import numpy as np

        batches = list(features)
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._begins = self._starts.tolist()
        self._columns = {name: [batch[name] for batch in batches] for name in ("told", "id")}
        self._offsets = [batch["features"].offsets.to_numpy() for batch in batches]
        self._values = [batch["features"].values.to_numpy() for batch in batches]
        none = [np.zeros(0, np.int64)]
        self.rows = np.concatenate([batch["row"].to_numpy() for batch in batches] or none)
        self.sizes = np.concatenate([np.diff(offsets) for offsets in self._offsets] or none)
        self._order = np.argsort(self.rows)
        self._sorted = self.rows[self._order]
        self._shingle = shingle

    def places(self, rows: np.ndarray) -> np.ndarray:
        import numpy as np

        return self._order[np.searchsorted(self._sorted, rows)]

    def take(self, places: np.ndarray) -> Shingles:
        import numpy as np

        from luthier.data.sketch import Shingles

        first = np.concatenate([[0], np.cumsum(self.sizes[places])])
        values = np.empty(int(first[-1]), np.uint64)
        which = np.searchsorted(self._starts, places, "right") - 1
        for n in np.unique(which).tolist():
            mine = np.flatnonzero(which == n)
            begin = self._offsets[n][places[mine] - self._starts[n]]
            lengths = self.sizes[places[mine]]
            shift = np.cumsum(lengths) - lengths
            nth = np.arange(int(lengths.sum())) - np.repeat(shift, lengths)
            values[np.repeat(first[mine], lengths) + nth] = self._values[n][
                np.repeat(begin, lengths) + nth
            ].view(np.uint64)
        return Shingles(values, first)

    def name(self, place: int) -> str:
        return str(self._cell("id", place))

    def compare(self, a: int, b: int) -> tuple[int, int]:
        """How many shingles both have, and how many either has: by the words themselves."""
        words = self._cell("told", a), self._cell("told", b)
        if words[0] == words[1]:
            return int(self.sizes[a]), int(self.sizes[a])
        return compare(*words, self._shingle)

    def _cell(self, name: str, place: int) -> Any:
        n = bisect(self._begins, place) - 1
        return self._columns[name][n][place - self._begins[n]].as_py()


def compare(a: bytes, b: bytes, k: int) -> tuple[int, int]:
    """How many shingles two rows both have, and how many either has, of words as spoken_shingles takes them.

    >>> compare(b"to be or not\\n", b"to be or\\nnot\\n", 2)
    (2, 4)
    """
    import numpy as np

    from luthier.data import compiled

    if (library := compiled.library()) is None:
        one, other = spoken_shingles(a, k), spoken_shingles(b, k)
        return len(one & other), len(one | other)
    sizes = np.empty(2, np.int64)
    told = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    both = compiled.call(library.luthier_compare, told[0], len(a), told[1], len(b), k, compiled.SEED, sizes)
    if both < 0:
        raise MemoryError(f"no memory for the shingles of {len(a) + len(b):,} bytes of words")
    return both, int(sizes.sum()) - both


@lru_cache(maxsize=256)
def spoken_shingles(told: bytes, k: int) -> frozenset[tuple[bytes, ...]]:
    """Of words with blanks between, a line for each text.

    >>> sorted(spoken_shingles(b"to be or\\nnot\\n", 2))
    [(b'be', b'or'), (b'not',), (b'to', b'be')]
    """
    found: set[tuple[bytes, ...]] = set()
    for line in told.splitlines():
        words = line.split(b" ")
        found.update(zip(*(words[n:] for n in range(k)), strict=False) if len(words) > k else [tuple(words)])
    return frozenset(found)


near_duplicates = PairRule(
    "near_duplicates", 2, NearDuplicates, "Keeps one of rows that say nearly the same.",
    _keys, _candidates, _features, _solve,
    source="MinHash and banding after Broder (1997) and Indyk and Motwani (1998), with verification",
)  # fmt: skip
