"""One look: what is known so far and the requests of one window in, what is known after it and what is to be told out. Pure.

    known so far ──▶ windows of `every`, each once, in order ──▶ bets ──▶ alarm: an episode opens, of a group of views
                                                                          two quiet windows: it ends, and bets begin anew

An episode is told once. While it is open its group is not bet on: that it is unlike the reference is known. It ends when two windows
in a row with rows enough do not differ from the reference by a plain test (chi-squared over bins, all views of the group corrected
by Holm), or when another release or reference is looked with.

State is plain JSON and stands in the ledger, in the event of the look (`drift.look`); the window's end is its identity, so a second
run finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.significance import holm

from .reference import Reference, groups
from .rows import Row, distinct
from .sequential import Alarm, Detector, draws
from .spec import DAY_S, DriftSpec
from .views import GROUPS, Measured

GRACE_S = 60.0
"""How long after its end a window is looked at, for exchanges that are written a moment after they are answered."""
FEWEST_TO_END = 30
QUIET_P = 0.05
QUIET_WINDOWS = 2
FORMAT = 1


@dataclass(frozen=True)
class Episode:
    """A group that is unlike the reference since the window that ended at `since_s`. `views`: what made the alarm; `shown`: ids of
    the requests most to blame. `quiet`: windows in a row that did not differ."""

    id: str
    group: str
    views: tuple[str, ...]
    since_s: float
    capital: float
    at_request: int
    requests: int
    shown: tuple[str, ...] = ()
    quiet: int = 0

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "views": list(self.views), "shown": list(self.shown)}

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> Episode:
        return cls(**{**told, "views": tuple(told["views"]), "shown": tuple(told["shown"])})


@dataclass(frozen=True)
class State:
    """What is known up to `until_s`, with the reference `reference` (a digest). `judgements`: the last line of feedback that was
    counted; `requests`: how many there were since the reference was first looked with."""

    reference: str
    until_s: float
    detector: Detector
    judgements: int = 0
    requests: int = 0
    open: tuple[Episode, ...] = ()

    def plain(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "reference": self.reference,
            "until_s": self.until_s,
            "detector": self.detector.plain(),
            "judgements": self.judgements,
            "requests": self.requests,
            "open": [one.plain() for one in self.open],
        }

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> State:
        return cls(
            told["reference"],
            told["until_s"],
            Detector.from_plain(told["detector"]),
            told["judgements"],
            told["requests"],
            tuple(Episode.from_plain(one) for one in told["open"]),
        )


@dataclass(frozen=True)
class Looked:
    """`alarms`: episodes that open with this window; `ended`: those that end. `capital`: the highest of the window, in days; of
    1/alpha it would be an alarm. `right`: the share of answers judged since the last look that were right, whenever they were given."""

    state: State
    since_s: float
    rows: int
    repeated: int
    judged: int
    capital: float
    by_view: Mapping[str, float]
    alarms: tuple[Episode, ...] = ()
    ended: tuple[Episode, ...] = ()
    measured: Measured | None = field(default=None, repr=False)
    right: float | None = None


def begun(reference: Reference, digest: str, spec: DriftSpec, until_s: float, judgements: int) -> State:
    """Nothing is known yet."""
    views = reference.views(spec.views)
    detector = Detector.fresh({view: reference.counts(view).tolist() for view in views})
    return State(digest, until_s, detector, judgements)


def windows(after_s: float, now_s: float, every_s: float) -> list[tuple[float, float]]:
    """The windows that are over and were not looked at. They begin at whole multiples of `every` since 1970.

    >>> windows(0.0, 190.0, 60.0), windows(120.0, 179.0, 60.0)
    ([(0.0, 60.0), (60.0, 120.0)], [])
    """
    first = int(after_s // every_s)
    last = int((now_s - GRACE_S) // every_s)
    return [(k * every_s, (k + 1) * every_s) for k in range(first, last)]


def look(
    state: State,
    reference: Reference,
    spec: DriftSpec,
    since_s: float,
    until_s: float,
    rows: Sequence[Row],
    judged: Sequence[Row] = (),
    judgements: int | None = None,
) -> Looked:
    """`rows`: the window's requests; `judged`: those of any time that somebody has judged for the first time since the last look."""
    detector = state.detector.copy()
    state, views = replace(state, detector=detector), detector.views
    once = distinct(sorted(rows, key=lambda row: (row.time_s or 0.0, row.id)))
    window = reference.fit.measure(once)
    days = (until_s - since_s) / DAY_S
    closed = {view for one in state.open for view in GROUPS[one.group]}
    bin_NV = reference.binned(window, views)
    if "right" in views:  # judged later than they are answered, so they are counted when they are judged
        bin_NV[:, views.index("right")] = -1
    draw_NV = draws(window.ids, views)
    alarms: list[Alarm] = []
    if len(window):
        alarms = detector.watch(bin_NV, draw_NV, days, spec.alpha, _closed(views, closed))
    opened = _episodes(alarms, state, reference, window, bin_NV, until_s)
    opened += _of_quality(state, reference, spec, judged, days, closed, until_s)
    highest = max([float(detector.capital_V.mean()), *(one.capital for one in opened)])
    going, ended = _going_on(state.open, reference, window, views)
    after = replace(
        state,
        until_s=until_s,
        judgements=state.judgements if judgements is None else judgements,
        requests=state.requests + len(once),
        open=(*going, *opened),
    )
    for one in ended:
        _anew(detector, reference, GROUPS[one.group])
    return Looked(
        after, since_s, len(once), len(rows) - len(once), len(judged), highest,
        dict(zip(views, (round(float(x), 4) for x in detector.capital_V), strict=True)), tuple(opened), tuple(ended), window, _share_right(judged),
    )  # fmt: skip


def _share_right(judged: Sequence[Row]) -> float | None:
    told = [row.right for row in judged if row.right is not None]
    return float(np.mean(told)) if told else None


def _closed(views: Sequence[str], closed: set[str]) -> list[str]:
    return [view for view in views if view in closed or view == "right"]


def _episodes(
    alarms: Sequence[Alarm],
    state: State,
    reference: Reference,
    window: Measured,
    bin_NV: NDArray[np.int64],
    until_s: float,
) -> list[Episode]:
    """One for each group that an alarm names; alarms of one window and group are one."""
    views = state.detector.views
    found: dict[str, Episode] = {}
    for alarm in alarms:
        for group in groups(alarm.views):
            mine = tuple(view for view in alarm.views if view in GROUPS[group])
            if group in found:
                continue
            shown = most_unlike(reference, window, bin_NV, views, mine)
            name = f"{group}-{int(until_s)}"
            found[group] = Episode(
                name,
                group,
                mine,
                until_s,
                min(alarm.capital, 1e9),
                alarm.at,
                state.requests + alarm.at + 1,
                shown,
            )
    return list(found.values())


def _of_quality(
    state: State,
    reference: Reference,
    spec: DriftSpec,
    judged: Sequence[Row],
    days: float,
    closed: set[str],
    until_s: float,
) -> list[Episode]:
    """Told only where answers became worse: a model that is right more often than it was measured needs no alarm."""
    views, detector = state.detector.views, state.detector
    told = [row for row in judged if row.right is not None]
    if "right" not in views or "right" in closed or not told:
        return []
    at = views.index("right")
    bin_NV = np.full((len(told), len(views)), -1, np.int64)
    bin_NV[:, at] = [int(row.right or 0) for row in told]
    draw_NV = draws([row.id for row in told], views)
    others = [view for view in views if view != "right"]
    alarms = detector.watch(bin_NV, draw_NV, days, spec.alpha, others)
    usual = reference.usual.numbers["right"]
    share = _share_right(told)
    if not alarms or share is None or share >= float(np.nanmean(usual)):
        return []
    wrong = tuple(row.id for row in told if not row.right)[:20]
    first = alarms[0]
    return [
        Episode(f"quality-{int(until_s)}", "quality", ("right",), until_s, min(first.capital, 1e9), first.at, state.requests, wrong)
    ]  # fmt: skip


def most_unlike(
    reference: Reference,
    window: Measured,
    bin_NV: NDArray[np.int64],
    views: Sequence[str],
    of: Sequence[str],
    most: int = 20,
) -> tuple[str, ...]:
    """Ids of the requests that lie where the window has most more rows than the reference has, over these views; then the
    furthest from the training rows."""
    excess_N = np.zeros(len(window))
    for view in of:
        told_N = bin_NV[:, views.index(view)]
        usual_B = reference.counts(view) + 0.5
        now_B = np.bincount(told_N[told_N >= 0], minlength=len(usual_B)) + 0.5
        ratio_B = np.log(now_B / now_B.sum()) - np.log(usual_B / usual_B.sum())
        excess_N += np.where(told_N >= 0, ratio_B[np.maximum(told_N, 0)], 0.0)
    far_N = np.nan_to_num(window.numbers["unlike"])
    order = np.lexsort((-far_N, -np.round(excess_N, 6)))
    return tuple(window.ids[n] for n in order[:most] if excess_N[n] > 0)


def furthest(window: Measured, most: int) -> tuple[str, ...]:
    """Ids of the requests that are furthest from the training rows."""
    far_N = np.nan_to_num(window.numbers["unlike"])
    return tuple(window.ids[n] for n in np.argsort(-far_N, kind="stable")[:most])


def _going_on(
    open_: Sequence[Episode], reference: Reference, window: Measured, views: Sequence[str]
) -> tuple[tuple[Episode, ...], tuple[Episode, ...]]:
    """(those that go on, those that end)."""
    going: list[Episode] = []
    ended: list[Episode] = []
    for one in open_:
        mine = [view for view in GROUPS[one.group] if view in views]
        p = quiet_p(reference, window, mine)
        quiet = one.quiet if p is None else one.quiet + 1 if p > QUIET_P else 0
        (ended if quiet >= QUIET_WINDOWS else going).append(replace(one, quiet=quiet))
    return tuple(going), tuple(ended)


def quiet_p(reference: Reference, window: Measured, views: Sequence[str]) -> float | None:
    """The least corrected p of these views, by chi-squared over bins; None where the window says too little."""
    from .two_samples import words

    found = []
    for view in views:
        told = reference.binned(window, [view])[:, 0]
        now = told[told >= 0]
        if len(now) >= FEWEST_TO_END:
            usual = np.repeat(np.arange(len(reference.counts(view))), reference.counts(view))
            found.append(words([str(x) for x in usual], [str(x) for x in now])[0].p)
    return min(holm(found)) if found else None


def _anew(detector: Detector, reference: Reference, views: Sequence[str]) -> None:
    """Bets on these views begin with the reference alone."""
    for n, view in enumerate(detector.views):
        if view in views:
            detector.seen_VB[n] = reference.counts(view)
            detector.learnt_VSK[n] = 0.0
            detector.capital_VS[n] = 0.0
