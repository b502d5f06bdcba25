import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.outputs.spec import HeldSpec
from luthier.postprocessing.spec import PostprocessSpec


def _read(text):
    return parse(PostprocessSpec, read_yaml(text, "recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("constrain: auto", "classify", "labels"),
        ("constrain: auto", "chat", None),
        ("constrain: labels", "classify", "labels"),
        ("constrain: null", "classify", None),
        ("abstain_below: 60%", "classify", "labels"),
        ("constrain: {regex: a}", "classify", HeldSpec(regex="a")),
    ],
)
def test_what_answers_are_held_to(text, kind, expected):
    assert _read(text).constrained(kind) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("constrain: labels", "constrain: labels needs labels"),
        ("calibrate: temperature", "calibrate: temperature needs labels"),
    ],
)
def test_a_chat_has_no_labels(text, told):
    with pytest.raises(SpecError, match=told):
        _read(text).constrained("chat")


def test_a_head_can_say_nothing_but_a_label():
    with pytest.raises(SpecError, match="it can say nothing but a label"):
        _read("constrain: null").constrained("classify", own_head=True)
    assert _read("constrain: auto").constrained("classify", own_head=True) == "labels"


@pytest.mark.parametrize(
    ("export", "adapter", "expected"),
    [
        (None, "lora", ("adapter",)),
        (None, "ia3", ("adapter",)),
        (None, "head", ("merged",)),
        (None, "full", ("merged",)),
        (["merged", "adapter"], "lora", ("adapter", "merged")),
        (["merged"], "full", ("merged",)),
    ],
)
def test_forms(export, adapter, expected):
    assert PostprocessSpec(export=export).forms(adapter) == expected


def test_a_full_model_has_no_adapter():
    with pytest.raises(SpecError, match=r"Write export: \[merged\]"):
        PostprocessSpec(export=["adapter"]).forms("full")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("export: [pickle]", "recipe.yaml:1: export"),
        ("export: []", "at least 1"),
        ("export: [merged, merged]", "stands twice"),
        ("abstain_below: 60", "between 0 and 1"),
        ("constrain: {regex: a, json_schema: auto}", "either regex or json_schema"),
        ("answers: [snp]", "did you mean 'snap'"),
        ("constrain: label", "'auto' or 'labels'"),
        ("abstain: 0.5", "recipe.yaml:1: abstain"),
        ("abstain: {risk: 0}", "greater than 0"),
        ("abstains: {risk: 0.1}", "did you mean"),
        ("{abstain: {risk: 0.1}, abstain_below: 0.5}", "keep one"),
    ],
)
def test_what_cannot_be_is_refused(text, told):
    with pytest.raises(SpecError, match=told):
        _read(text)


@pytest.mark.parametrize(
    ("text", "kind", "calibrates", "isotonic"),
    [
        ("constrain: auto", "classify", True, False),
        ("calibrate: isotonic", "classify", True, True),
        ("calibrate: null", "classify", False, False),
        ("constrain: auto", "chat", False, True),
        ("abstain_below: 0.5", "chat", True, True),
        ("fallback: {to: big, below: 0.5}", "chat", True, True),
        ("fallback: {to: big}", "chat", False, True),
        ("{constrain: null, abstain: {risk: 0.1}}", "classify", True, True),
    ],
)
def test_when_confidence_is_looked_at(text, kind, calibrates, isotonic):
    spec = _read(text)
    assert (spec.calibrating(kind), spec.isotonic(kind)) == (
        calibrates,
        isotonic or spec.calibrate == "isotonic",
    )


@pytest.mark.parametrize(
    ("text", "kind", "head", "told"),
    [
        ("vote: {samples: 3}", "classify", False, "the probability of each label is known"),
        ("vote: {samples: 3}", "regress", True, "gives a number"),
        ("constrain: {regex: a}", "classify", True, "gives a label"),
        ("abstain_below: 0.5", "regress", True, "gives a number"),
    ],
)
def test_wishes_that_do_not_fit_the_model(text, kind, head, told):
    with pytest.raises(SpecError, match=told):
        _read(text).answering(kind, head)


def test_all_is_checked_before_anything_is_spent():
    def nothing_there(name):
        raise SpecError(f"{name} cannot be read.", remedy="x")

    task = {"kind": "chat", "labels": None}
    for text, told in (
        ("answers: [snap]", "this chat task has none"),
        ("answers: [{schema: {schema: a.json}}]", "a.json cannot be read"),
        ("answers: [{banned: {file: b.txt}}]", "b.txt cannot be read"),
        ("constrain: {json_schema: auto}", "takes the schema of the task"),
        ("constrain: {json_schema: {not: {}}}", "cannot be held to"),
        ("constrain: {regex: 'a('}", "unclosed group"),
    ):
        with pytest.raises(SpecError, match=told):
            _read(text).check(task, nothing_there)
    _read("{answers: [json, {snap: {labels: [a, b]}}], constrain: {regex: 'a|b'}}").check(task, nothing_there)
