"""The laws of the statistics: exposure of what was not learnt, AUC against scikit-learn, intervals that hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evaluation.memorisation import statistics
from luthier.evaluation.memorisation.spec import candidates_for

few = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=40).map(np.array)


@pytest.mark.parametrize("others", [1, 127, 1023])
def test_what_was_not_learnt_is_as_likely_at_any_place(others):
    """P(exposure >= x) <= 2^-x, with equality where 2^x divides the number of places: at x = 1 just half of them."""
    exposures = np.array([statistics.exposure(place, others) for place in range(1, others + 2)])
    for x in np.arange(0, math.log2(others + 1) + 0.5, 0.25):
        assert (exposures >= x - 1e-12).mean() <= 2**-x + 1e-12
    for x in range(int(math.log2(others + 1)) + 1):
        assert (exposures >= x).mean() == 2**-x


def test_the_place_of_a_secret_among_random_losses_is_even():
    """1,000 draws of 128 losses: each quarter of the places is hit 250 times, give or take 4.5 standard deviations."""
    rng = np.random.default_rng(0)
    places = [statistics.rank(row[0], row[1:]) for row in rng.normal(size=(1000, 128))]
    counts, _ = np.histogram(places, bins=[1, 33, 65, 97, 129])
    assert np.all(np.abs(counts - 250) < 4.5 * math.sqrt(1000 * 0.25 * 0.75))


@given(few, few)
def test_auc_is_scikit_learns(members, strangers):
    from sklearn.metrics import roc_auc_score

    truth = [1] * len(members) + [0] * len(strangers)
    expected = roc_auc_score(truth, -np.concatenate([members, strangers]))
    assert statistics.auc(members, strangers) == pytest.approx(expected, abs=1e-12)


@given(few, few, st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_no_more_false_alarms_than_allowed(members, strangers, allowed):
    found = statistics.found_at(members, strangers, allowed)
    bar = np.sort(strangers)[math.floor(allowed * len(strangers) + 1e-9)]
    assert (strangers < bar).mean() <= allowed and found == (members < bar).mean()


@given(st.floats(0, 1), st.integers(2, 500), st.integers(2, 500))
def test_an_interval_of_auc_holds_its_value_and_stays_within_0_and_1(value, m, n):
    low, high = statistics.auc_interval(value, m, n, 0.95)
    assert 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1 and high - low > 0


def test_intervals_of_auc_cover_as_they_say():
    """2,000 models that learnt nothing: the 95 % interval misses 0.5 in 5 % of them, give or take 3 standard errors."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(2000):
        value = statistics.auc(rng.normal(size=60), rng.normal(size=40))
        low, high = statistics.auc_interval(value, 60, 40, 0.95)
        missed += not low <= 0.5 <= high
    assert missed / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@given(st.integers(0, 20), st.integers(0, 20))
def test_fishers_exact_test_is_scipys(a, b):
    from scipy.stats import fisher_exact

    expected = fisher_exact([[a, 20 - a], [b, 20 - b]], alternative="greater").pvalue
    assert statistics.luckiest(a, 20, (b, 20)) == pytest.approx(expected)


def test_the_curve_agrees_with_the_rank_where_there_are_losses():
    """Of 4,000 normal losses the one at the median has 1 bit, the one at the 1/64 quantile 6."""
    losses = np.random.default_rng(2).normal(10, 2, size=4000)
    for x in (1, 3, 6):
        at = float(np.quantile(losses, 2.0**-x))
        assert statistics.estimated(at, losses.tolist(), 40) == pytest.approx(x, abs=0.4)
    assert statistics.estimated(-1000.0, losses.tolist(), 40.0) == 40.0  # never beyond the secret's own bits
    assert statistics.estimated(1.0, [3.0, 3.0, 3.0], 40) is None


@pytest.mark.parametrize("secrets", [1, 12, 50, 1000])
def test_one_secret_alone_can_be_told_from_luck(secrets):
    others = candidates_for(secrets, 1023)
    assert secrets * statistics.by_luck(1, others) <= 0.05 / 3
