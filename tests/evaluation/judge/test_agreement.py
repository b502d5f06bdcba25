"""Agreement equals the libraries', and what people said is read line by line."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.evaluation.judge import agreement, human

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=40)


@given(pairs)
def test_kappa_is_scikit_learns(told):
    from sklearn.metrics import cohen_kappa_score

    one, other = np.array(told).T
    assume(len(set(one)) > 1 or len(set(other)) > 1)
    assert agreement.kappa(one, other) == pytest.approx(float(cohen_kappa_score(one, other)), abs=1e-12)


@given(pairs)
def test_spearman_is_scipys(told):
    from scipy.stats import spearmanr

    one, other = np.array(told, float).T
    assume(len(set(one)) > 1 and len(set(other)) > 1)
    assert agreement.spearman(one, other) == pytest.approx(float(spearmanr(one, other).statistic), abs=1e-12)


def test_what_cannot_be_known_is_not_made_up():
    settings = {"confidence": 0.95, "resamples": 200, "seed": 0}
    assert agreement.with_interval(agreement.kappa, [1], [1], **settings)["value"] is None
    same = agreement.with_interval(agreement.kappa, [1, 1, 1], [1, 1, 1], **settings)
    assert same == {"value": None, "low": None, "high": None, "rows": 3}
    found = agreement.with_interval(agreement.spearman, list(range(30)), list(range(30)), **settings)
    assert found["value"] == found["low"] == found["high"] == 1.0


def test_verdicts_of_people_are_read_from_both_forms(tmp_path):
    lines = [
        {"id": "a", "verdict": 4},
        {"id": "b", "verdict": "win", "against": "base"},
        {"id": "c", "verdict": "2", "answer": "x"},
    ]
    (tmp_path / "h.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "h.csv").write_text("id,verdict,answer,against\na,4,,\nb,win,,base\nc,2,x,\n")
    expected = [
        human.Word("a", 4, None, None, None),
        human.Word("b", None, "win", None, "base"),
        human.Word("c", 2, None, "x", None),
    ]
    assert human.read(tmp_path / "h.jsonl") == human.read(tmp_path / "h.csv") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no verdict"),
        ('{"id": "a", "verdict": 1}\n[1]', "h.jsonl:2: this is no JSON object"),
        ('{"id": "a", "verdikt": 1}', r"h.jsonl:1: there is no column 'verdikt'.*\n.*did you mean 'verdict'"),
        ('{"id": "a"}', "`id` and `verdict` are needed"),
        ('{"id": "a", "verdict": "good"}', "neither a whole number nor one of win, tie, loss"),
        ('{"id": "a", "verdict": true}', "neither a whole number"),
        ('{"id": "a", "verdict": 1.5}', "neither a whole number"),
        ('{"id": "a", "verdict": 3, "against": "base"}', "a number is of one answer"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path, text, told):
    (tmp_path / "h.jsonl").write_text(text)
    with pytest.raises(DataError, match=told):
        human.read(tmp_path / "h.jsonl")
