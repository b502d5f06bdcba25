"""Which sequences begin alike, and how they lie in a line so that each beginning is computed once. Pure; no torch.

    sequences    i i i p p a      i i i p p b b      i i i q c        x x
    pieces       [i i i] ─┬─ [p p] ─┬─ [a]                            [x x]
                          │         └─ [b b]
                          └─ [q c]

What is shared ends before the first position whose prediction is learnt, so every learnt position is computed for its
own sequence, and losses and gradients are those of the sequences one by one. A sequence's last token is never an input:
it predicts nothing.

Not here: attention along such a line (models/line.py), and whether sharing is allowed at all (it is not where dropout
makes equal beginnings differ: models.line.steady).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .rows import Tokens

LEAST = 16
"""Fewest tokens worth sharing: a piece costs a batch of small products in every layer (measured: docs/log.md)."""


@dataclass(frozen=True)
class Piece:
    """Inputs `first` to `last` (not included) of `sequence` and of all that share them; `above` is the piece before."""

    sequence: int
    first: int
    last: int
    above: int | None

    @property
    def tokens(self) -> int:
        return self.last - self.first


@dataclass
class _Branch:
    sequence: int  # the lowest that shares it
    first: int
    last: int
    below: list[_Branch] = field(default_factory=list)


class Prefixes:
    """What some sequences share; asked about any of them by their indices."""

    def __init__(self, sequences: Sequence[Tokens]) -> None:
        self._inputs = [max(0, len(one.ids) - 1) for one in sequences]
        begins = [one.ids[: _shareable(one)].astype(">u4") for one in sequences]
        self._order = sorted(range(len(sequences)), key=lambda i: (begins[i].tobytes(), i))
        self._rank = {i: rank for rank, i in enumerate(self._order)}
        # Tokens that neighbours in this order share; any two share the fewest of all between them.
        self._alike = np.zeros(len(sequences), np.int64)
        for rank, (a, b) in enumerate(pairwise(self._order), 1):
            self._alike[rank] = _alike(begins[a], begins[b])

    def alike(self, a: int, b: int) -> int:
        """How many first tokens two sequences may share."""
        low, high = sorted((self._rank[a], self._rank[b]))
        return int(self._alike[low + 1 : high + 1].min()) if low < high else self._inputs[a]

    def sort(self, which: Iterable[int]) -> list[int]:
        """In an order where those that begin alike are neighbours."""
        return sorted(which, key=self._rank.__getitem__)

    def tokens(self, which: Iterable[int]) -> int:
        """Tokens of these sequences, what they share counted once; each one's last token is counted too."""
        branches = self._grow(self.sort(which))
        return sum(one.last - one.first + (not one.below) for one in _walk(branches))

    def pieces(self, which: Iterable[int]) -> tuple[list[Piece], dict[int, int]]:
        """The pieces in line order, and which of them ends each sequence. Sequences that share nothing stay in order."""
        pieces: list[Piece] = []
        ends: dict[int, int] = {}

        def lay(branches: list[_Branch], above: int | None) -> None:
            for one in sorted(branches, key=lambda branch: branch.sequence):
                here = len(pieces)
                pieces.append(Piece(one.sequence, one.first, one.last, above))
                if not one.below:
                    ends[one.sequence] = here
                lay(one.below, here)

        lay(self._grow(self.sort(which)), None)
        return pieces, ends

    def _grow(self, order: list[int]) -> list[_Branch]:
        alike = [0, *(self.alike(a, b) for a, b in pairwise(order))]
        return self._split(order, alike, 0, len(order), 0)

    def _split(self, order: list[int], alike: list[int], begin: int, end: int, depth: int) -> list[_Branch]:
        """Branches of order[begin:end], which share `depth` tokens already."""
        branches: list[_Branch] = []
        start = begin
        for at in range(begin + 1, end + 1):
            if at < end and alike[at] - depth >= LEAST:
                continue
            branches.append(self._branch(order, alike, start, at, depth))
            start = at
        return branches

    def _branch(self, order: list[int], alike: list[int], begin: int, end: int, depth: int) -> _Branch:
        """order[begin:end] share at least LEAST tokens more, or are one."""
        lowest = min(order[begin:end])
        if end - begin == 1:
            return _Branch(lowest, depth, self._inputs[lowest])
        common = min(alike[begin + 1 : end])
        return _Branch(lowest, depth, common, self._split(order, alike, begin, end, common))


def apart(sequences: Sequence[Tokens]) -> tuple[list[Piece], dict[int, int]]:
    """Each sequence by itself: what sharing must equal."""
    pieces = [Piece(i, 0, max(0, len(one.ids) - 1), None) for i, one in enumerate(sequences)]
    return pieces, {i: i for i in range(len(sequences))}


def _walk(branches: list[_Branch]) -> Iterator[_Branch]:
    for one in branches:
        yield one
        yield from _walk(one.below)


def _shareable(one: Tokens) -> int:
    """Inputs before the first whose prediction is learnt; at least one is left over."""
    told = np.flatnonzero(one.supervised[1:])
    return max(0, min(int(told[0]) if len(told) else len(one.ids), len(one.ids) - 2))


def _alike(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
