"""The state machine: every pair of state and action is in the table or is refused, and what must hold after any walk holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import SpecError
from luthier.deployment.rollout import (
    ACTIONS,
    ENDED,
    STATES,
    TRANSITIONS,
    UNDER_WAY,
    Rollout,
    begin,
    place,
    stages,
    take,
    variant,
)
from luthier.deployment.spec import RolloutSpec

PLAN = RolloutSpec(shadow=60, canary=[0.05, 0.25, 1], approve="human")


def start(plan: RolloutSpec = PLAN, before: Rollout | None = None, now_s: float = 100.0) -> Rollout:
    stable = before.answers if before is not None else "router@1"
    candidate = "router@2" if stable == "router@1" else "router@1"
    return begin("router", before, stable, candidate, plan, by="ann", reason="new data", now_s=now_s)


def walk(rollout: Rollout, *actions: str, at_s: float = 200.0) -> Rollout:
    for action in actions:
        rollout = take(rollout, action, by="ann", reason="so", now_s=at_s)  # type: ignore[arg-type]
        at_s += 10
    return rollout


def in_state(state: str) -> Rollout:
    walks = {
        "shadow": [], "canary": ["advance"], "paused": ["advance", "pause"],
        "awaiting_approval": ["advance"] * 4, "promoted": ["promote"], "rolled_back": ["roll_back"], "rejected": ["reject"],
    }  # fmt: skip
    if state == "ab":
        return start(RolloutSpec(ab=0.5))
    return walk(start(), *walks[state])


@pytest.mark.parametrize("state", [s for s in STATES if s != "steady"])
@pytest.mark.parametrize("action", [a for a in ACTIONS if a != "start"])
def test_each_step_is_in_the_table_or_refused(state, action):
    before = in_state(state)
    assert before.state == state
    if (state, action) not in TRANSITIONS:
        with pytest.raises(SpecError, match="from there one cannot") as refused:
            take(before, action, by="ann", reason="so", now_s=300)
        assert "From here one can" in refused.value.remedy
        return
    after = take(before, action, by="bob", reason="why", now_s=300)
    assert after.state in TRANSITIONS[state, action]
    assert (after.step, after.by, after.reason, after.time_s) == (before.step + 1, "bob", "why", 300)


@pytest.mark.parametrize("state", [s for s in STATES if s != "steady"])
def test_a_rollout_begins_where_none_is_under_way(state):
    before = in_state(state)
    if state in ENDED:
        after = start(before=before)
        assert after.state == "shadow" and after.step == before.step + 1 and after.id != before.id
    else:
        with pytest.raises(SpecError, match="cannot start"):
            start(before=before)


def test_the_table_reaches_every_state_and_leaves_every_one():
    reached = {state for states in TRANSITIONS.values() for state in states}
    assert reached == set(STATES) - {"steady"}
    assert {state for state, _ in TRANSITIONS} == set(STATES)
    assert set(ENDED) | set(UNDER_WAY) == set(STATES)


def test_a_whole_rollout():
    at = start()
    told = [(at.state, at.share, at.answers)]
    for action in ("advance", "advance", "advance", "advance", "approve"):
        at = walk(at, action)
        told.append((at.state, at.share, at.answers))
    assert told == [
        ("shadow", 0.0, "router@1"), ("canary", 0.05, "router@1"), ("canary", 0.25, "router@1"),
        ("canary", 1.0, "router@1"), ("awaiting_approval", 1.0, "router@1"), ("promoted", 1.0, "router@2"),
    ]  # fmt: skip
    assert walk(at, "roll_back").answers == "router@1"


def test_without_approval_the_last_step_promotes():
    assert walk(start(RolloutSpec(canary=[1])), "advance").state == "promoted"


def test_the_time_of_a_pause_does_not_count():
    at = walk(start(now_s=100), "advance", at_s=200)
    at = walk(at, "pause", at_s=230)  # 30 s of the stage had passed
    assert at.share == 0.05 and at.acting == "canary"
    at = walk(at, "resume", at_s=1000)
    assert at.state == "canary" and at.since_s == 970


def test_what_answers_already_is_no_candidate():
    with pytest.raises(SpecError, match="answers already"):
        begin("router", None, "router@1", "router@1", PLAN, by="a", reason="b", now_s=0)


@given(st.lists(st.sampled_from([a for a in ACTIONS if a != "start"]), max_size=12))
def test_after_any_walk_one_version_answers_and_the_share_is_one(actions):
    at = start()
    for action in actions:
        try:
            at = walk(at, action)
        except SpecError:
            continue
        assert at.answers in (at.stable, at.candidate) and 0 <= at.share <= 1
        if at.state in ("rolled_back", "rejected"):
            assert at.answers == "router@1" and at.share == 0
            assert {variant(at, "k", str(i), 0.0) for i in range(50)} == {"stable"}


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_user_stays_where_he_is_as_the_share_grows(key, user):
    at = walk(start(), "advance")
    seen = []
    for _ in range(3):
        assert variant(at, key, user, 0.5) == variant(at, key, user, 0.5)
        seen.append(variant(at, key, user, 0.5))
        at = walk(at, "advance") if at.share < 1 else at
    assert seen == sorted(seen, reverse=True) and seen[-1] == "candidate"  # stable, ..., candidate


def test_shares_are_kept_and_rollouts_draw_anew():
    at = walk(start(), "advance", "advance")
    hits = sum(variant(at, "k", f"user {i}", 0.5) == "candidate" for i in range(20_000))
    # 20,000 draws of 0.25: mean 5,000, standard deviation 61; five of them
    assert abs(hits - 5_000) < 306
    same = sum((place("a#1", "k", str(i)) < 0.5) == (place("a#2", "k", str(i)) < 0.5) for i in range(4_000))
    assert abs(same - 2_000) < 160  # independent: 2,000 with standard deviation 32


def test_requests_without_a_user_are_drawn_one_by_one():
    """By the key alone, one application with one key would get the candidate always or never."""
    at = walk(start(), "advance")  # 5 %
    drawn = [(n + 0.5) / 1000 for n in range(1000)]
    assert sum(variant(at, "k", None, one) == "candidate" for one in drawn) == 50
    assert {variant(at, "k", "", one) for one in drawn} == {variant(at, "k", "", 0.5)}  # an empty user is one


def test_the_header_chooses_in_ab_alone():
    assert variant(in_state("ab"), "k", None, 0.5, "candidate") == "candidate"
    assert variant(in_state("ab"), "k", None, 0.5, "stable") == "stable"
    canary = in_state("canary")
    users = [str(i) for i in range(100)]
    assert [variant(canary, "k", u, 0.5, "candidate") for u in users] == [
        variant(canary, "k", u, 0.5) for u in users
    ]


def test_plans():
    assert [s.share for s in stages(RolloutSpec.model_validate({"canary": ["5%", "25%", "100%"]}))] == [
        0.05,
        0.25,
        1,
    ]
    spec = RolloutSpec.model_validate({"shadow": "1 h", "each": "30 min", "least": "1k"})
    assert (spec.shadow, spec.each, spec.least) == (3600, 1800, 1000)
    assert stages(RolloutSpec(ab=0.5))[0].least_s is None
    for wrong in (
        {"canary": [], "shadow": None}, {"canary": [0.5, 0.2]}, {"canary": [0, 1]}, {"ab": 1}, {"ab": 0.5, "canary": [1]},
        {"each": "soon"}, {"approve": "robot"}, {"rollback_on": {"errors": 1}},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            RolloutSpec.model_validate(wrong)
