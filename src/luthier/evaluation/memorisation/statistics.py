"""The arithmetic: how far a secret leads, how well members can be told, and what luck does. No model, no file.

    exposure      log2 of how many a secret is one of the first among (Carlini et al. 2019, section 4.2), by its rank among others
    estimated     the same from the shape of the others' losses (section 4.3), which goes beyond their number
    auc           how often a member looks more like one than a non-member (Mann-Whitney), with Newcombe's interval
    found_at      the share of members found where so few of the others are called members
    apart         a difference of two shares of different rows, with Newcombe's interval

All scores here are losses or sums of them: less is more like a member.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import missing_part

Floats = NDArray[np.float64]


def rank(loss: float, others: Sequence[float]) -> int:
    """The place of one among others and itself, 1 for the first. Of equals it is the last, so that luck never helps.

    >>> rank(0.5, [1.0, 2.0]), rank(1.5, [1.0, 2.0]), rank(1.0, [1.0, 2.0])
    (1, 2, 2)
    """
    return 1 + sum(other <= loss for other in others)


def exposure(place: int, others: int) -> float:
    """Bits. A secret that was not learnt is as likely at any place, so P(exposure >= x) <= 2 ** -x.

    >>> exposure(1, 1023), exposure(1024, 1023), exposure(2, 127)
    (10.0, 0.0, 6.0)
    """
    return math.log2(others + 1) - math.log2(place)


def by_luck(place: int, others: int) -> float:
    """p of so good a place where nothing was learnt."""
    return place / (others + 1)


def estimated(loss: float, others: Sequence[float], most: float) -> float | None:
    """Exposure by a skew-normal curve through the others' losses, by their first three moments; at most `most`, the bits of
    the secret itself. None where the others do not differ."""
    try:
        from scipy.special import log_ndtr, owens_t
    except ImportError:
        raise missing_part("scipy", "train", "Measuring memorisation") from None
    values = np.asarray(others, np.float64)
    mean, spread = float(values.mean()), float(values.std())
    if not spread > 1e-9 * max(1.0, abs(mean)):
        return None
    third = float((((values - mean) / spread) ** 3).mean())
    skew = math.copysign(min(abs(third), 0.99), third)
    # Azzalini 1985: the moments of a skew-normal, solved for its shape
    power = abs(skew) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3))), skew)
    scale = spread / math.sqrt(1 - 2 * delta**2 / math.pi)
    place = mean - scale * delta * math.sqrt(2 / math.pi)
    alpha = delta / math.sqrt(max(1 - delta**2, 1e-12))
    z = (loss - place) / scale
    below = math.exp(float(log_ndtr(z))) - 2 * float(owens_t(z, alpha))
    # Far below, the difference of two tiny numbers is noise: there the bound by the plain normal tail is what is certain.
    if below <= 1e-15:
        return most
    return min(most, max(0.0, -math.log2(below)))


def auc(members: Floats, strangers: Floats) -> float:
    """P(member's score < stranger's), ties counting half.

    >>> auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))  # of four pairs three, and one tie
    0.875
    """
    order = np.sort(strangers)
    below = np.searchsorted(order, members, "left")
    upto = np.searchsorted(order, members, "right")
    wins = (len(order) - upto) + 0.5 * (upto - below)
    return float(wins.sum() / (len(members) * len(strangers)))


def auc_interval(value: float, members: int, strangers: int, confidence: float) -> tuple[float, float]:
    """Newcombe 2006, method 5: the values that the measured one could come from, by Hanley and McNeil's variance at each. It
    stays within 0 and 1, and does not shrink to nothing where all pairs are right.

    >>> low, high = auc_interval(0.5, 100, 100, 0.95)
    >>> round(low, 2), round(high, 2), auc_interval(1.0, 10, 10, 0.95)[0] < 0.95
    (0.42, 0.58, True)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = (members + strangers) / 2 - 1

    def spread(theta: float) -> float:
        inner = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return z * math.sqrt(theta * (1 - theta) * inner / (members * strangers))

    def edge(inside: Callable[[float], bool], near: float, far: float) -> float:
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (middle, far) if inside(middle) else (near, middle)
        return near

    low = edge(lambda theta: theta + spread(theta) >= value, value, 0.0)
    high = edge(lambda theta: theta - spread(theta) <= value, value, 1.0)
    return low, high


def found_at(members: Floats, strangers: Floats, false_alarms: float = 0.01) -> float:
    """The share of members below the highest threshold at which at most `false_alarms` of the strangers are.

    >>> found_at(np.array([0.1, 0.2, 5.0]), np.arange(1.0, 101.0))  # one of a hundred may be: the threshold lies at 2
    0.6666666666666666
    """
    allowed = math.floor(false_alarms * len(strangers) + 1e-9)
    bar = np.sort(strangers)[allowed] if allowed < len(strangers) else np.inf
    return float((members < bar).mean())


def share(hits: int, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share (1927).

    >>> [round(one, 3) for one in share(0, 10, 0.95)]
    [0.0, 0.278]
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, wide = hits / rows, z * z / rows
    middle = (p + wide / 2) / (1 + wide)
    half = z / (1 + wide) * math.sqrt(p * (1 - p) / rows + wide / (4 * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def apart(one: tuple[int, int], other: tuple[int, int], confidence: float) -> tuple[float, float, float]:
    """(difference, low, high) of two shares, each (hits, rows): Newcombe 1998, method 10.

    >>> [round(x, 4) for x in apart((56, 70), (48, 80), 0.95)]  # Newcombe's own example (a)
    [0.2, 0.0524, 0.3339]
    """
    (a, n), (b, m) = one, other
    p, q = a / n, b / m
    (low_p, high_p), (low_q, high_q) = share(a, n, confidence), share(b, m, confidence)
    below = math.hypot(p - low_p, high_q - q)
    above = math.hypot(high_p - p, q - low_q)
    return p - q, p - q - below, p - q + above


def luckiest(hits: int, rows: int, control: tuple[int, int]) -> float:
    """One-sided p that training rows are hit so much oftener than held-out ones, by Fisher's exact test.

    >>> round(luckiest(3, 10, (0, 10)), 4)  # C(10,3) C(10,0) / C(20,3)
    0.1053
    """
    b, m = control
    total, drawn = rows + m, hits + b
    ways = math.comb(total, drawn)
    return sum(math.comb(rows, k) * math.comb(m, drawn - k) for k in range(hits, min(rows, drawn) + 1)) / ways
