"""The rule: how often it takes a good candidate back, how soon a bad one, and that counts added up are the counts of one."""

import math

import numpy as np
import pytest

from luthier.deployment.evidence import METRICS, Count, Outcome, Pairs, Tally, feedback_counts
from luthier.deployment.rollout import begin, take
from luthier.deployment.rule import (
    STAKES,
    can_notice,
    capital,
    capital_against,
    decide,
    fewest_pairs,
    judge,
)
from luthier.deployment.spec import RolloutSpec

PLAN = RolloutSpec(canary=[0.1, 1], each=60, least=100)


def capitals(stable_NM, candidate_NM, margin):
    """The largest capital ever seen of each of N rollouts with M pairs, looking after every pair; the formula in numpy."""
    z_NM = candidate_NM.astype(int) - stable_NM.astype(int)
    logs = []
    for part in STAKES:
        stake = part / (1 + margin)
        logs.append(np.cumsum(np.log1p(stake * (z_NM - margin)), axis=1))
    log_SNM = np.stack(logs)
    top = log_SNM.max(axis=0)
    return np.exp((top + np.log(np.exp(log_SNM - top).mean(axis=0))).clip(max=600))


@pytest.mark.parametrize(("rate", "margin"), [(0.02, 0.0), (0.3, 0.0), (0.05, 0.02), (0.5, 0.1)])
def test_a_candidate_at_the_very_edge_is_rarely_taken_back(rate, margin):
    """1,000 rollouts of 1,000 pairs where the candidate is worse by exactly what is allowed, looked at after every pair. At most 5 %
    may cross 1 / 0.05 = 20; with 1,000 draws of 0.05 three standard deviations are 0.021."""
    draw = np.random.default_rng(7)
    stable = draw.random((1000, 1000)) < rate
    candidate = draw.random((1000, 1000)) < rate + margin
    crossed = (capitals(stable, candidate, margin).max(axis=1) >= 20).mean()
    assert crossed <= 0.05 + 0.021


def test_bad_hours_that_hit_both_do_not_count():
    """Errors of 1 % for most of the time and of 60 % in bad hours: a fixed bound would stop every one of these."""
    draw = np.random.default_rng(8)
    rate_M = np.where((np.arange(1000) // 100) % 3 == 2, 0.6, 0.01)
    stable, candidate = (draw.random((500, 1000)) < rate_M for _ in range(2))
    assert (capitals(stable, candidate, 0.0).max(axis=1) >= 20).mean() <= 0.05 + 0.03


@pytest.mark.parametrize(
    ("stable_rate", "rate", "within", "power"),
    [(0.01, 0.3, 80, 0.95), (0.01, 0.15, 250, 0.9), (0.02, 0.1, 600, 0.8), (0.0, 1.0, 15, 1.0)],
)
def test_a_bad_candidate_is_found(stable_rate, rate, within, power):
    """Within so many pairs, in so many of 500 rollouts, with the threshold of four metrics (4 / 0.05) and 2 % allowed."""
    draw = np.random.default_rng(9)
    stable = draw.random((500, within)) < stable_rate
    candidate = draw.random((500, within)) < rate
    assert (capitals(stable, candidate, 0.02).max(axis=1) >= 80).mean() >= power


def test_the_formula_of_counts_is_the_product_over_pairs():
    draw = np.random.default_rng(3)
    stable, candidate = draw.random((1, 300)) < 0.2, draw.random((1, 300)) < 0.3
    z = candidate.astype(int) - stable.astype(int)
    count = Count(int((z == 1).sum()), int((z == -1).sum()), int((z == 0).sum()))
    assert capital(count, 0.05) == pytest.approx(capitals(stable, candidate, 0.05)[0, -1])
    # the other bet is the first one with the sides changed
    assert capital_against(count, 0.0) == pytest.approx(
        capital(Count(count.better, count.worse, count.same), 0)
    )
    assert capital(Count(worse=10**6), 0.1) < math.inf


def rollout(state="canary", plan=PLAN):
    at = begin("r", None, "r@1", "r@2", plan, by="a", reason="b", now_s=0)
    return take(at, "pause", by="a", reason="b", now_s=1) if state == "paused" else at


def test_decisions():
    good, bad = judge({}, PLAN), judge({"error_rate": Count(worse=60, same=40)}, PLAN)
    ask = lambda found, **told: decide(  # noqa: E731
        told.pop("at", rollout()), found, **{"requests": 0, "drifted": None, "now_s": 10.0, **told}
    )
    assert [one.metric for one in good] == list(METRICS) and good[0].needed == 80
    assert ask(good) is None
    assert ask(bad).action == "roll_back" and "error_rate +60.0%" in ask(bad).reason
    assert ask(bad, at=rollout("paused")).action == "roll_back"
    assert ask(good, requests=100, now_s=61).action == "advance"
    assert ask(good, requests=99, now_s=61) is None and ask(good, requests=100, now_s=59) is None
    assert ask(good, requests=100, now_s=61, at=rollout("paused")) is None
    assert ask(good, drifted="rows changed").action == "pause"
    assert ask(good, drifted="rows changed", at=rollout("paused")) is None
    ended = take(rollout(), "roll_back", by="a", reason="b", now_s=1)
    assert ask(bad, at=ended) is None
    ignoring = rollout(plan=RolloutSpec(on_drift="ignore"))
    assert ask(judge({}, ignoring.plan), at=ignoring, drifted="x") is None
    assert ask(good, at=rollout(plan=RolloutSpec(on_drift="roll_back")), drifted="x").action == "roll_back"


def test_where_it_must_be_shown_a_quiet_candidate_waits():
    plan = RolloutSpec(canary=[1], each=0, least=1, advance="not_worse")
    few, many = ({m: Count(same=n) for m in METRICS} for n in (20, 1000))
    at = rollout(plan=plan)
    assert decide(at, judge(few, plan), requests=20, drifted=None, now_s=1) is None
    found = decide(at, judge(many, plan), requests=1000, drifted=None, now_s=1)
    assert found is not None and found.action == "advance" and "no worse" in found.reason


def test_what_is_not_looked_at_shares_no_alarm():
    plan = RolloutSpec.model_validate({"rollback_on": {"latency": None, "refusals": None, "feedback": None}})
    (only,) = judge({"latency": Count(worse=1000)}, plan)
    assert only.metric == "error_rate" and only.needed == 20


def test_pairs_do_not_look_at_how_answers_came_out():
    pairs = Pairs()
    for seconds in (0.1,) * 200:
        pairs.stable(Outcome(False, seconds))
    for seconds in (0.1,) * 60 + (0.5,) * 40:
        pairs.candidate(Outcome(False, seconds))
    pairs.candidate(Outcome(True, 0.0))
    told = pairs.handed_over()
    assert told.counts["error_rate"] == Count(worse=1, same=100)
    assert told.counts["refusals"] == Count(same=100)
    # the first 50 pairs only say what is slow; of the other 50, 40 were slower than 0.1 s
    assert told.counts["latency"] == Count(worse=40, same=10)
    assert (told.requests, told.failed, told.stable) == (101, 1, 200)
    assert pairs.handed_over().counts == {}
    for _ in range(99):
        pairs.candidate(Outcome(False, 0.1))
    assert pairs.handed_over().counts["error_rate"].pairs == 99  # what had no partner yet has one now
    pairs.candidate(Outcome(False, 0.1))
    told = pairs.handed_over()
    assert told.requests == 1 and told.counts == {}


def test_copies_are_compared():
    pairs = Pairs()
    pairs.shadow(Outcome(False, 0.1, sha256="x"), Outcome(False, 0.1, sha256="x"))
    pairs.shadow(Outcome(False, 0.1, sha256="y"), Outcome(False, 0.1, sha256="x"))
    pairs.shadow(Outcome(True, 0.1), Outcome(False, 0.1, sha256="x"))
    told = pairs.handed_over()
    assert (told.compared, told.agreed, told.requests) == (2, 1, 3)
    assert told.counts["error_rate"] == Count(worse=1, same=2)


def test_what_servers_tell_adds_up():
    one, other = Pairs(), Pairs()
    for pairs in (one, other):
        pairs.stable(Outcome(False, 0.1))
        pairs.candidate(Outcome(pairs is other, 0.1))
    all_of_it = Tally()
    for pairs in (one, other):
        all_of_it.take_in(pairs.handed_over().plain())
    assert all_of_it.counts["error_rate"] == Count(worse=1, same=1)
    assert (all_of_it.requests, all_of_it.failed, all_of_it.stable) == (2, 1, 2)


def test_feedback_is_paired_in_the_order_it_came():
    assert feedback_counts([False, True, False], [True, True]) == Count(worse=1, same=1)


def test_a_plan_says_what_it_can_notice():
    of_feedback = {"error_rate": None, "latency": None, "refusals": None}
    plan = RolloutSpec(canary=[0.5, 1.0], least=40, rollback_on=of_feedback)
    assert can_notice(plan) == (
        "may be over after 40 pairs of answers, which show feedback worse by 35 points if every answer is judged"
    )
    for worse, taken in ((14, True), (13, False)):  # of 40: 35 points are 14
        [found] = judge({"feedback": Count(worse, 0, 40 - worse)}, plan)
        assert found.worse is taken
    whole = can_notice(RolloutSpec(canary=[0.5, 1.0], least=40))
    assert "error_rate worse by 30 points, refusals worse by 40 points" in whole
    assert whole.endswith("too few to show anything of latency")  # of which nothing is said before 50 pairs
    assert "latency worse by" in can_notice(RolloutSpec())
    short = can_notice(RolloutSpec(canary=[0.5], least=8))
    assert short == (
        "may be over after 8 pairs of answers; that is too few to show anything of error_rate, latency, refusals, feedback"
    )
    assert can_notice(RolloutSpec(canary=[1.0])).startswith("may be over after 0 pairs")
    assert can_notice(RolloutSpec(ab=0.5)) is None


def test_how_many_pairs_a_plan_has():
    assert fewest_pairs(RolloutSpec(shadow=60, canary=[], least=7)) == 7
    # while one answers nine tenths, the other is the scarce one
    assert fewest_pairs(RolloutSpec(canary=[0.9, 1.0], least=100)) == 11
    assert fewest_pairs(RolloutSpec(canary=[0.05, 0.25, 1.0], least=200)) == 600
    proven = RolloutSpec(canary=[0.5], least=10, advance="not_worse")
    pairs = fewest_pairs(proven)
    for many, shown in ((pairs, True), (pairs - 1, False)):
        found = {one.metric: one for one in judge({"error_rate": Count(same=many)}, proven)}
        assert found["error_rate"].shown is shown
    # nothing that is equal shows that it is not worse at all
    assert fewest_pairs(RolloutSpec(canary=[0.5], least=10, advance="not_worse",
                                    rollback_on={"error_rate": 0, "latency": None, "refusals": None, "feedback": None})) == 10  # fmt: skip


def test_a_margin_of_everything_and_a_plan_without_end_are_refused():
    with pytest.raises(ValueError, match="100% allows everything"):
        RolloutSpec(rollback_on={"feedback": 1})
    with pytest.raises(ValueError):
        RolloutSpec(least=2_000_000)
    assert can_notice(RolloutSpec(least=1_000_000, shadow=60, advance="not_worse"))
