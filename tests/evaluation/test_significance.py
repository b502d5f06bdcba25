"""Permutation against enumeration, McNemar and Holm against scipy and hand, power by simulation."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from luthier.evaluation import compare, significance


def test_permutation_equals_enumeration():
    one, other = np.array([1.0, 1, 1, 0, 1, 1, 1, 0]), np.array([0.0, 1, 0, 1, 0, 0, 0, 0])
    apart = one - other
    every = [abs(np.mean(apart * signs)) for signs in itertools.product([1, -1], repeat=8)]
    exact = np.mean(np.array(every) >= abs(apart.mean()) - 1e-12)
    both = compare.of_mean("m", np.concatenate([one, other]))
    found = significance.permutation(both, 8, {"m": float(apart.mean())}, 20_000, seed=0)["m"]
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_equal_systems_are_never_told_apart():
    value = np.array([1.0, 0, 1, 1])
    both = compare.of_mean("m", np.concatenate([value, value]))
    assert significance.permutation(both, 4, {"m": 0.0}, 200, seed=0) == {"m": 1.0}


def test_one_false_alarm_in_twenty():
    """Two systems of the same quality, 60 rows, 400 times: p <= 0.05 in about 5 % of them."""
    generator, alarms = np.random.default_rng(0), 0
    for trial in range(400):
        one, other = (generator.random((2, 60)) < 0.7).astype(float)
        both = compare.of_mean("m", np.concatenate([one, other]))
        seen = float(one.mean() - other.mean())
        alarms += significance.permutation(both, 60, {"m": seen}, 400, trial)["m"] <= 0.05
    assert alarms <= 20 + 4 * np.sqrt(400 * 0.05 * 0.95)  # 37


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (7, 3), (12, 12), (40, 22)])
def test_mcnemar_is_the_binomial_test(gained, lost):
    assert significance.mcnemar(gained, lost) == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_holm_by_hand():
    assert significance.holm([0.2, 0.01, 0.04]) == pytest.approx([0.2, 0.03, 0.08])
    assert significance.holm([0.9, 0.9]) == [1.0, 1.0]
    assert significance.holm([]) == []


def test_what_is_detectable_is_found_four_times_in_five():
    """Accuracy 0.75 against 0.6, independent: a row's difference has variance 0.75 * 0.25 + 0.6 * 0.4 = 0.4275, so with 150
    rows the standard error is 0.0534 and (1.960 + 0.8416) times that is 0.1496."""
    generator, rows, found, told = np.random.default_rng(3), 150, 0, []
    for seed in range(300):
        one, other = (
            (generator.random(rows) < 0.75).astype(float),
            (generator.random(rows) < 0.6).astype(float),
        )
        apart = compare.difference(
            compare.of_mean("m", one), compare.of_mean("m", other), rows, confidence=0.95, resamples=400, seed=seed
        )["m"]  # fmt: skip
        found += apart.low > 0
        told.append(apart.detectable)
    assert np.median(told) == pytest.approx(0.1496, rel=0.05)
    # 240 of 300 expected, standard deviation 6.9
    assert 212 <= found <= 268


def test_more_rows_by_the_square():
    assert significance.rows_for(0.03, 0.09, 80) == 720
    assert significance.rows_for(-0.1, 0.1, 50) == 50
