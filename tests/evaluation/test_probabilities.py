"""Probabilities measured by scikit-learn, and the same on resamples by ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from luthier.evaluation import compare, probabilities

# Few levels, so that ties are the rule.
rows = st.integers(2, 4).flatmap(
    lambda k: st.lists(
        st.tuples(st.integers(0, k - 1), st.lists(st.integers(1, 4), min_size=k, max_size=k)),
        min_size=2,
        max_size=30,
    )
)


def _arrays(drawn):
    truth = np.array([label for label, _ in drawn], np.int64)
    weights = np.array([told for _, told in drawn], np.float64)
    return truth, weights / weights.sum(1, keepdims=True)


@given(rows)
def test_on_the_sample_itself_resampling_gives_what_scikit_learn_does(drawn):
    truth, p = _arrays(drawn)
    expected = probabilities.values(truth, p)
    found = compare.at_sample(probabilities.statistics(truth, p), len(truth))
    for name in probabilities.NAMES:
        if expected[name] is None:
            assert np.isnan(found[name])
        else:
            assert found[name] == pytest.approx(expected[name], abs=1e-12)


@given(rows)
def test_log_loss_is_scikit_learns(drawn):
    truth, p = _arrays(drawn)
    expected = log_loss(truth, p, labels=range(p.shape[1]))
    assert probabilities.values(truth, p)["log_loss"] == pytest.approx(expected)


def test_every_resample_equals_the_plain_twin():
    generator = np.random.default_rng(1)
    truth, p = generator.integers(0, 3, 40), generator.dirichlet(np.ones(3), 40).round(1)
    drawn = compare.resampled(probabilities.statistics(truth, p), 40, 20, seed=3)
    for r, index in enumerate(np.concatenate(list(compare.draws(40, 20, 3)))):
        plain = probabilities.values(truth[index], p[index])
        assert {name: drawn[name][r] for name in plain} == pytest.approx(plain, abs=1e-12)


def test_by_hand():
    # right label is 0, 0, 1; answers 0 (0.9, right), 1 (0.6, wrong), 1 (0.7, right)
    truth, p = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    found = probabilities.values(truth, p)
    assert found["log_loss"] == pytest.approx(-np.log(0.9 * 0.4 * 0.7) / 3)
    assert found["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.6**2 + 2 * 0.3**2) / 3)
    assert found["roc_auc"] == 1.0  # 0.9 and 0.4 both stand above 0.3
    # three bins of one row: |0.9 - 1| + |0.6 - 0| + |0.7 - 1|, a third each
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.3) / 3)


def test_a_model_that_says_what_it_does_is_calibrated():
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, 20_000)
    truth = (generator.random(20_000) > sure).astype(np.int64)  # label 0 with probability `sure`
    p = np.stack([sure, 1 - sure], 1)
    assert probabilities.values(truth, p)["ece"] < 0.02
    sharper = p**3 / (p**3).sum(1, keepdims=True)
    assert probabilities.values(truth, sharper)["ece"] > 0.1


def test_where_all_rows_have_one_label_there_is_no_area():
    found = probabilities.values(np.array([1, 1]), np.array([[0.5, 0.5], [0.2, 0.8]]))
    assert found["roc_auc"] is None
    assert found["average_precision"] is None
    assert found["brier"] == pytest.approx((0.5 + 0.08) / 2)
