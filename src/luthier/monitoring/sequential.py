"""Looking again and again without crying wolf: bets against the hypothesis that requests are like the reference.

    value ─▶ bin ─▶ place among all bins seen, from 0 to 1 ─▶ bet on where the next place falls ─▶ capital

A request's value is put in a fixed bin. Its place p is the share of what was seen before it (the reference's rows first, then every
request) that lies above it, ties broken by a draw that follows from the request's id. Where requests are exchangeable with the
reference, places are independent and uniform, however small the reference (conformal p-values: Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2005). So no bet on them can win on average. The bet is a Dirichlet estimate of where places
fall, finer at both ends, that forgets: a change of any kind makes it win.

Capital is that of the Shiryaev-Roberts rule: M_n = (M_{n-1} + r_n) f(p_n), where the r of a day add up to 1 and f is the bet.
M_n less the days passed is a supermartingale, so an alarm where M_n reaches 1/alpha comes on average no sooner than after 1/alpha
quiet days, at whatever times one looks (an e-detector: Shin, Ramdas & Rinaldo, E-detectors: a nonparametric framework for sequential
change detection, 2022; for when to retrain: Vovk et al., Retrain or not retrain, COPA 2021). The same holds of an average over bets and
views, which is what alarms are raised by: exactly over the bets of one view; over several views up to what a finite reference leaves of
dependence between one view's place and the earlier places of the others. No look and no view costs a further correction.

The promise is of exchangeable requests. One client that sends the same thing all day is none; `look` counts equal requests of a
window once. After an alarm the reference is used again, so the promise of the second alarm is approximate; docs/log.md has rates.

Shapes: V views, B bins, S speeds of forgetting, K stretches of [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 64
EDGES = np.array([0, 0.001, 0.004, 0.015, 0.05, 0.15, 0.35, 0.65, 0.85, 0.95, 0.985, 0.996, 0.999, 1])
HALF_LIVES = (30, 120, 1000)
"""Requests after which what a bet has learnt counts half: a wave shows in the first, a slow change in the last."""
PRIOR = 10.0
"""How many requests the belief in even places weighs."""
LARGEST = 1e12

_WIDTH_K = np.diff(EDGES)
_KEEP_S = np.array([0.5 ** (1 / half) for half in HALF_LIVES])


@dataclass
class Detector:
    """What is carried from look to look. `seen_VB`: how often each bin was seen; `learnt_VSK`: what the bets have learnt;
    `capital_VS`, in days."""

    views: tuple[str, ...]
    seen_VB: NDArray[np.float64]
    learnt_VSK: NDArray[np.float64]
    capital_VS: NDArray[np.float64]

    @classmethod
    def fresh(cls, reference: Mapping[str, Sequence[float]]) -> Detector:
        """`reference`: for each view how often each bin stands in the reference, [B]."""
        n = len(reference)
        seen = np.array([list(counts) for counts in reference.values()], np.float64).reshape(n, BINS)
        return cls(
            tuple(reference),
            seen,
            np.zeros((n, len(HALF_LIVES), len(_WIDTH_K))),
            np.zeros((n, len(HALF_LIVES))),
        )

    def copy(self) -> Detector:
        return Detector(self.views, self.seen_VB.copy(), self.learnt_VSK.copy(), self.capital_VS.copy())

    def plain(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return {
            "views": list(self.views),
            "seen": [_sparse(row) for row in self.seen_VB],
            "learnt": [[round(float(x), 4) for x in row.ravel()] for row in self.learnt_VSK],
            "capital": [[float(f"{x:.6g}") for x in row] for row in self.capital_VS],
        }

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> Detector:
        n = len(told["views"])
        seen = np.zeros((n, BINS))
        for view, pairs in enumerate(told["seen"]):
            for place, count in pairs:
                seen[view, place] = count
        learnt = np.array(told["learnt"], np.float64).reshape(n, len(HALF_LIVES), len(_WIDTH_K))
        return cls(
            tuple(told["views"]),
            seen,
            learnt,
            np.array(told["capital"], np.float64).reshape(n, len(HALF_LIVES)),
        )

    @property
    def capital_V(self) -> NDArray[np.float64]:
        """Each view's, the mean over speeds."""
        return self.capital_VS.mean(1)

    def watch(
        self,
        bin_NV: NDArray[np.int64],
        draw_NV: NDArray[np.float64],
        days: float,
        alpha: float,
        closed: Iterable[str] = (),
    ) -> list[Alarm]:
        """Go through the requests of `days`; -1: the request says nothing of that view. `draw_NV`: uniform in [0, 1). Views that
        are `closed` (told already, or watched apart) are left out. An alarm starts the capital of the others anew and closes the views
        that it names. Views that are watched apart keep theirs: an alarm takes the mean over all views, so each watch may raise as
        many by luck as it has views, and together no more than one would."""
        shut = np.isin(self.views, list(closed))
        watched = ~shut
        step, alarms = days / max(1, len(bin_NV)), []
        for n, (bin_V, draw_V) in enumerate(zip(bin_NV, draw_NV, strict=True)):
            on_V = (bin_V >= 0) & ~shut
            self.capital_VS[~shut] += step
            if on_V.any():
                self.bet(np.flatnonzero(on_V), bin_V[on_V], draw_V[on_V])
            capital_V = np.where(shut, 0.0, self.capital_V)
            if capital_V.mean() >= 1 / alpha:
                alarm = Alarm(n, float(capital_V.mean()), _blamed(self.views, capital_V))
                alarms.append(alarm)
                shut |= np.isin(self.views, [*alarm.views])
                self.capital_VS[watched] = 0.0
        return alarms

    def bet(self, view_W: NDArray[np.int64], bin_W: NDArray[np.int64], draw_W: NDArray[np.float64]) -> None:
        """One request's bets: what each of these views holds changes, and what it has learnt. Views do not know each other."""
        seen_WB = self.seen_VB[view_W]
        above_W = np.where(np.arange(BINS) > bin_W[:, None], seen_WB, 0.0).sum(1)
        same_W = seen_WB[np.arange(len(view_W)), bin_W] + 1
        place_W = (above_W + draw_W * same_W) / (seen_WB.sum(1) + 1)
        k_W = np.searchsorted(EDGES, place_W, "right").clip(1, len(_WIDTH_K)) - 1
        learnt_WSK = self.learnt_VSK[view_W]
        hit_WS = learnt_WSK[np.arange(len(view_W)), :, k_W]
        width_W1 = _WIDTH_K[k_W][:, None]
        bet_WS = (hit_WS + PRIOR * width_W1) / (learnt_WSK.sum(2) + PRIOR) / width_W1
        self.capital_VS[view_W] = np.minimum(self.capital_VS[view_W] * bet_WS, LARGEST)
        learnt_WSK *= _KEEP_S[:, None]
        learnt_WSK[np.arange(len(view_W)), :, k_W] += 1
        self.learnt_VSK[view_W] = learnt_WSK
        self.seen_VB[view_W, bin_W] += 1


@dataclass(frozen=True)
class Alarm:
    """At which request (from 0), with how much capital, in days of quiet that it would take by luck, and which views made it."""

    at: int
    capital: float
    views: tuple[str, ...]


def _blamed(views: Sequence[str], capital_V: NDArray[np.float64]) -> tuple[str, ...]:
    """Those that hold a tenth of the capital or more, the richest first."""
    order = np.argsort(-capital_V, kind="stable")
    return tuple(views[i] for i in order if capital_V[i] >= 0.1 * capital_V.sum())


def draws(ids: Sequence[str], views: Sequence[str]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that follow from the ids, so that the same look twice is the same, [N, V].

    >>> draws(["a"], ["length", "topic"]).shape, bool((draws(["a"], ["length"]) == draws(["a"], ["length"])).all())
    ((1, 2), True)
    """
    size = len(views)
    out = np.empty((len(ids), size))
    for n, one in enumerate(ids):
        for start in range(0, size, 8):
            raw = blake2b(f"{start}:{one}".encode(), digest_size=64).digest()
            some = np.frombuffer(raw, np.uint64)[: size - start]
            out[n, start : start + len(some)] = (some >> np.uint64(11)).astype(np.float64) / 2**53
    return out


def _sparse(row: NDArray[np.float64]) -> list[list[int]]:
    return [[int(place), int(row[place])] for place in np.flatnonzero(row)]
