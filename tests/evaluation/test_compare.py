"""The laws of the paired bootstrap, its plain twin, and whether its intervals cover what they claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.evaluation import compare, predictions
from luthier.evaluation.metrics import classification

SETTINGS = {"confidence": 0.95, "resamples": 300, "seed": 0}
NAMES = ("accuracy", "precision_macro", "recall_macro", "macro_f1", "weighted_f1", "mcc")

labels_and_rows = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(*[st.integers(0, k - 1)] * 3), min_size=1, max_size=40).map(np.array)
    )
)


def _pair(k, rows):
    truth, one, other = rows.T.astype(np.int64)
    return compare.of_labels(truth, one, k), compare.of_labels(truth, other, k)


@given(labels_and_rows)
def test_a_system_does_not_differ_from_itself(drawn):
    k, rows = drawn
    one, _ = _pair(k, rows)
    found = compare.difference(one, one, len(rows), **SETTINGS).values()
    assert set(found) == {compare.Apart(0.0, 0.0, 0.0, None)}


@given(labels_and_rows)
def test_swapping_the_systems_swaps_the_signs(drawn):
    k, rows = drawn
    one, other = _pair(k, rows)
    here = compare.difference(one, other, len(rows), **SETTINGS)
    there = compare.difference(other, one, len(rows), **SETTINGS)
    for name in NAMES:
        a, b = here[name], there[name]
        assert (b.value, b.low, b.high) == pytest.approx((-a.value, -a.high, -a.low), abs=1e-12)
        assert b.detectable == pytest.approx(a.detectable)


@given(labels_and_rows)
def test_on_the_sample_itself_the_statistics_are_scikit_learns(drawn):
    k, rows = drawn
    names = [str(i) for i in range(k)]
    expected = classification([names[i] for i in rows[:, 0]], [names[i] for i in rows[:, 1]], names)[
        "metrics"
    ]
    assert compare.at_sample(_pair(k, rows)[0], len(rows)) == pytest.approx(expected, abs=1e-12)


@given(labels_and_rows)
def test_with_answers_that_are_no_label_too(drawn):
    """The last label is taken out of the list: whoever said it said nothing that counts."""
    k, rows = drawn
    rows = rows[rows[:, 0] < k - 1]
    if k < 2 or not len(rows):
        return
    names = [str(i) for i in range(k)]
    truth, said = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    told = classification([names[i] for i in truth], [names[i] for i in said], names[:-1])
    assert told["off_list"] == int((said == k - 1).sum())
    found = compare.at_sample(compare.of_labels(truth, said, k - 1), len(rows))
    assert found == pytest.approx(told["metrics"], abs=1e-12)


def test_every_resample_equals_the_plain_twin():
    generator = np.random.default_rng(7)
    truth, said = generator.integers(0, 4, (2, 60))
    drawn = compare.resampled(compare.of_labels(truth, said, 4), 60, 50, seed=3)
    index_RN = np.concatenate(list(compare.draws(60, 50, 3)))
    names = list("abcd")
    for r, index in enumerate(index_RN):
        plain = classification([names[i] for i in truth[index]], [names[i] for i in said[index]], names)[
            "metrics"
        ]
        assert {name: drawn[name][r] for name in NAMES} == pytest.approx(plain, abs=1e-12)


def test_pieces_of_any_size_draw_the_same_rows(monkeypatch):
    whole = np.concatenate(list(compare.draws(37, 100, 5)))
    monkeypatch.setattr(compare, "_DRAWN_AT_ONCE", 37 * 7)
    assert np.array_equal(np.concatenate(list(compare.draws(37, 100, 5))), whole)


def test_perplexity_resamples_sums_and_not_ratios():
    # rows: 2 tokens of loss 1 each, 1 token of loss 4; drawn twice each way
    statistics = compare.of_perplexity(np.array([2.0, 4.0]), np.array([2, 1]))
    values = statistics(np.array([[0, 1], [0, 0], [1, 1]]))["perplexity"]
    assert values == pytest.approx([np.exp(6 / 3), np.exp(1), np.exp(4)])


def _table(rows):
    return predictions.table(
        [
            {"id": f"{i:03}", "model": model, "reference": r, "prediction": p, "correct": r == p}
            for i, (r, *said) in enumerate(rows)
            for model, p in zip(("tuned", "base"), said, strict=True)
        ]
    )


@settings(max_examples=25)
@given(st.lists(st.tuples(*[st.sampled_from("ab")] * 3), min_size=2, max_size=30), st.randoms())
def test_the_order_of_the_lines_does_not_matter(rows, random):
    task = {"kind": "classify", "labels": ["a", "b"]}
    table = _table(rows)
    order = list(range(len(table)))
    random.shuffle(order)
    asked = {"metrics": NAMES, "resamples": 200}
    assert compare.from_predictions(table.take(order), task, **asked) == compare.from_predictions(
        table, task, **asked
    )


def test_only_rows_that_both_answered_are_compared():
    table = _table([("a", "a", "b"), ("a", "a", "b"), ("b", "b", "b")])
    # base did not answer row 000; over the other two, tuned has 2 right and base 1: difference 1/2
    table = table.filter(
        [not (line["model"] == "base" and line["id"] == "000") for line in table.to_pylist()]
    )
    task = {"kind": "classify", "labels": ["a", "b"]}
    (found,), _ = compare.from_predictions(table, task, metrics=["accuracy"], resamples=200)
    assert (found["rows"], found["difference"], found["of"], found["to"]) == (2, 0.5, "tuned", "base")


def test_nine_in_ten_intervals_cover_the_truth():
    """Tuned is right on 0.8 of all rows and base on 0.6, independently: the true difference of accuracy is 0.2."""
    generator = np.random.default_rng(0)
    rows, trials, covered = 120, 300, 0
    for seed in range(trials):
        truth = generator.integers(0, 2, rows)
        one = np.where(generator.random(rows) < 0.8, truth, 1 - truth)
        other = np.where(generator.random(rows) < 0.6, truth, 1 - truth)
        found = compare.difference(
            compare.of_labels(truth, one, 2), compare.of_labels(truth, other, 2), rows,
            confidence=0.9, resamples=400, seed=seed,
        )  # fmt: skip
        covered += found["accuracy"].low <= 0.2 <= found["accuracy"].high
    # 270 of 300 expected, standard deviation sqrt(300 * 0.9 * 0.1) = 5.2; four of them either way
    assert 249 <= covered <= 291
