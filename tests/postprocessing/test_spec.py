import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
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
    ],
)
def test_what_answers_are_held_to(text, kind, expected):
    assert _read(text).constrained(kind) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("constrain: labels", "constrain: labels needs labels"),
        ("abstain_below: 0.5", "abstain_below needs labels"),
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
        ("export: [gguf]", "recipe.yaml:1: export"),
        ("export: []", "at least 1"),
        ("export: [merged, merged]", "stands twice"),
        ("abstain_below: 60", "between 0 and 1"),
        ("{constrain: null, abstain_below: 0.5}", "set `constrain: labels`"),
        ("constrain: label", "'auto' or 'labels'"),
        ("abstain: 0.5", "recipe.yaml:1: abstain"),
        ("abstain: {risk: 0}", "greater than 0"),
        ("abstains: {risk: 0.1}", "did you mean"),
        ("{abstain: {risk: 0.1}, abstain_below: 0.5}", "keep one"),
        ("{constrain: null, abstain: {risk: 0.1}}", "set `constrain: labels`"),
    ],
)
def test_what_cannot_be_is_refused(text, told):
    with pytest.raises(SpecError, match=told):
        _read(text)
