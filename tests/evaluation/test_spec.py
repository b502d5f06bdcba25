import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.evaluation.spec import EvaluateSection, EvaluateSpec


def _read(text):
    return parse(EvaluateSection, read_yaml(text, "recipe.yaml"))


def test_defaults_are_what_applies():
    spec = EvaluateSpec()
    assert spec.systems("classify") == ("tuned", "base", "base_3shot", "tfidf")
    assert spec.systems("chat") == ("tuned", "base", "base_3shot")
    assert spec.measured("chat") == (
        "exact_match", "token_f1", "rouge_l", "chrf", "bleu", "length_error", "refused", "pii_said", "perplexity"
    )  # fmt: skip


def test_the_order_of_systems_and_metrics_is_fixed():
    spec = EvaluateSpec(against=["tfidf", "base"], metrics=["macro_f1", "accuracy"])
    assert spec.systems("classify") == ("tuned", "base", "tfidf")
    assert spec.measured("classify") == ("accuracy", "macro_f1")


def test_the_gate_is_no_part_of_the_measuring():
    loose, strict = _read("gate: {macro_f1: {at_least: 0.1}}"), _read("gate: {macro_f1: {at_least: 0.9}}")
    assert loose.measuring().plain() == strict.measuring().plain() == EvaluateSpec().plain()


def test_what_was_trained_in_a_chosen_number_format_is_measured_in_it():
    assert (
        EvaluateSection().measuring("fp32").dtype == "fp32"
        and EvaluateSection().measuring("auto").dtype == "auto"
    )
    assert EvaluateSection(dtype="bf16").measuring("fp32").dtype == "bf16"


def test_a_rule_is_read_as_written():
    rule = _read("gate: {macro_f1: {at_least: 0.85, better_than: base, confidence: 0.95}}").gate["macro_f1"]
    assert (rule.at_least, rule.better_than, rule.by, rule.confidence) == (0.85, "base", None, 0.95)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "seed: 1\ngate:\n  macrof1: {at_least: 1}",
            r"recipe.yaml:3: .*no metric 'macrof1'; did you mean 'macro_f1'",
        ),
        ("gate: {macro_f1: {atleast: 1}}", "did you mean 'at_least'"),
        ("gate: {macro_f1: {}}", "this rule asks nothing"),
        ("gate: {macro_f1: {at_least: 0.5, by: 0.1}}", "belong to better_than"),
        ("gate: {macro_f1: {at_least: 0.5, confidence: 0.9}}", "belong to better_than"),
        ("gate: {macro_f1: {at_least: 0.5, at_most: 0.4}}", "no value is at least 0.5 and at most 0.4"),
        ("gate: {macro_f1: {better_than: bsae}}", "'base', 'base_3shot' or 'tfidf'"),
        ("gate: {macro_f1: {better_than: base, by: -1}}", "greater than or equal to 0"),
        ("metrics: [f1]", "there is no metric 'f1'; did you mean 'macro_f1'|known: "),
        ("metrics: [accuracy, accuracy]", "stands twice"),
        ("against: [base, base]", "stands twice"),
        ("confidence: 95", "less than 1"),
        ("resamples: 10", "greater than or equal to 200"),
    ],
)
def test_what_cannot_be_is_refused(text, told):
    with pytest.raises(SpecError, match=told):
        _read(text)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (EvaluateSpec(against=["tfidf"]), "tfidf cannot do a chat task"),
        (EvaluateSpec(metrics=["macro_f1"]), "macro_f1 says nothing about a chat task"),
    ],
)
def test_what_does_not_apply_to_the_task_is_refused(spec, told):
    with pytest.raises(SpecError, match=told):
        spec.systems("chat")
        spec.measured("chat")
