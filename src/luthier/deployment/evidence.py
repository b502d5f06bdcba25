"""Pairs of answers, one of each version, counted. A pair says for each metric whether the candidate was worse, better or the same,
and three counts a metric are all that the rule needs: so several servers add theirs up, and nothing of a request is kept.

Which answers stand in a pair never depends on how they came out; that, and sides that are drawn anew for each request, makes the rule's
promise hold. Where a `user` keeps one side the draw is of users, and the promise is as good as they are many (rule).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

METRICS = ("error_rate", "latency", "refusals", "feedback")
WINDOW = 500
"""How many of the stable version's newest latencies its 95th percentile is taken of."""
FEWEST = 50
"""Fewer say nothing of a 95th percentile."""
UNPAIRED = 5000
"""How many of the stable version's answers wait for a partner; when the candidate answers everything it is held against these."""


@dataclass(frozen=True)
class Outcome:
    """How one request ended. `seconds`: how long the engine was at it, waiting for it not counted. `sha256` of the answer."""

    failed: bool
    seconds: float
    refused: bool = False
    sha256: str | None = None


@dataclass(frozen=True)
class Count:
    """Of the pairs of one metric: in how many the candidate was worse, better, the same."""

    worse: int = 0
    better: int = 0
    same: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.worse + other.worse, self.better + other.better, self.same + other.same)

    @property
    def pairs(self) -> int:
        return self.worse + self.better + self.same


@dataclass
class Tally:
    """What one server has seen since it last told. `requests`: that the candidate answered (in shadow: copies); `stable`: the other's.
    `agreed` of `compared` copies got the very answer that the client got; `dropped`: copies that were not asked, being too many."""

    requests: int = 0
    failed: int = 0
    stable: int = 0
    stable_failed: int = 0
    compared: int = 0
    agreed: int = 0
    dropped: int = 0
    counts: dict[str, Count] = field(default_factory=dict)

    def add(self, metric: str, worse: bool, better: bool) -> None:
        one = Count(int(worse and not better), int(better and not worse), int(worse == better))
        self.counts[metric] = self.counts.get(metric, Count()) + one

    def plain(self) -> dict[str, Any]:
        """For an event."""
        told = {k: v for k, v in vars(self).items() if k != "counts"}
        return told | {"counts": {m: [c.worse, c.better, c.same] for m, c in self.counts.items()}}

    def take_in(self, told: Mapping[str, Any]) -> None:
        """Add what another has told (`plain`)."""
        for name in (
            "requests",
            "failed",
            "stable",
            "stable_failed",
            "compared",
            "agreed",
            "dropped",
        ):
            setattr(self, name, getattr(self, name) + told[name])
        for metric, (worse, better, same) in told["counts"].items():
            self.counts[metric] = self.counts.get(metric, Count()) + Count(worse, better, same)


class Pairs:
    """Outcomes in, a tally out. For one rollout; the caller sees to it that one thread at a time is in here."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._unpaired: deque[Outcome] = deque(maxlen=UNPAIRED)
        self._latencies: deque[float] = deque(maxlen=WINDOW)

    def stable(self, one: Outcome) -> None:
        self.tally.stable += 1
        self.tally.stable_failed += one.failed
        self._unpaired.append(one)

    def candidate(self, one: Outcome) -> None:
        """Paired with the newest of the stable version's answers that has no partner yet."""
        self.tally.requests += 1
        self.tally.failed += one.failed
        if self._unpaired:
            self._pair(one, self._unpaired.pop())

    def shadow(self, one: Outcome, stable: Outcome) -> None:
        """Both were asked the same."""
        self.tally.requests += 1
        self.tally.failed += one.failed
        self.tally.stable += 1
        self.tally.stable_failed += stable.failed
        if not one.failed and not stable.failed:
            self.tally.compared += 1
            self.tally.agreed += one.sha256 == stable.sha256
        self._pair(one, stable)

    def handed_over(self) -> Tally:
        """What came since the last time; counting begins anew, what waits for a partner stays."""
        told, self.tally = self.tally, Tally()
        return told

    def _pair(self, one: Outcome, stable: Outcome) -> None:
        self.tally.add("error_rate", one.failed, stable.failed)
        if not one.failed and not stable.failed:
            self.tally.add("refusals", one.refused, stable.refused)
            if len(self._latencies) >= FEWEST:
                slow_s = quantile(self._latencies, 0.95)  # of earlier answers only: known before this pair
                self.tally.add("latency", one.seconds > slow_s, stable.seconds > slow_s)
        if not stable.failed:
            self._latencies.append(stable.seconds)


def quantile(values: Iterable[float], q: float) -> float:
    """The smallest value that at least this share of them does not exceed.

    >>> quantile([3, 1, 2, 4], 0.5), quantile([3, 1, 2, 4], 0.95)
    (2, 4)
    """
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]


def feedback_counts(stable: Iterable[bool], candidate: Iterable[bool]) -> Count:
    """Judgements (was it a bad answer?) in the order in which they came, paired first with first."""
    found = Tally()
    for bad, stable_bad in zip(candidate, stable, strict=False):
        found.add("feedback", bad, stable_bad)
    return found.counts.get("feedback", Count())
