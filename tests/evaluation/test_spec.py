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
        "exact_match", "token_f1", "rouge_l", "chrf", "bleu", "length_error", "refused", "similarity", "call_match", "call_name",
        "call_valid", "call_when_due", "code_parses", "preferred", "reward_accuracy", "pii_said", "perplexity"
    )  # fmt: skip
    assert spec.systems("extract") == ("tuned", "base", "base_3shot")
    assert spec.measured("extract") == (
        "field_f1", "field_precision", "field_recall", "object_f1", "exact_object", "schema_valid", "valid_json", "perplexity"
    )  # fmt: skip


def test_every_kind_of_task_is_known_wherever_kinds_are_listed():
    from typing import get_args

    from luthier.app.report.verdict import PREFERRED
    from luthier.core.plugin import BUILT_IN
    from luthier.data.task import TaskSpec
    from luthier.evaluation.report import LEADS
    from luthier.evaluation.spec import APPLIES, METRICS, SLICED
    from luthier.evaluation.validation import lead

    kinds = get_args(TaskSpec.model_fields["kind"].annotation)
    for listed in (PREFERRED, BUILT_IN["task"], LEADS, APPLIES, SLICED):
        assert set(listed) == set(kinds)
    for kind in kinds:
        assert {kind} <= set(METRICS[lead(kind, None)].kinds) & set(METRICS[SLICED[kind]].kinds)


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
        ("gate: {macro_f1: {better_than: base, by: -1}}", "greater than or equal to 0"),
        ("metrics: [f1]", "there is no metric 'f1'; did you mean 'macro_f1'|known: "),
        ("metrics: [accuracy, accuracy]", "stands twice"),
        ("against: [base, base]", "stands twice"),
        ("against: [bsae]", r"recipe.yaml:1: .*there is no system 'bsae'; did you mean 'base'"),
        ("against: [{relaese: router@1, name: old}]", "a system is base, base_3shot, tfidf, production"),
        ("against: [{release: router@1, nmae: old}]", "did you mean 'name'"),
        (
            "against: [{release: router@1, name: tuned}]",
            "'tuned' is the name of a system that is always called so",
        ),
        ("against: [{release: router@1, name: base}]", "always called so"),
        ("against: [{release: router@1, name: 'A B'}]", "cannot be a name"),
        ("against: [{release: a@1, name: x}, {base: b, name: x}]", "stands twice"),
        ("against: [router@1, router@1]", "stands twice"),
        ("against: [{endpoint: 'http://other/v1', model: m, name: gpt}]", "write allow_host: other"),
        (
            "against: [{endpoint: 'http://localhost/v1', model: m, name: gpt, key: secret}]",
            "a key is not written",
        ),
        (
            "against: [{endpoint: 'http://localhost/v1', model: m, name: gpt, budget: {money: 1 USD}}]",
            "a budget of money needs a price",
        ),
        ("confidence: 95", "less than 1"),
        ("resamples: 10", "greater than or equal to 200"),
    ],
)
def test_what_cannot_be_is_refused(text, told):
    with pytest.raises(SpecError, match=told):
        _read(text)


ALL = """against:
  - router@3
  - tfidf
  - production
  - {release: 0123456789ab, name: candidate}
  - {base: smollm2-360m-instruct, name: bigger}
  - {endpoint: "http://localhost:8000/v1", model: gpt-x, name: gpt, key: "${LLM_KEY}", budget: {requests: 10, time: 1 min}}
"""


def test_systems_are_told_ours_first_then_by_name():
    spec = _read(ALL)
    names = ("tuned", "tfidf", "production", "bigger", "candidate", "gpt", "router@3")
    assert spec.systems("classify") == names
    kinds = ("tuned", "tfidf", "model", "model", "model", "endpoint", "model")
    assert tuple(map(spec.kind_of, names)) == kinds
    assert set(spec.named) == set(names[2:])


def test_what_asking_may_cost_is_no_part_of_what_is_measured_but_its_price_is():
    spec = _read(ALL)
    assert EvaluateSpec.model_validate(spec.measuring().plain()).systems("classify") == spec.systems(
        "classify"
    )
    more = _read(ALL.replace("requests: 10", "requests: 20").replace("key:", "tries: 2, key:"))
    assert more.measuring().plain() == spec.measuring().plain()
    dearer = _read(ALL.replace("key:", "price: {input: 1 USD, output: 1 USD}, key:"))
    assert dearer.measuring().plain() != spec.measuring().plain()
    assert "${LLM_KEY}" in str(spec.measuring().plain())


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
