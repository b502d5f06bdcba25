"""Bets that nobody can win while nothing changes, and that soon win when something does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.monitoring.sequential import BINS, HALF_LIVES, Detector, draws


def fresh(generator, views=4, rows=300):
    told = generator.integers(0, BINS, (rows, views))
    return Detector.fresh({f"v{n}": np.bincount(told[:, n], minlength=BINS) for n in range(views)})


def test_quiet_days_raise_no_more_alarms_than_promised():
    """20 x 30 quiet days of 25 requests with alpha 0.02: 12 alarms at most on average. Of a Poisson of 12, 22 or more are seen in
    one of 200; seeds are fixed."""
    generator, alarms = np.random.default_rng(3), 0
    for _ in range(20):
        detector = fresh(generator)
        for _ in range(30):
            told = generator.integers(0, BINS, (25, 4))
            alarms += len(detector.watch(told, generator.random((25, 4)), 1.0, 0.02))
    assert alarms < 22


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda told, luck: np.minimum(told + 20, BINS - 1), 150),  # everything is longer
        (lambda told, luck: np.where(luck < 0.3, BINS - 1, told), 200),  # a third is new
        (lambda told, luck: np.where(luck < 0.5, 30, told), 200),  # a lump in the middle
    ],
)
def test_a_change_of_any_kind_is_found(change, within):
    generator = np.random.default_rng(5)
    detector = fresh(generator)
    for _ in range(5):
        assert not detector.watch(generator.integers(0, BINS, (50, 4)), generator.random((50, 4)), 1.0, 0.01)
    told = generator.integers(0, BINS, (300, 4))
    told[:, 2] = change(told[:, 2], generator.random(300))
    [alarm, *_] = detector.watch(told, generator.random((300, 4)), 6.0, 0.01)
    assert alarm.at < within and alarm.views[0] == "v2" and alarm.capital >= 100


def test_capital_less_days_is_a_fair_game():
    """One request, all places alike: the mean of the bet over the stretches is 1 by construction, whatever was learnt."""
    from luthier.monitoring import sequential

    generator = np.random.default_rng(0)
    detector = fresh(generator, views=1)
    detector.watch(np.full((40, 1), 3), generator.random((40, 1)), 1.0, 1e-9)
    learnt_SK = detector.learnt_VSK[0]
    width_K = np.diff(sequential.EDGES)
    bet_SK = (
        (learnt_SK + sequential.PRIOR * width_K)
        / (learnt_SK.sum(1, keepdims=True) + sequential.PRIOR)
        / width_K
    )
    assert (bet_SK * width_K).sum(1) == pytest.approx(np.ones(len(HALF_LIVES)))


def test_views_that_are_closed_or_silent_are_not_bet_on():
    generator = np.random.default_rng(1)
    detector = fresh(generator, views=2)
    told = np.column_stack([np.full(200, BINS - 1), np.full(200, -1)])
    assert not detector.watch(told, generator.random((200, 2)), 1.0, 0.01, closed=["v0"])
    assert detector.capital_V[0] == 0 and detector.capital_V[1] == pytest.approx(1.0)  # a day, and no bet
    assert detector.watch(told, generator.random((200, 2)), 1.0, 0.01)


def test_state_survives_the_ledger():
    generator = np.random.default_rng(2)
    detector = fresh(generator)
    first, second = (generator.integers(0, BINS, (50, 4)) for _ in range(2))
    luck = generator.random((100, 4))
    detector.watch(first, luck[:50], 1.0, 0.01)
    import json

    again = Detector.from_plain(json.loads(json.dumps(detector.plain())))
    detector.watch(second, luck[50:], 1.0, 0.01)
    again.watch(second, luck[50:], 1.0, 0.01)
    assert again.capital_VS == pytest.approx(detector.capital_VS, rel=1e-2)
    assert (again.seen_VB == detector.seen_VB).all()


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True))
@settings(max_examples=30)
def test_draws_follow_from_ids_alone(ids):
    views = [f"v{n}" for n in range(11)]
    whole = draws(ids, views)
    assert ((whole >= 0) & (whole < 1)).all()
    assert (draws(ids[::-1], views)[::-1] == whole).all()


def days_until_told(praised, seed):
    """When a shift by a sixth of the spread is told, which begins on day 10, and how many alarms `right` made until then."""
    generator, praise = np.random.default_rng(seed), 0
    usual = np.bincount(generator.normal(30, 6, 400).astype(int).clip(0, BINS - 1), minlength=BINS)
    detector = Detector.fresh({"length": usual, "right": [100, 400, *[0] * (BINS - 2)]})
    for day in range(120):
        told = generator.normal(30 if day < 10 else 32, 6, 40).astype(int).clip(0, BINS - 1)
        asked = np.column_stack([told, np.full(40, -1)])
        luck = generator.random((60, 2))
        if detector.watch(asked, luck[:40], 1.0, 0.01, closed=["right"]):
            return day, praise
        right = generator.random(20) < 0.99
        if praised:
            judged = np.column_stack([np.full(20, -1), right])
            praise += len(detector.watch(judged, luck[40:], 1.0, 0.01, closed=["length"]))
    return 120, praise


def test_praise_does_not_hide_a_shift():
    """What is watched apart (answers judged better than measured, which nobody is told of) leaves the other views' capital alone: the
    shift is told on the same day, with and without."""
    found = [(days_until_told(False, seed), days_until_told(True, seed)) for seed in range(4)]
    assert [praised for _, (praised, _) in found] == [plain for (plain, _), _ in found]
    assert all(praise > 0 for _, (_, praise) in found)


def test_two_watches_raise_no_more_alarms_than_promised():
    """As above, with a view that is watched apart: 20 x 15 quiet days, alpha 0.02, 6 alarms at most on average of both together. Of a
    Poisson of 6, 13 or more are seen in one of a hundred; seeds are fixed."""
    generator, alarms = np.random.default_rng(4), 0
    for _ in range(20):
        detector = fresh(generator)
        for _ in range(15):
            told = generator.integers(0, BINS, (25, 4))
            asked, judged = told.copy(), np.full((25, 4), -1)
            asked[:, 3], judged[:, 3] = -1, told[:, 3]
            luck = generator.random((25, 4))
            alarms += len(detector.watch(asked, luck, 1.0, 0.02, closed=["v3"]))
            alarms += len(detector.watch(judged, luck, 1.0, 0.02, closed=["v0", "v1", "v2"]))
    assert alarms < 13
