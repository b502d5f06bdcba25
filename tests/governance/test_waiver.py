"""A waiver lets through what it names, of the report it names, and nothing else."""

import pytest

from luthier.core.errors import GateFailed, SpecError
from luthier.core.event import Event
from luthier.evaluation.spec import EvaluateSection
from luthier.governance import waiver
from luthier.governance.policy import judge, permit
from luthier.governance.waiver import Asked, WaiverSpec

WHY = "The pilot needs it before the next labels arrive."
REPORT = {
    "systems": {"tuned": {"metrics": {"accuracy": 0.7, "macro_f1": 0.6, "pii_said": 0.2}, "intervals": {"macro_f1": [0.5, 0.7]}}},
    "comparisons": [], "slices": [], "confidence": 0.95,
}  # fmt: skip
GATE = EvaluateSection.model_validate(
    {
        "gate": {
            "accuracy": {"at_least": 0.5},
            "macro_f1": {"at_least": 0.8},
            "pii_said": {"at_most": 0, "waivable": False},
        }
    }
).gate
VERDICTS = judge(GATE, REPORT)


def asked(*metrics):
    return Asked.of(metrics, WHY, "Ann Example")


def granted(digest="a" * 64, before=()):
    return waiver.grant(asked("macro_f1"), VERDICTS, digest, before)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((("macro_f1",), None, "Ann"), "needs a reason"),
        ((("macro_f1",), "", "Ann"), "needs a reason"),
        ((("macro_f1",), "ok", "Ann"), "'ok' says too little"),
        ((("macro_f1",), "aaaaaaaaaaaaaaaaaaaa", "Ann"), "says too little"),
        ((("macro_f1",), WHY, None), "needs the name"),
        ((("macro_f1",), WHY, " "), "needs the name"),
        ((("macro_f1", "macro_f1"), WHY, "Ann"), "twice"),
        (((), WHY, None), "no rule that they are for"),
        ((("macro_f1",), WHY + "\u202e", "Ann"), "U+202E"),
        ((("macro_f1",), WHY * 50, "Ann"), "characters"),
    ],
)
def test_a_waiver_has_a_reason_and_a_person(words, told):
    with pytest.raises(SpecError, match=told.replace("+", r"\+")):
        Asked.of(*words)


def test_who_runs_it_will_do_only_where_that_is_said():
    assert Asked.of(("macro_f1",), WHY, None, "ann").identified
    assert not asked("macro_f1").identified and Asked.of((), None, None) is None
    with pytest.raises(SpecError, match="both say"):
        Asked.of(("macro_f1",), WHY, "Ann", "ann")


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("macro_f2", "no such rule.*\n.*macro_f1"),
        ("accuracy", "the rule holds"),
        ("pii_said", "may not be waived"),
    ],
)
def test_only_a_broken_rule_that_may_be_waived_can_be(metric, told):
    with pytest.raises(SpecError, match=f"(?s){told}"):
        waiver.refuse_strangers(asked(metric), VERDICTS)


def test_it_names_the_rule_the_numbers_the_report_and_the_person():
    (one,), facts = granted()
    assert (one.metric, one.rule, one.by, one.because) == ("macro_f1", "at least 0.8", "Ann Example", WHY)
    assert one.verdict == "it is 0.6 (95 % interval 0.5 to 0.7); 0.2 more would pass"
    assert one.report == "a" * 64 and facts["waivers"] == [one.plain()]


def test_asked_again_it_is_the_same_waiver_and_nothing_is_recorded_twice():
    first, facts = granted()
    event = Event(waiver.EVENT, "a" * 64, facts)
    again, more = granted(before=[event])
    assert again == first and more is None
    assert waiver.granted(asked("macro_f1"), "a" * 64, [event]) == first
    other = Asked.of(("macro_f1",), WHY, "Bob Example")
    assert waiver.granted(other, "a" * 64, [event]) == [] and waiver.granted(None, "a" * 64, [event]) == []
    assert waiver.grant(other, VERDICTS, "a" * 64, [event])[0] != first


def test_what_is_not_waived_stops_the_line_all_the_same():
    waivers, _ = granted()
    with pytest.raises(GateFailed) as stopped:
        permit(VERDICTS, lambda one: waiver.covers(waivers, one))
    assert "pii_said" in stopped.value.message and "macro_f1" not in stopped.value.message
    assert "nobody may waive it" in stopped.value.message and "redact" in stopped.value.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"report": "b" * 64}, "it is of report bbbbbbbbbbbb"),  # of another model
        ({"metric": "accuracy", "rule": "at least 0.5"}, "breaks no such rule"),  # of a rule that holds
        ({"rule": "at least 0.1"}, "breaks no such rule"),  # of a bound that nobody wrote
        ({"verdict": "it is 0.79"}, "other numbers"),
        ({"metric": "pii_said", "rule": "at most 0"}, "may not be waived"),
    ],
)
def test_a_forged_waiver_does_not_hold(change, told):
    waivers, _ = granted()
    forged = WaiverSpec(**{**waivers[0].plain(), **change})
    with pytest.raises(GateFailed, match=told):
        waiver.honest([forged], VERDICTS, "a" * 64)
    waiver.honest(waivers, VERDICTS, "a" * 64)
