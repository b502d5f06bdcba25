"""A report from predictions alone, on a table small enough to check by eye."""

import json

from luthier.evaluation import predictions, report
from luthier.evaluation.questions import Question, Skipped
from luthier.evaluation.spec import EvaluateSpec

TASK = {"kind": "classify", "instruction": None, "labels": ["a", "b", "c"]}
SPEC = EvaluateSpec(against=["base"], metrics=["accuracy", "macro_f1"], resamples=200)


def _question(i, reference="a"):
    return Question(
        f"{i:02}", ({"role": "system", "content": "S"}, {"role": "user", "content": f"Q{i}"}), reference
    )


def _lines(questions, tuned, base):
    return [
        {"id": q.id, "model": model, "reference": q.reference, "prediction": p, "correct": p == q.reference}
        for model, said in (("tuned", tuned), ("base", base))
        for q, p in zip(questions, said, strict=True)
    ]


def _build(questions, tuned, base, skipped=None, spec=SPEC):
    return report.build(
        predictions.table(_lines(questions, tuned, base)), TASK, spec, questions, skipped or {}
    )


def test_the_report_holds_what_was_asked_and_nothing_that_json_cannot():
    questions = [_question(i, r) for i, r in enumerate("aabb")]
    found = _build(questions, "aabb", "abab")
    assert found["systems"]["tuned"]["metrics"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert found["systems"]["base"]["metrics"] == {"accuracy": 0.5, "macro_f1": 0.5}
    assert found["systems"]["tuned"]["intervals"] == {"accuracy": [1.0, 1.0], "macro_f1": [1.0, 1.0]}
    assert [(c["metric"], c["difference"]) for c in found["comparisons"]] == [
        ("accuracy", 0.5),
        ("macro_f1", 0.5),
    ]
    assert found == json.loads(json.dumps(found, allow_nan=False))


def test_ten_examples_five_better_three_worse_two_the_same():
    questions = [_question(i) for i in range(30)]
    tuned, base = "a" * 10 + "b" * 10 + "a" * 10, "b" * 10 + "a" * 20  # ten better, ten worse, ten the same
    shown = _build(questions, tuned, base)["examples"]
    assert [one["change"] for one in shown] == ["improved"] * 5 + ["regressed"] * 3 + ["same"] * 2
    assert shown == _build(questions, tuned, base)["examples"]
    assert shown[0]["answers"] == {"tuned": "a", "base": "b"}
    assert shown[0]["prompt"] == f"Q{int(shown[0]['id'])}"


def test_a_group_that_is_short_is_filled_from_the_others():
    questions = [_question(i) for i in range(30)]
    shown = _build(questions, "a" * 30, "b" + "a" * 29)["examples"]
    assert [one["change"] for one in shown] == ["improved"] + ["same"] * 9


def test_every_turn_of_a_longer_prompt_is_shown():
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "bye")]
    question = Question("1", tuple({"role": r, "content": c} for r, c in turns), "a")
    (shown,) = _build([question], "a", "a")["examples"]
    assert shown["prompt"] == "user: hi\nassistant: hello\nuser: bye"


def test_cautions_say_what_a_reader_must_know():
    questions = [_question(i, r) for i, r in enumerate("aaaaaab")]
    told = _build(
        questions, "aaaaaab", "aaaaaab", {"base": [Skipped("03", "600 tokens, and the context holds 512")]}
    )
    assert told["cautions"] == [
        "The test split has only 7 rows: the intervals are wide, and of so few rows not quite reliable.",
        "No test row has these labels, so nothing is known about them: 'c'.",
        "Fewer than 5 test rows have these labels: 'b' (1).",
        "Row 03 was not asked of base: 600 tokens, and the context holds 512. Nothing was cut.",
    ]


def test_disliked_rows_are_counted():
    questions = [_question(i, "abc"[i % 3]) for i in range(30)]
    lines = _lines(questions, "abc" * 10, "abc" * 10)
    told = report.build(predictions.table(lines), TASK, SPEC, questions, {}, disliked=12)
    assert told["cautions"] == [
        "12 rows of the test split are rated 0 or less: their answers are no references, so they were not asked."
    ]


def test_a_system_with_nothing_to_answer_is_named():
    spec = EvaluateSpec(against=["base", "base_3shot"], metrics=["accuracy"], resamples=200)
    questions = [_question(i) for i in range(40)]
    told = _build(questions, "a" * 40, "a" * 40, spec=spec)["cautions"]
    assert "base_3shot was not measured: there was nothing to ask it." in told


def test_thirty_rows_of_every_label_need_no_caution():
    questions = [_question(i, "abc"[i % 3]) for i in range(30)]
    assert _build(questions, "abc" * 10, "abc" * 10)["cautions"] == []


def test_plain_texts_count_for_perplexity_alone():
    task = {"kind": "chat", "instruction": None, "labels": None}
    texts = [Question(f"{i:02}", None, "some text") for i in range(30)]
    lines = [
        {"id": q.id, "model": model, "reference": q.reference, "loss_sum": loss, "loss_tokens": 2}
        for model, loss in (("tuned", 0.0), ("base", 2.0))
        for q in texts
    ]
    found = report.build(
        predictions.table(lines), task, EvaluateSpec(against=["base"], resamples=200), texts, {}
    )
    # perplexity exp(0/2) = 1 and exp(2/2) = e
    told = found["systems"]["tuned"]["metrics"]
    assert {name: value for name, value in told.items() if value is not None} == {"perplexity": 1.0}
    assert [c["metric"] for c in found["comparisons"]] == ["perplexity"]
    assert round(found["comparisons"][0]["difference"], 6) == round(1 - 2.718281828, 6)
    assert found["examples"] == []
    assert found["cautions"] == [
        "30 rows are plain texts: they have no question, so they count for perplexity alone."
    ]
