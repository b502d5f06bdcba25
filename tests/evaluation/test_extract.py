"""A tiny model asked for JSON: the whole report of `task: extract`, and the page and the card that show it."""

from __future__ import annotations

import json

import pytest

from luthier.app.report.facts import RunFacts
from luthier.app.report.page import render
from luthier.evaluation import suite, validation
from luthier.evaluation.spec import EvaluateSpec
from luthier.governance.card import card
from luthier.outputs.spec import AnsweringSpec

pytest.importorskip("jsonschema")


@pytest.fixture
def kind():
    return "extract"


def test_the_report_the_page_and_the_card_tell_of_fields(world, tmp_path):
    out, output = world.run(suite.STAGE, EvaluateSpec(resamples=200, max_tokens=8, dtype="fp32"), tmp_path)
    found = json.loads((out / "report.json").read_text())
    assert list(found["systems"]) == ["tuned", "base", "base_3shot"]
    assert found["systems"]["tuned"]["metrics"]["valid_json"] == 0.0  # it has learnt nothing
    assert found["systems"]["tuned"]["per_field"]["queue"]["support"] == 12
    assert found["systems"]["tuned"]["metrics"]["perplexity"] > 1
    assert output.summary["tuned"]["field_f1"] == 0.0
    assert not any("do not meet the schema" in one for one in found["cautions"])
    assert {one["metric"] for one in found["slices"]} <= {"object_f1"}
    assert any(
        "12 of 12 reference answers have more tokens than evaluate.max_tokens (8)" in one
        for one in found["cautions"]
    )
    page = render(RunFacts(name="n", report=found))
    assert "Field by field" in page and "queue" in page
    told = card({"name": "n", "task": found["task"], "report": found})
    assert "| Field | Precision | Recall | F1 | In references |" in told


def test_a_search_is_led_by_field_f1(world, tmp_path):
    assert validation.lead("extract", None) == "field_f1"
    spec = validation.ValidateSpec(metric="field_f1", max_tokens=8)
    _, output = world.run(validation.STAGE, spec, tmp_path)
    assert output.summary == {"field_f1": 0.0, "rows": 12}


def test_a_trial_is_judged_by_answers_as_they_will_be_served(world, tmp_path):
    pytest.importorskip("llguidance")
    told = {"metric": "valid_json", "max_tokens": 40}
    _, bare = world.run(validation.STAGE, validation.ValidateSpec(**told), tmp_path, "bare")
    held = AnsweringSpec(constrain={"regex": '[{]"queue": "(a|b)"[}]'})
    _, served = world.run(
        validation.STAGE, validation.ValidateSpec(**told, answering=held), tmp_path, "served"
    )
    assert (bare.summary["valid_json"], served.summary["valid_json"]) == (0.0, 1.0)
    assert (
        "answering" not in validation.ValidateSpec(**told).plain()
    )  # what was judged before keeps its identity
