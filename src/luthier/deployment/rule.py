"""Whether a candidate is worse than what answers now, asked again and again while answers come in. Pure.

For each metric there are pairs (evidence.py): Z = 1 where the candidate was worse, -1 where it was better, 0 otherwise. Two questions:

    worse      H0: E[Z] <= margin.   Rejected: the candidate is worse by more than is allowed, and is taken back.
    not worse  H0: E[Z] >= margin.   Rejected: it is shown to be no worse than that.

Each is a bet against its H0. With a stake 0 < s < 1/(1 + margin), the capital

    K_n(s) = product over pairs of (1 + s * (Z_i - margin))

is never negative and, as long as E[Z_i | what came before] <= margin, it does not grow on average: a supermartingale that starts at 1.
By Ville's inequality (Ville 1939) it ever reaches 1/alpha with probability at most alpha, whenever and however often one looks; this
is a test by betting (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B 86, 2024;
Ramdas, Grunwald, Vovk & Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statist. Sci. 38, 2023). The mean of the
capital over several stakes is one too (the method of mixtures: Robbins 1970), so that small and large differences are both found.
Nothing is assumed of how errors come about: bad hours hit both sides of a pair. The metrics share alpha (Bonferroni), which holds
although they depend on each other.

What is assumed is that chance alone decides who stands on which side of a pair, anew for each. That holds in shadow (both were asked the
same) and where each request is drawn (no `user`). Where users are drawn, a user's requests stay on one side: with many users it nearly
holds, with few it does not (docs/log.md has numbers), for those who ask what takes long may happen to be on one side.

Not here: a fixed number such as "more than 2 % errors", which takes a good candidate back on a bad day, and repeated p-values, which
take one back in the end whatever it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from luthier.core.units import show_seconds

from .evidence import FEWEST, METRICS, Count
from .rollout import Action, Rollout, stages
from .spec import RolloutSpec

STAKES = tuple(0.95 / 2**j for j in range(10))
"""Of the largest stake that leaves the capital positive."""
MOST_PAIRS = 10_000_000
PROVEN = ("error_rate", "latency", "refusals")
"""What must be shown where the plan says `advance: not_worse`: feedback may never come."""


@dataclass(frozen=True)
class Finding:
    """`evidence` against "no worse than allowed" and `cleared` against "worse": capitals that began at 1. `worse` and `shown` say
    that they reached what the plan asks (`needed`)."""

    metric: str
    count: Count
    margin: float
    evidence: float
    cleared: float
    needed: float

    @property
    def worse(self) -> bool:
        return self.evidence >= self.needed

    @property
    def shown(self) -> bool:
        return self.cleared >= self.needed

    @property
    def difference(self) -> float | None:
        """By how much its share is higher than the stable version's."""
        return (self.count.worse - self.count.better) / self.count.pairs if self.count.pairs else None

    def told(self) -> str:
        if self.difference is None:
            return f"{self.metric}: nothing to compare yet"
        return (
            f"{self.metric} {self.difference:+.1%} against the stable version over {self.count.pairs:,} pairs, "
            f"{self.margin:.3g} allowed; evidence {_capital(self.evidence)} of {self.needed:.3g}"
        )


@dataclass(frozen=True)
class Decision:
    action: Action
    reason: str


def capital(count: Count, margin: float) -> float:
    """What a bet on "worse by more than `margin`" has made of 1; at most 1e300.

    >>> capital(Count(), 0.02)
    1.0
    >>> capital(Count(worse=40), 0.02) > 1e6 > 1 > capital(Count(same=1000), 0.02)
    True
    """
    return _mixed(count.worse, count.better, count.same, margin)


def capital_against(count: Count, margin: float) -> float:
    """The same of a bet on "worse by less than `margin`".

    >>> capital_against(Count(same=1000), 0.02) > 80 > 1 > capital_against(Count(worse=40), 0.02)
    True
    """
    return _mixed(count.better, count.worse, count.same, -margin)


def _mixed(up: int, down: int, level: int, margin: float) -> float:
    logs = []
    for part in STAKES:
        stake = part / (1 + margin)
        logs.append(
            up * math.log1p(stake * (1 - margin))
            + down * math.log1p(-stake * (1 + margin))
            + level * math.log1p(-stake * margin)
        )
    highest = max(logs)
    log_mean = highest + math.log(sum(math.exp(one - highest) for one in logs) / len(logs))
    return math.exp(min(log_mean, 690.0))


def judge(counts: Mapping[str, Count], plan: RolloutSpec) -> list[Finding]:
    """One finding for each metric that the plan looks at."""
    found = []
    for metric, margin in _looked_at(plan).items():
        count = counts.get(metric, Count())
        found.append(
            Finding(
                metric, count, margin, capital(count, margin), capital_against(count, margin), _needed(plan)
            )
        )
    return found


def can_notice(plan: RolloutSpec) -> str | None:
    """What a plan can notice by itself before it is over, for a person; None where only a person ends it.

    >>> can_notice(RolloutSpec(canary=[0.5, 1.0], least=20, rollback_on={"error_rate": None, "latency": None, "refusals": None}))
    'may be over after 20 pairs of answers, which show feedback worse by 55 points if every answer is judged'
    """
    if plan.ab is not None:
        return None
    pairs = fewest_pairs(plan)
    shown, few = [], []
    for metric, margin in _looked_at(plan).items():
        mine = max(0, pairs - FEWEST) if metric == "latency" else pairs
        worse = _first(partial(_takes_back, mine, margin, _needed(plan)), mine)
        judged = " if every answer is judged" if metric == "feedback" else ""
        if worse is None:
            few.append(metric)
        else:
            shown.append(f"{metric} worse by {100 * worse / mine:.0f} points{judged}")
    told = f"may be over after {pairs:,} pairs of answers"
    if shown:
        told += f", which show {', '.join(shown)}"
    return told + (f"; that is too few to show anything of {', '.join(few)}" if few else "")


def fewest_pairs(plan: RolloutSpec) -> int:
    """How many pairs there are when a plan has walked all its steps as fast as it may; 0 for A/B, which only a person ends. Where it must be
    shown that the candidate is no worse, as many as show it of two that are equal, where there are such.

    >>> fewest_pairs(RolloutSpec(canary=[0.5, 1.0], least=20)), fewest_pairs(RolloutSpec())
    (20, 600)
    """
    pairs = unpaired = 0
    for stage in stages(plan):
        if stage.state == "ab":
            return 0
        if stage.state == "shadow":
            pairs += plan.least
            continue
        unpaired += round(plan.least * (1 - stage.share) / stage.share)
        now = min(plan.least, unpaired)
        pairs, unpaired = pairs + now, unpaired - now
    if plan.advance == "not_worse":
        for metric, margin in _looked_at(plan).items():
            if metric in PROVEN:
                alike = _first(partial(_clears, margin, _needed(plan)), MOST_PAIRS)
                pairs = max(pairs, (alike or 0) + (FEWEST if metric == "latency" else 0))
    return pairs


def _takes_back(pairs: int, margin: float, needed: float, worse: int) -> bool:
    return capital(Count(worse, 0, pairs - worse), margin) >= needed


def _clears(margin: float, needed: float, alike: int) -> bool:
    return capital_against(Count(same=alike), margin) >= needed


def _looked_at(plan: RolloutSpec) -> dict[str, float]:
    """Metric -> margin, of those that count."""
    allowed = plan.rollback_on.plain()
    return {metric: float(allowed[metric]) for metric in METRICS if allowed[metric] is not None}


def _needed(plan: RolloutSpec) -> float:
    """The capital that decides: the metrics share the false alarms (Bonferroni)."""
    return len(_looked_at(plan)) / plan.false_alarm


def _first(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest of 1 to `most` for which it holds; it holds for all above it."""
    if most < 1 or not holds(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def decide(
    rollout: Rollout, findings: list[Finding], *, requests: int, drifted: str | None, now_s: float
) -> Decision | None:
    """What follows by itself. `requests`: that the candidate answered in this stage; `drifted`: what an alert since it began says.
    A paused rollout and one that awaits approval are still taken back, and never go on."""
    if not rollout.under_way:
        return None
    if bad := [one for one in findings if one.worse]:
        return Decision("roll_back", "; ".join(one.told() for one in bad))
    if drifted is not None and rollout.plan.on_drift != "ignore" and rollout.state != "paused":
        if rollout.plan.on_drift == "roll_back":
            return Decision("roll_back", f"drift: {drifted}")
        if rollout.state != "awaiting_approval":
            return Decision("pause", f"drift: {drifted}")
    if rollout.state not in ("shadow", "canary"):
        return None
    stage, waited_s = stages(rollout.plan)[rollout.stage], now_s - rollout.since_s
    if stage.least_s is None or waited_s < stage.least_s or requests < rollout.plan.least:
        return None
    if rollout.plan.advance == "not_worse" and any(
        one.metric in PROVEN and not one.shown for one in findings
    ):
        return None
    how = "shown to be no worse" if rollout.plan.advance == "not_worse" else "nothing speaks against it"
    return Decision("advance", f"{requests:,} requests in {show_seconds(waited_s)}; {how}")


def _capital(value: float) -> str:
    return f"{value:.3g}" if value < 1e6 else "over 1e6"
