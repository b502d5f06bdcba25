"""The gate as a table: what is asked, what was measured, what it says."""

import pytest

from luthier.core.errors import GateFailed, SpecError
from luthier.core.units import Money
from luthier.evaluation.spec import EvaluateSection, EvaluateSpec, GateRule
from luthier.governance.policy import check, check_prices, judge, permit, written

REPORT = {
    "systems": {"tuned": {"metrics": {"accuracy": 0.9, "macro_f1": 0.8, "perplexity": 5.0, "exact_match": None}}},
    "comparisons": [
        {"metric": "macro_f1", "of": "tuned", "to": "base", "difference": 0.3, "low": 0.2, "high": 0.4,
         "confidence": 0.95, "rows": 100},
        {"metric": "macro_f1", "of": "tuned", "to": "tfidf", "difference": -0.05, "low": -0.1, "high": 0.01,
         "confidence": 0.95, "rows": 100},
        {"metric": "perplexity", "of": "tuned", "to": "base", "difference": -3.0, "low": -4.0, "high": -2.0,
         "confidence": 0.95, "rows": 100},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "rule", "passed", "reason"),
    [
        ("macro_f1", {"at_least": 0.8}, True, "it is 0.8"),
        ("macro_f1", {"at_least": 0.85}, False, "it is 0.8; 0.05 more would pass"),
        ("perplexity", {"at_most": 5}, True, "it is 5"),
        ("perplexity", {"at_most": 4.5}, False, "it is 5; 0.5 less would pass"),
        ("macro_f1", {"better_than": "base"}, True, "the gain is +0.3 (95 % interval +0.2 to +0.4)"),
        (
            "macro_f1",
            {"better_than": "base", "by": 0.19},
            True,
            "the gain is +0.3 (95 % interval +0.2 to +0.4)",
        ),
        # the lower bound must be above the margin, not at it; half-width below the gain is 0.1, and so is the
        # distance to the margin: (0.1 / 0.1)**2 = 1 time the rows, plus the one that rounding up needs
        (
            "macro_f1",
            {"better_than": "base", "by": 0.2},
            False,
            "the gain is +0.3 (95 % interval +0.2 to +0.4); the whole interval must lie above 0.2: a better model would pass, "
            "or about 101 test rows instead of 100 if the gain holds",
        ),
        # half-width 0.1 against a distance of 0.05: four times the rows
        (
            "macro_f1",
            {"better_than": "base", "by": 0.25},
            False,
            "the gain is +0.3 (95 % interval +0.2 to +0.4); the whole interval must lie above 0.25: a better model would pass, "
            "or about 401 test rows instead of 100 if the gain holds",
        ),
        # more rows would not help where the gain itself is short
        (
            "macro_f1",
            {"better_than": "tfidf"},
            False,
            "the gain is -0.05 (95 % interval -0.1 to +0.01); the whole interval must lie above 0: a better model would pass",
        ),
        # lower is better: the gain of perplexity is what it lost
        ("perplexity", {"better_than": "base", "by": 1.5}, True, "the gain is +3 (95 % interval +2 to +4)"),
        ("exact_match", {"at_least": 0.1}, False, "the report has no exact_match of the tuned model"),
        (
            "accuracy",
            {"better_than": "base"},
            False,
            "the report does not compare accuracy with base; its cautions say why",
        ),
        (
            "macro_f1",
            {"better_than": "base", "confidence": 0.99},
            False,
            "the report's intervals are at 0.95, and 0.99 is asked",
        ),
    ],
)
def test_one_rule(metric, rule, passed, reason):
    (verdict,) = judge({metric: GateRule(**rule)}, REPORT)
    assert (verdict.passed, verdict.reason) == (passed, reason)


def test_a_miss_by_less_than_four_decimals_still_shows():
    report = {"systems": {"tuned": {"metrics": {"macro_f1": 0.79999}}}, "comparisons": []}
    (verdict,) = judge({"macro_f1": GateRule(at_least=0.8)}, report)
    assert "it is 0.79999;" in verdict.reason


def test_every_bound_has_its_own_verdict():
    rule = GateRule(at_least=0.85, at_most=0.95, better_than="base", by=0.1)
    verdicts = judge({"macro_f1": rule, "accuracy": GateRule(at_least=0.5)}, REPORT)
    assert [(v.metric, v.rule, v.passed) for v in verdicts] == [
        ("macro_f1", "at least 0.85", False),
        ("macro_f1", "at most 0.95", True),
        ("macro_f1", "better than base by more than 0.1", True),
        ("accuracy", "at least 0.5", True),
    ]


def test_permit_passes_or_stops_with_every_number():
    permit([])
    permit(judge({"macro_f1": GateRule(at_least=0.8)}, REPORT))
    gate = {"macro_f1": GateRule(at_least=0.85, better_than="tfidf"), "accuracy": GateRule(at_least=0.5)}
    with pytest.raises(GateFailed) as stopped:
        permit(judge(gate, REPORT))
    assert str(stopped.value).splitlines()[:3] == [
        "the gate stopped the line: 2 of 3 rules failed.",
        "  ✗ macro_f1 at least 0.85: it is 0.8; 0.05 more would pass",
        "  ✗ macro_f1 better than tfidf: the gain is -0.05 (95 % interval -0.1 to +0.01); "
        "the whole interval must lie above 0: a better model would pass",
    ]
    assert stopped.value.exit_code == 7


def test_check_lets_through_what_will_be_measured():
    check(
        {"macro_f1": GateRule(better_than="tfidf"), "perplexity": GateRule(better_than="base")},
        "classify",
        EvaluateSpec(),
    )
    check(
        {"macro_f1": GateRule(better_than="base", confidence=0.9)}, "classify", EvaluateSpec(confidence=0.9)
    )


def test_a_head_of_its_own_has_no_perplexity():
    gate = {"perplexity": GateRule(at_most=5)}
    check(gate, "classify", EvaluateSpec())
    with pytest.raises(
        SpecError, match=r"perplexity is of a language model's tokens(.|\n)*Gate on another metric"
    ):
        check(gate, "classify", EvaluateSpec(), own_head=True)
    check({"accuracy": GateRule(at_least=0.5)}, "classify", EvaluateSpec(), own_head=True)


@pytest.mark.parametrize(
    ("gate", "kind", "evaluate", "told"),
    [
        (
            {"macro_f1": {"at_least": 1}},
            "chat",
            {},
            "'macro_f1' is not measured .* chat task.\n.*known: bleu, call_match, call_name, ",
        ),
        ({"macro_f1": {"at_least": 1}}, "classify", {"metrics": ["accuracy"]}, "known: accuracy"),
        ({"token_f1": {"better_than": "tfidf"}}, "chat", {}, "better_than 'tfidf', which is not measured"),
        (
            {"macro_f1": {"better_than": "base"}},
            "classify",
            {"against": ["base_3shot"]},
            "known: base_3shot",
        ),
        (
            {"perplexity": {"better_than": "tfidf"}},
            "classify",
            {},
            "tfidf has no perplexity.\n.*Compare it with base",
        ),
        (
            {"macro_f1": {"better_than": "base", "confidence": 0.99}},
            "classify",
            {},
            "Set evaluate.confidence: 0.99",
        ),
        (
            {"general_accuracy": {"every_slice": 0.5}},
            "classify",
            {"general": "auto"},
            "rows beside the task.\n.*Write at_least",
        ),
        (
            {"macro_f1": {"every_slice": 0.5}},
            "classify",
            {"metrics": ["macro_f1"]},
            "leaves out accuracy.*\n.*Add accuracy",
        ),
    ],
)
def test_check_refuses_what_cannot_be_judged_before_anything_runs(gate, kind, evaluate, told):
    rules = {metric: GateRule(**rule) for metric, rule in gate.items()}
    with pytest.raises(SpecError, match=told):
        check(rules, kind, EvaluateSpec(**evaluate))


def _timed(**more):
    return {**REPORT, "systems": {"tuned": {**REPORT["systems"]["tuned"], **more}}}


@pytest.mark.parametrize(
    ("rule", "more", "passed", "reason"),
    [
        ({"latency": {"p95": {"at_most": "300 ms"}}}, {}, False, "the report has no latency of the tuned model"),
        (
            {"latency": {"p95": {"at_most": "300 ms"}}},
            {"latency": {"median_s": 0.1, "p95_s": 0.35, "machine": "box, 2 cores"}},
            False,
            "it is 350 ms on box, 2 cores; 50 ms less would pass",
        ),
        (
            {"latency": {"median": {"at_most": "1 s"}}},
            {"latency": {"median_s": 0.1, "p95_s": 0.35}},
            True,
            "it is 100 ms on a machine that the report does not name",
        ),
        ({"cost": {"per_1000": {"at_most": "0.10 USD"}}}, {}, False, "the report has no cost of the tuned model's answers"),
        (
            {"cost": {"per_1000": {"at_most": "0.10 USD"}}},
            {"cost": {"per_1000": 0.25, "currency": "USD"}},
            False,
            "it is 0.25 USD; 0.15 USD less would pass",
        ),
        ({"cost": {"per_1000": {"at_most": "0.10 USD"}}}, {"cost": {"per_1000": 0.05, "currency": "USD"}}, True, "it is 0.05 USD"),
        (
            {"cost": {"per_1000": {"at_most": "0.10 USD"}}},
            {"cost": {"per_1000": 0.05, "currency": "EUR"}},
            False,
            "the report counts in EUR, and nothing is converted; write the bound in it",
        ),
    ],
)  # fmt: skip
def test_what_answering_took(rule, more, passed, reason):
    gate = EvaluateSection.model_validate({"gate": rule}).gate
    (verdict,) = judge(gate, _timed(**more))
    assert (verdict.passed, verdict.reason) == (passed, reason)


def test_rules_are_told_before_anything_is_measured():
    gate = EvaluateSection.model_validate(
        {
            "gate": {
                "macro_f1": {"at_least": 0.8, "better_than": "base"},
                "latency": {"p95": {"at_most": "2 s"}},
            }
        }
    ).gate
    assert written(gate) == [
        ("macro_f1", "at least 0.8"),
        ("macro_f1", "better than base"),
        ("latency", "p95 at most 2 s"),
    ]


@pytest.mark.parametrize(
    ("metric", "kind", "more", "told"),
    [
        ("exposure", "chat", {"canaries": False}, "no secret whose exposure"),
        ("extracted", "classify", {}, "not measured of a classify task"),
        ("membership_auc", "chat", {"own_head": True}, "head of its own"),
    ],
)
def test_a_gate_on_memory_that_cannot_be_measured_is_refused(metric, kind, more, told):
    section = EvaluateSection.model_validate({"gate": {metric: {"at_most": 0.6}}})
    with pytest.raises(SpecError, match=told):
        check(section.gate, kind, section, **more)


def test_a_gate_on_memory_switches_its_measuring_on():
    section = EvaluateSection.model_validate({"gate": {"membership_auc": {"at_most": 0.6}}})
    assert section.memorisation is None and section.measuring().remembered("classify") == ("membership_auc",)
    check(section.gate, "classify", section)
    assert EvaluateSection().measuring().memorisation is None


@pytest.mark.parametrize(
    "gate", [{"latency": {"p95": {"at_most": "1 s"}}}, {"cost": {"per_1000": {"at_most": "1 USD"}}}]
)
def test_a_gate_on_what_an_answer_takes_switches_the_timing_on(gate):
    section = EvaluateSection.model_validate({"gate": gate})
    check(section.gate, "classify", section)
    assert section.timed == 0 and section.measuring().timed == 20
    few = EvaluateSection.model_validate({"gate": gate, "timed_rows": 3})
    assert few.measuring().timed == 3
    named = EvaluateSection.model_validate({"gate": gate, "against": ["production"]})
    assert named.measuring() == EvaluateSection.model_validate({"against": ["production"]}).measuring()
    none = EvaluateSection.model_validate({"gate": gate, "timed_rows": 0})
    with pytest.raises(SpecError, match="timed_rows is 0"):
        check(none.gate, "classify", none)


def test_a_gate_on_cost_needs_the_machines_price_in_its_currency():
    gate = EvaluateSection.model_validate({"gate": {"cost": {"per_1000": {"at_most": "1 USD"}}}}).gate
    check_prices(gate, Money(2.0, "USD"))
    check_prices({}, None)
    with pytest.raises(SpecError, match=r"hour of this machine costs is not known(.|\n)*budget.machine"):
        check_prices(gate, None)
    with pytest.raises(SpecError, match=r"costs 2.00 EUR(.|\n)*Write the bound in EUR"):
        check_prices(gate, Money(2.0, "EUR"))


def test_the_reason_why_nothing_was_measured_is_told():
    report = {**REPORT, "memorisation": {"extraction": {"why": "answers are short"}}}
    (verdict,) = judge({"extracted": GateRule(at_most=0)}, report)
    assert verdict.reason == "the report has no extracted of the tuned model: answers are short"
