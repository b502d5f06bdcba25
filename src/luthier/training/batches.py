"""Which rows when: the order of each epoch, its optimizer steps, and their micro-batches. Pure; no torch.

The order follows from (seed, epoch, record id) and never from a row's place in a file, so training without a row
equals never having had it. A step is `rows` rows of the order; the last step of an epoch takes what is left.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .prefixes import Prefixes
    from .rows import Row

EVEN_PARTS = 16
"""A step is cut into fewer; a validation into many more, where searching for the evenest cut would take seconds."""


def epoch_order(names: Sequence[str], seed: int, epoch: int) -> list[int]:
    """Indices of `names` in the order of one epoch (0-based).

    >>> names = ["a", "b", "c", "d"]
    >>> [names[i] for i in epoch_order(names, 0, 0)] == [names[::-1][i] for i in epoch_order(names[::-1], 0, 0)]
    True
    """
    salt = f"{seed}/{epoch}/"

    def rank(i: int) -> tuple[bytes, str]:
        return blake2b((salt + names[i]).encode(), digest_size=16).digest(), names[i]

    return sorted(range(len(names)), key=rank)


def steps_per_epoch(n_rows: int, rows: int) -> int:
    """
    >>> steps_per_epoch(33, 16)
    3
    """
    return -(-n_rows // rows)


def total_steps(n_rows: int, rows: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of a whole run; a fraction of an epoch counts up to the next step.

    >>> total_steps(33, 16, 2, None), total_steps(33, 16, 0.5, None), total_steps(33, 16, 2, 5)
    (6, 2, 5)
    """
    # 0.1 · 30 is 3.0000000000000004 in binary; that is three steps, not four.
    steps = max(1, math.ceil(round(epochs * steps_per_epoch(n_rows, rows), 9)))
    return steps if max_steps is None else min(steps, max_steps)


@dataclass(frozen=True)
class Order:
    """The rows of every step. Keeps the last epoch's order, because steps come one after another."""

    names: Sequence[str]
    seed: int
    rows: int
    _kept: dict[int, list[int]] = field(default_factory=dict, repr=False)

    def step(self, step: int) -> list[int]:
        """Indices of the rows of a step (1-based), in order."""
        epoch, k = divmod(step - 1, steps_per_epoch(len(self.names), self.rows))
        if epoch not in self._kept:
            self._kept.clear()
            self._kept[epoch] = epoch_order(self.names, self.seed, epoch)
        return self._kept[epoch][k * self.rows : (k + 1) * self.rows]


def cut(rows: Sequence[Row], budget: int, *, share: bool = False) -> list[list[int]]:
    """Micro-batches of at most `budget` tokens, as indices into `rows`; a row with more goes alone.

    With `share`, what rows of a micro-batch begin with counts once, and rows that begin alike come together: a set of
    them that fits goes whole, a larger one is cut into as few micro-batches as its order allows.
    """
    if not share:
        return pack([row.tokens for row in rows], budget)
    from .prefixes import Prefixes

    prefixes = Prefixes([one for row in rows for one in row.sequences])
    ends = list(accumulate(len(row.sequences) for row in rows))
    kin = Kin(prefixes, [range(end - len(row.sequences), end) for row, end in zip(rows, ends, strict=True)])
    items = sorted((item for alike in kin.sets() for item in kin.cut(alike, budget)), key=min)
    bins = pack([kin.tokens(item) for item in items], budget)
    return [sorted(row for k in one for row in items[k]) for one in bins]


@dataclass(frozen=True)
class Kin:
    """Rows that begin alike. `sequences[r]` are those of row r, by their index in `prefixes`."""

    prefixes: Prefixes
    sequences: Sequence[Sequence[int]]

    def tokens(self, rows: Sequence[int]) -> int:
        """What these rows share counted once."""
        return self.prefixes.tokens(s for row in rows for s in self.sequences[row])

    def sets(self) -> list[list[int]]:
        """All rows; within a set every one shares something with its neighbours."""
        from .prefixes import LEAST

        row_of = {some[0]: row for row, some in enumerate(self.sequences) if some}
        order = self.prefixes.sort(row_of)
        sets = [[row_of[first]] for first in order[:1]]
        for before, first in pairwise(order):
            if self.prefixes.alike(before, first) >= LEAST:
                sets[-1].append(row_of[first])
            else:
                sets.append([row_of[first]])
        return sets + [[row] for row, some in enumerate(self.sequences) if not some]

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """A set in pieces within the budget, evenly where their number stays the same and a step is what is cut."""
        parts = self._fill(rows, budget)
        if 1 < len(parts) <= EVEN_PARTS:
            # The least budget that needs no more pieces.
            low, high = min(self.tokens(part) for part in parts), budget
            while low < high:
                middle = (low + high) // 2
                fewer = self._fill(rows, middle)
                if len(fewer) > len(parts):
                    low = middle + 1
                else:
                    parts, high = fewer, middle
        return parts

    def _fill(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        parts: list[list[int]] = []
        for row in rows:
            if parts and self.tokens([*parts[-1], row]) <= budget:
                parts[-1].append(row)
            else:
                parts.append([row])
        return parts


def pack(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into as few micro-batches of at most `budget` tokens as best-fit decreasing finds; a longer row goes
    alone. Where the same number of micro-batches can be filled evenly they are: the peak of memory is lower and no
    matrix is needlessly thin. Returns indices into `tokens`.

    >>> pack([700, 600, 500, 400, 300], 1500)
    [[0, 3, 4], [1, 2]]
    >>> pack([3000, 10], 1500)
    [[0], [1]]
    """
    falling = sorted(range(len(tokens)), key=lambda i: (-tokens[i], i))
    bins = _best_fit(tokens, falling, budget)
    even = _even(tokens, falling, len(bins))
    if all(sum(tokens[i] for i in one) <= budget for one in even):
        bins = even
    return [sorted(one) for one in bins]


def _best_fit(tokens: Sequence[int], falling: Sequence[int], budget: int) -> list[list[int]]:
    """Each row goes where it leaves the least room."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, bin), sorted
    for i in falling:
        at = bisect_left(room, (tokens[i], -1))
        if at < len(room):
            free, b = room.pop(at)
        else:
            free, b = budget, len(bins)
            bins.append([])
        bins[b].append(i)
        insort(room, (free - tokens[i], b))
    return bins


def _even(tokens: Sequence[int], falling: Sequence[int], n_bins: int) -> list[list[int]]:
    """Longest first, each to the bin with the fewest tokens."""
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    load = [(0, b) for b in range(n_bins)]
    for i in falling:
        held, b = load.pop(0)
        bins[b].append(i)
        insort(load, (held + tokens[i], b))
    return bins
