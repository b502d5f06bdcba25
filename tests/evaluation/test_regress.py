"""Numbers: errors by hand, answers without a number, and the same figures on resamples."""

import json

import numpy as np
import pytest

from luthier.evaluation.predictions import Answers
from luthier.evaluation.questions import Question
from luthier.evaluation.tasks.regress import RegressTask


def answers(*pairs):
    n = len(pairs)
    ids = tuple(f"{i}" for i in range(n))
    truth, said = zip(*pairs, strict=True)
    return Answers(ids, truth, said, np.full(n, np.nan), np.zeros(n, np.int64))


def test_errors_by_hand():
    # errors +1, -2, 0: mae 3/3 = 1, rmse sqrt(5/3); truth 1, 4, 4 has mean 3 and squares 4+1+1 = 6: r2 = 1 - 5/6
    found = RegressTask().summarise(answers(("1", "2"), ("4", "about 2"), ("4", "4.0")))["metrics"]
    assert found == pytest.approx({"mae": 1.0, "rmse": (5 / 3) ** 0.5, "r2": 1 / 6, "answered": 1.0})


def test_an_answer_without_a_number_is_no_answer():
    found = RegressTask().summarise(answers(("1", "2"), ("4", "I cannot say")))["metrics"]
    assert (found["mae"], found["answered"], found["r2"]) == (1.0, 0.5, None)
    nothing = RegressTask().summarise(answers(("1", "no"), ("4", "")))["metrics"]
    assert nothing == {"mae": None, "rmse": None, "r2": None, "answered": 0.0}


def test_resamples_are_the_same_figures_on_other_rows():
    made = answers(("1", "2"), ("4", "2"), ("5", "4.5"))
    statistics = RegressTask().statistics(made)
    twice = statistics(np.array([[0, 0, 1]]))
    again = RegressTask().summarise(answers(("1", "2"), ("1", "2"), ("4", "2")))["metrics"]
    assert {name: value[0] for name, value in twice.items()} == pytest.approx(again)


def test_a_figure_that_most_resamples_do_not_have_gets_no_interval():
    """Two of the base's answers are numbers, so R² is none on many resamples; it is told and not computed."""
    from luthier.evaluation import report
    from luthier.evaluation.predictions import table
    from luthier.evaluation.spec import EvaluateSpec

    def line(system, i, said):
        return {"id": f"{i}", "model": system, "reference": str(i), "prediction": said, "loss_sum": None,
                "loss_tokens": 0}  # fmt: skip

    lines = [line("tuned", i, str(i + i % 2)) for i in range(6)]
    lines += [line("base", i, str(i) if i < 2 else "who knows") for i in range(6)]
    questions = [Question(f"{i}", ({"role": "user", "content": "?"},), str(i)) for i in range(6)]
    task = {"kind": "regress", "labels": None}
    told = report.build(table(lines), task, EvaluateSpec(against=["base"]), questions, {})
    json.dumps(told, allow_nan=False)
    assert set(told["systems"]["tuned"]["intervals"]) >= {"mae", "rmse", "r2"}
    assert "r2" not in told["systems"]["base"]["intervals"] and told["systems"]["base"]["metrics"]["r2"] == 1
    assert "r2" not in {one["metric"] for one in told["comparisons"]}
    assert any(one.startswith("mae, rmse, r2 of base: too few") for one in told["cautions"])


def test_what_rounding_leaves_of_equal_numbers_is_no_spread():
    """Nine of ten truths are 0.3, whose mean is not 0.3 exactly."""
    pairs = [("0.3", "0.31")] * 9 + [("0.7", "0.6")]
    statistics = RegressTask().statistics(answers(*pairs))
    assert np.isnan(statistics(np.zeros((1, 10), np.int64))["r2"][0])
    found = RegressTask().summarise(answers(*pairs[:9]))["metrics"]
    assert found["r2"] is None and found["mae"] == pytest.approx(0.01)


def test_word_counts_find_what_a_word_is_worth():
    def chat(text, value=None):
        turns = [{"role": "user", "content": text}]
        return [*turns, {"role": "assistant", "content": value}] if value else turns

    train = [{"messages": chat(*pair)} for pair in [("good good", "5"), ("bad bad", "1")] * 10]
    questions = [Question("a", tuple(chat("good")), "5"), Question("b", tuple(chat("bad")), "1")]
    high, low = (float(one.text) for one in RegressTask().baseline(train, questions, 0))
    assert high == pytest.approx(5, abs=0.5) and low == pytest.approx(1, abs=0.5)
