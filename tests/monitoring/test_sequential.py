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
