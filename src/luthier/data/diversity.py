"""A few of many vectors that stand for all of them. Three ways, each a known approximation:

    spread      the next is the one farthest from all chosen: no row of all is far from a chosen one
                (k-center; Gonzalez, 1985: at most twice the best radius)
    coverage    the next is the one that adds most to how near all rows are to a chosen one: dense regions get more
                (facility location; Nemhauser, Wolsey and Fisher, 1978: at least 63 % of the best; lazily after Minoux, 1978)
    apart       the next is the best by a score that is not too near any chosen one (DEITA; Liu et al., 2024)

Vectors are int8 [N, size], likeness is their cosine, of equal ones the first counts. What a step needs is a few products of
matrices; memory is bounded by `select`, which takes more rows than MOST in parts: each part gives twice its share, and of those
the wanted number is chosen again (GreeDi; Mirzasoleiman et al., 2013).

Not here: how many of which label (rules/select).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from .vectors import floats, lengths, quantised

POOL = 4096
SAME = np.float32(1 - 1e-6)  # a cosine
BLOCK = 64
AT_ONCE = 1 << 14
CELLS = 1 << 22  # of a product at once
MOST = {"spread": 200_000, "coverage": 8_000}
"""How many rows are looked at together: what is kept of each is 4 bytes a coordinate, for coverage 4 bytes for each other."""

Way = Callable[[np.ndarray, int], np.ndarray]


def select(vectors: np.ndarray, n: int, way: str, note: Callable[[str], None]) -> np.ndarray:
    """Places of n of the vectors (all, where there are no more), in the order in which they were chosen."""
    choose: Way = {"spread": spread, "coverage": coverage}[way]
    total, most = len(vectors), MOST[way]
    if n >= total:
        return np.arange(total)
    if total <= most:
        return choose(vectors, n)
    parts = -(-total // most)
    edges = [total * k // parts for k in range(parts + 1)]
    quotas = [n * b // total - n * a // total for a, b in itertools.pairwise(edges)]
    again = 2 * n <= most
    found = [
        start + choose(vectors[start:end], min((1 + again) * quota, end - start))
        for start, end, quota in zip(edges[:-1], edges[1:], quotas, strict=True)
    ]
    then = f"{n} of twice as many chosen again" if again else "what they gave was taken as it was"
    note(f"{total} rows are more than {most}: chosen in {parts} parts, and {then}")
    both = np.concatenate(found)
    return both[choose(vectors[both], n)] if again else both


def spread(vectors: np.ndarray, n: int) -> np.ndarray:
    """k-center, greedy and exact. Rows near the edge wait in a pool, and all others are looked at only when the pool has
    nothing left that is farther out than they may be. Rows that the embedder finds nothing in come last, in their order, and so do those
    that are the same as what was chosen, once all others are."""
    blank = lengths(vectors) == 0
    if blank.any():
        some, none = np.flatnonzero(~blank), np.flatnonzero(blank)
        first = some[spread(vectors[some], min(n, len(some)))] if len(some) else some
        return np.concatenate([first, none])[:n]
    rows = _Rows(vectors)
    near = np.full(len(rows), -2.0, np.float32)  # the cosine with the nearest chosen one: at least
    chosen = [rows.middle()]
    done = 0
    while len(chosen) < n:
        rows.update(near, chosen[done:])
        near[chosen] = 2.0
        done = len(chosen)
        size = min(POOL, len(rows))
        order = np.argsort(near, kind="stable")
        if near[order[0]] >= SAME:
            chosen += order[: n - len(chosen)].tolist()
            break
        pool = np.sort(order[:size])
        bound = near[order[size]] if size < len(rows) else np.float32(3)
        own, close = _Rows(vectors[pool]), near[pool]
        while len(chosen) < n:
            best = int(np.argmin(close))
            if close[best] > bound or (close[best] == bound and done < len(chosen)) or close[best] >= 2:
                break
            chosen.append(int(pool[best]))
            np.maximum(close, own.cosines(own.one(best))[:, 0], out=close)
            close[best] = 2.0
    return np.array(chosen[:n])


def coverage(vectors: np.ndarray, n: int) -> np.ndarray:
    """Facility location, greedy. What a row would add can only fall, so most need not be asked again."""
    rows = _Rows(vectors)
    like = rows.cosines(vectors)
    np.maximum(like, 0, out=like)
    covered = np.zeros(len(rows), np.float32)
    gain = like.sum(axis=1, dtype=np.float64)
    fresh = np.zeros(len(rows), np.int64)  # how many were chosen when the gain was reckoned
    chosen: list[int] = []
    while len(chosen) < n:
        best = int(np.argmax(gain))
        if fresh[best] < len(chosen):
            some = np.argpartition(-gain, min(BLOCK, len(gain) - 1))[:BLOCK]
            some = np.append(some[fresh[some] < len(chosen)], best)
            gain[some] = np.maximum(like[some] - covered, 0).sum(axis=1, dtype=np.float64)
            fresh[some] = len(chosen)
            continue
        chosen.append(best)
        np.maximum(covered, like[best], out=covered)
        gain[best], fresh[best] = -1.0, n
    return np.array(chosen)


def apart(vectors: np.ndarray, order: np.ndarray, n: int, nearest: float) -> np.ndarray:
    """The first n in `order` [N] whose cosine with everything chosen before is below `nearest`; where those are too few, the
    first of the others, too."""
    chosen = np.zeros(0, np.int64)
    left: list[int] = []
    for start in range(0, len(order), BLOCK * 8):
        block = order[start : start + BLOCK * 8]
        own = _Rows(vectors[block])
        taken = np.zeros(len(block), bool)
        close = np.full(len(block), -1.0, np.float32)
        for at in range(0, len(chosen), AT_ONCE):
            np.maximum(close, own.cosines(vectors[chosen[at : at + AT_ONCE]]).max(axis=1), out=close)
        among = own.cosines(vectors[block])
        for k in range(len(block)):
            if len(chosen) + taken.sum() >= n:
                break
            taken[k] = close[k] < nearest
            if taken[k]:
                np.maximum(close[k + 1 :], among[k + 1 :, k], out=close[k + 1 :])
            else:
                left.append(int(block[k]))
        chosen = np.concatenate([chosen, block[taken]])
        if len(chosen) >= n:
            return chosen
    return np.concatenate([chosen, np.array(left[: n - len(chosen)], np.int64)])


class _Rows:
    """Vectors with their lengths, and cosines in float32 of sums that are exact."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors, self._long = vectors, np.maximum(lengths(vectors), 1e-9)

    def __len__(self) -> int:
        return len(self._vectors)

    def one(self, place: int) -> np.ndarray:
        return self._vectors[place : place + 1]

    def middle(self) -> int:
        """The one nearest to the mean."""
        mean = quantised(self._vectors.mean(axis=0, dtype=np.float64)[None])
        return int(np.argmax(self.cosines(mean)[:, 0]))

    def cosines(self, others: np.ndarray) -> np.ndarray:
        """float32 [N, m]"""
        theirs = floats(others).T
        long = np.maximum(lengths(others), 1e-9)
        out = np.empty((len(self), len(others)), np.float32)
        step = max(1, CELLS // max(len(others), 1))
        for start in range(0, len(self), step):
            some = slice(start, start + step)
            both = floats(self._vectors[some]) @ theirs
            np.divide(both, self._long[some, None] * long, out=out[some], casting="same_kind")
        return out

    def update(self, near: np.ndarray, chosen: list[int]) -> None:
        """`near` with what has been chosen since, a few at a time so that memory stays bounded."""
        for start in range(0, len(chosen), 256):
            others = self._vectors[chosen[start : start + 256]]
            for at in range(0, len(self), AT_ONCE):
                some = slice(at, at + AT_ONCE)
                told = _Rows(self._vectors[some]).cosines(others).max(axis=1)
                np.maximum(near[some], told, out=near[some])
