"""One window against the reference, every test by its name, once: what `luthier monitor report` shows.

All p values of one group of views are corrected together by Holm (evaluation/significance). A person who reads such a report every
day will see one in twenty by luck; alarms are therefore not told from these but from `sequential`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.significance import holm

from . import two_samples
from .reference import Reference
from .two_samples import Found
from .views import GROUP_OF, TITLES, WORDED, Measured

SIGNIFICANT = 0.05
FEWEST = 10
SHOWN_WORDS = 12


@dataclass(frozen=True)
class Tested:
    """One view. `usual` and `window`: what a person reads of it; `shares`: (name, share of the reference, share of the window) of bins
    or words. `p_corrected` None: too few rows."""

    view: str
    group: str
    title: str
    rows: int
    usual: str
    window: str
    found: Found | None
    stability: Found | None
    p_corrected: float | None
    shares: tuple[tuple[str, float, float], ...]

    @property
    def differs(self) -> bool:
        return self.p_corrected is not None and self.p_corrected < SIGNIFICANT


@dataclass(frozen=True)
class Whole:
    """Vectors as a whole: `mmd` and `told_apart`."""

    mmd: Found
    told_apart: Found


def whole(reference: Reference, window: Measured, seed: int = 0) -> Whole | None:
    """None where the window holds too few rows."""
    if len(window) < FEWEST:
        return None
    usual, now = reference.usual.vectors_ND, window.vectors_ND
    return Whole(two_samples.mmd(usual, now, seed), two_samples.told_apart(usual, now, seed))


def views(reference: Reference, window: Measured, wanted: Sequence[str]) -> list[Tested]:
    """Every view that both have, in order."""
    raw = [_test(reference, window, view) for view in wanted]
    asked = [one for one in raw if one["found"] is not None]
    corrected: dict[str, float] = {}
    for group in dict.fromkeys(one["group"] for one in asked):
        mine = [one for one in asked if one["group"] == group]
        for one, p in zip(mine, holm([one["found"].p for one in mine]), strict=True):
            corrected[one["view"]] = p
    return [Tested(**one, p_corrected=corrected.get(one["view"])) for one in raw]


def _test(reference: Reference, window: Measured, view: str) -> dict[str, Any]:
    there = window.has(view)
    told: dict[str, Any] = {
        "view": view, "group": GROUP_OF[view], "title": TITLES[view], "rows": int(there.sum()), "found": None, "stability": None,
        "usual": "", "window": "–", "shares": (),
    }  # fmt: skip
    if view in WORDED:
        usual = [word for word in reference.usual.words[view] if word is not None]
        now = [word for word in window.words[view] if word is not None]
        told["usual"] = _commonest(usual)
        if len(now) >= FEWEST:
            told["found"], told["stability"] = two_samples.words(usual, now)
            told |= {"window": _commonest(now), "shares": _shares(usual, now)}
        return told
    has = reference.usual.has(view)
    before, now_M = reference.usual.numbers[view][has], window.numbers[view][there]
    told["usual"] = _middle(view, before)
    if len(now_M) >= FEWEST:
        told["found"], told["stability"] = two_samples.numbers(before, now_M)
        told |= {"window": _middle(view, now_M), "shares": _stretches(view, before, now_M)}
    return told


def _commonest(words: Sequence[str]) -> str:
    counts = Counter(words).most_common(2)
    return "; ".join(f"{word} {count / len(words):.0%}" for word, count in counts)


def _middle(view: str, value_N: NDArray[np.float64]) -> str:
    """What is usual of a number: a share where it is yes or no, else its middle."""
    if view in ("refused", "right", "injection"):
        return f"{value_N.mean():.1%}"
    if view == "private":
        return f"{(value_N > 0).mean():.1%} of rows"
    middle = float(np.median(value_N))
    return f"{middle:,.0f}" if view in ("length", "answer_length") else f"{middle:.3f}"


def _shares(usual: Sequence[str], now: Sequence[str]) -> tuple[tuple[str, float, float], ...]:
    here, there = Counter(usual), Counter(now)
    names = sorted(set(here) | set(there), key=lambda w: (-max(here[w] / len(usual), there[w] / len(now)), w))
    return tuple((name, here[name] / len(usual), there[name] / len(now)) for name in names[:SHOWN_WORDS])


def _stretches(
    view: str, before_N: NDArray[np.float64], now_M: NDArray[np.float64]
) -> tuple[tuple[str, float, float], ...]:
    """Shares of both in stretches that hold a tenth of the reference each."""
    if len(np.unique(before_N)) <= 4 and len(np.unique(now_M)) <= 6:
        values = np.unique(np.concatenate([before_N, now_M]))[:8]
        return tuple((f"{x:g}", float((before_N == x).mean()), float((now_M == x).mean())) for x in values)
    edges = np.unique(np.quantile(before_N, np.linspace(0, 1, 11)[1:-1]))
    shares = [
        np.bincount(np.searchsorted(edges, x, "left"), minlength=len(edges) + 1) / len(x)
        for x in (before_N, now_M)
    ]
    show = (lambda x: f"{x:,.0f}") if view in ("length", "answer_length") else (lambda x: f"{x:.2f}")
    names = [f"to {show(edges[0])}", *(f"to {show(x)}" for x in edges[1:]), f"over {show(edges[-1])}"]
    return tuple(zip(names, shares[0].tolist(), shares[1].tolist(), strict=True))


@dataclass(frozen=True)
class Quality:
    """How often judged answers were right, with Wilson's interval, beside the report's figure."""

    judged: int
    right: int
    value: float
    low: float
    high: float
    usual: float | None
    usual_rows: int

    @property
    def worse(self) -> bool:
        return self.usual is not None and self.high < self.usual


def quality(reference: Reference, right: Sequence[float], confidence: float = 0.95) -> Quality | None:
    """None where nobody has judged anything."""
    if not right:
        return None
    n, k = len(right), int(sum(right))
    low, high = wilson(k, n, confidence)
    known = reference.usual.numbers["right"][reference.usual.has("right")]
    usual = float(known.mean()) if len(known) else None
    return Quality(n, k, k / n, low, high, usual, len(known))


def wilson(right: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (1927).

    >>> tuple(round(x, 3) for x in wilson(8, 10))
    (0.49, 0.943)
    """
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, scale = right / rows, 1 + z * z / rows
    middle = (share + z * z / (2 * rows)) / scale
    far = z * float(np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))) / scale
    return max(0.0, middle - far), min(1.0, middle + far)
