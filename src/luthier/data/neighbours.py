"""Which of many vectors are near each other, without comparing each with each.

    int8 [N, size] ─▶ on which side of random planes each lies ─▶ rows that agree on a table's planes are a pair worth a look
                   ─▶ how many of all planes they agree on ─▶ their cosine, exact

Two vectors with an angle a are on one side of a random plane with a probability of 1 - a/π (Charikar, 2002). Planes go through
what is the mean of all vectors, so that each divides them about evenly. As many tables are made as are needed to find a pair of
just the wanted cosine with a probability of 0.99; what is reported is always verified.

Not here: exact neighbours of every row (compare all with all for that), and what becomes of the rows (rules/).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .vectors import floats, lengths
from .words import STEP, mix

FOUND = 0.99
MOST_TABLES = 96
IN_ALL = 128  # planes by which a pair is sieved before its cosine is taken
WINDOW = 32  # rows of one table's bucket that each is compared with after itself, in the order of rank
FIRST = 8  # and the first few of the bucket
AT_ONCE = 1 << 15


def near(
    vectors: np.ndarray, least: float, note: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, cosine) of pairs with a cosine of at least `least`: a < b, places in `vectors`, int8 [N, size], sorted by b, then
    a. A vector of zeros is near nothing."""
    there = np.flatnonzero(lengths(vectors) > 0)
    own = vectors[there]
    n = len(own)
    if n < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    centre, common = _centre(own)
    bits, tables = layout(n, (least - common) / (1 - common) if common < least else 0.0)
    sieve = _sides(own, centre, IN_ALL, 0)
    packed = np.packbits(sieve, axis=1).view(np.uint64)
    angle = math.acos(max(min((least - common) / (1 - common), 1.0), -1.0)) / math.pi
    apart = IN_ALL * angle + 4 * math.sqrt(IN_ALL * angle * (1 - angle)) + 1
    found = np.zeros(0, np.int64)
    crowded = 0
    for table in range(tables):
        sides = _sides(own, centre, bits, table + 1)
        codes = sides @ (1 << np.arange(bits, dtype=np.int64))
        pairs, largest = _pairs(codes, n)
        crowded = max(crowded, largest)
        a, b = np.divmod(pairs, n)
        differ = np.bitwise_count(packed[a] ^ packed[b]).sum(axis=1)
        found = _once(np.concatenate([found, pairs[differ <= apart]]))
    a, b = np.divmod(found, n)
    cosine = _cosines(own, a, b)
    keep = cosine >= least
    a, b, cosine = there[a[keep]], there[b[keep]], cosine[keep]
    if crowded > WINDOW:
        note(
            f"as many as {crowded} rows looked alike at first sight: in such a crowd a row is compared with {WINDOW + FIRST} "
            "others, not with each"
        )
    order = np.lexsort((a, b))
    return a[order], b[order], cosine[order]


def layout(n: int, cosine: float) -> tuple[int, int]:
    """(planes of a table, tables): about as many buckets as rows, unless that took too many tables.

    >>> layout(100_000, 0.9), layout(1_000, 0.9), layout(100_000, 0.5)
    ((17, 62), (10, 20), (7, 77))
    """
    same = 1 - math.acos(max(min(cosine, 1.0), -1.0)) / math.pi
    for bits in range(max(round(math.log2(n)), 4), 4, -1):
        chance = same**bits
        tables = 1 if chance >= FOUND else math.ceil(math.log(1 - FOUND) / math.log1p(-chance))
        if tables <= MOST_TABLES:
            return bits, tables
    return 4, MOST_TABLES


def _centre(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """(the mean of the vectors, the cosine that two of them have on average)."""
    total = vectors.sum(axis=0, dtype=np.int64).astype(np.float64)
    unit = np.zeros(vectors.shape[1])
    for start in range(0, len(vectors), AT_ONCE):
        part = vectors[start : start + AT_ONCE]
        unit += (part / lengths(part)[:, None]).sum(axis=0)
    unit /= len(vectors)
    return total / len(vectors), float(min(unit @ unit, 0.99))


def _sides(vectors: np.ndarray, centre: np.ndarray, planes: int, number: int) -> np.ndarray:
    """On which side of the planes each vector is, bool [N, planes]. A plane's coordinates are 1 and -1, by a hash."""
    size = vectors.shape[1]
    named = np.arange(size * planes, dtype=np.uint64) + np.uint64(number << 32)
    drawn = mix(mix(named) + STEP) >> np.uint64(63)
    normal = (1.0 - 2.0 * drawn.astype(np.float64)).reshape(size, planes)
    edge = centre @ normal
    out = np.empty((len(vectors), planes), bool)
    for start in range(0, len(vectors), AT_ONCE):
        part = floats(vectors[start : start + AT_ONCE])
        out[start : start + AT_ONCE] = part @ normal.astype(part.dtype) > edge
    return out


def _pairs(codes: np.ndarray, n: int) -> tuple[np.ndarray, int]:
    """(a * n + b of pairs in one bucket, the size of the largest)."""
    order = np.argsort(codes, kind="stable")
    told = codes[order]
    begin = np.flatnonzero(np.append(True, told[1:] != told[:-1]))
    sizes = np.diff(np.append(begin, n))
    pairs = []
    for step in range(1, min(WINDOW + 1, n)):
        same = np.flatnonzero(told[step:] == told[:-step])
        if not len(same):
            break
        pairs.append(order[same] * n + order[same + step])
    large = np.flatnonzero(sizes > WINDOW)
    for k in range(FIRST if len(large) else 0):
        first = np.repeat(order[begin[large] + k], sizes[large])
        place = np.concatenate([np.arange(begin[m], begin[m] + sizes[m]) for m in large])
        after = order[place]
        keep = first < after
        pairs.append(first[keep] * n + after[keep])
    return _once(np.concatenate([np.zeros(0, np.int64), *pairs])), int(sizes.max())


def _once(values: np.ndarray) -> np.ndarray:
    """Sorted, each once; np.unique goes by a hash table that such numbers make many times slower than sorting."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


def _cosines(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    long = lengths(vectors)
    out = np.zeros(len(a))
    for start in range(0, len(a), AT_ONCE):
        one, other = (vectors[side[start : start + AT_ONCE]].astype(np.int32) for side in (a, b))
        both = np.einsum("nd,nd->n", one, other)
        out[start : start + AT_ONCE] = both / (
            long[a[start : start + AT_ONCE]] * long[b[start : start + AT_ONCE]]
        )
    return out
