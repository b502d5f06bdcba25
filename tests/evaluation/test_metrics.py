"""Numbers by hand, from one small table of two labels."""

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.evaluation import metrics

# reference  a a a b b      prediction  a a b b a
#   a: tp 2, called a 3, is a 3 -> precision 2/3, recall 2/3, F1 2/3
#   b: tp 1, called b 2, is b 2 -> precision 1/2, recall 1/2, F1 1/2
TRUTH, SAID = list("aaabb"), list("aabba")


def test_classification_by_hand():
    found = metrics.classification(TRUTH, SAID, ["a", "b"])
    assert found["metrics"] == pytest.approx(
        {
            "accuracy": 3 / 5,
            "precision_macro": 7 / 12,
            "recall_macro": 7 / 12,
            "macro_f1": 7 / 12,
            "weighted_f1": 3 / 5,  # (3 * 2/3 + 2 * 1/2) / 5
            "mcc": 1 / 6,  # (tp * tn - fp * fn) / sqrt(3 * 3 * 2 * 2) = (2 * 1 - 1 * 1) / 6
        }
    )
    assert found["per_label"]["a"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    )
    assert found["confusion"] == [[2, 1], [1, 1]]


def test_a_label_without_a_test_row_does_not_move_the_averages():
    with_third = metrics.classification(TRUTH, SAID, ["a", "b", "never"])
    assert with_third["metrics"] == metrics.classification(TRUTH, SAID, ["a", "b"])["metrics"]
    assert with_third["per_label"]["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_a_label_that_is_never_said_counts_zero():
    # a: precision 1/2, recall 1, F1 2/3; b: 0, 0, 0 -> macro F1 1/3
    found = metrics.classification(list("ab"), list("aa"), ["a", "b"])
    assert found["metrics"]["macro_f1"] == pytest.approx(1 / 3)


def test_an_answer_that_is_no_label_is_wrong_and_counted_and_a_reference_that_is_none_is_refused():
    # a: precision 1/1, recall 1/2, F1 2/3; b: precision 1/1, recall 1/2, F1 2/3
    found = metrics.classification(list("aabb"), ["a", "it is a", "b", None], ["a", "b"])
    assert found["off_list"] == 2 and found["confusion"] == [[1, 0], [0, 1]]
    assert found["metrics"]["accuracy"] == 0.5 and found["metrics"]["macro_f1"] == pytest.approx(2 / 3)
    assert found["per_label"]["a"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }
    with pytest.raises(DataError, match="'c' is not one of the 2 labels"):
        metrics.classification(["c"], ["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("Paris", "paris.", 1.0),  # case and punctuation aside
        ("the big dog", "a big cat", 0.5),  # {big, dog} and {big, cat}: overlap 1, 2*1/(2+2)
        ("no no yes", "no", 0.5),  # a word counts as often as it stands: overlap 1, 2*1/(3+1)
        ("x", "", 0.0),
        ("", "", 1.0),
        ("the", "!", 1.0),  # both empty once normalised
    ],
)
def test_token_f1(reference, prediction, expected):
    assert metrics.token_f1(reference, prediction) == pytest.approx(expected)


def test_exact_match_leaves_whitespace_aside_and_rows_without_answer_out():
    each = metrics.each(metrics.same_text, ["a b", "c", "d"], ["a  b\n", "C", None])
    assert each[:2].tolist() == [1.0, 0.0]
    assert np.isnan(each[2])
    assert metrics.mean(each) == 0.5
    assert metrics.mean(each[2:]) is None


def test_perplexity_weighs_by_tokens():
    # 3 tokens of loss ln 4 and 1 of loss 0: exp(3 ln 4 / 4) = 4 ** 0.75
    assert metrics.perplexity(np.array([3 * np.log(4), 0.0]), np.array([3, 1])) == pytest.approx(4**0.75)


def test_perplexity_needs_a_loss_for_every_row():
    assert metrics.perplexity(np.array([1.0, np.nan]), np.array([3, 0])) is None
    assert metrics.perplexity(np.array([]), np.array([], int)) is None


def test_without_scikit_learn_the_remedy_is_named(monkeypatch):
    import sys

    from luthier.core.errors import MissingPart

    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingPart, match=r"luthier\[train\]"):
        metrics.classification(TRUTH, SAID, ["a", "b"])
