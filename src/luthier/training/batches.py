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
