"""The report's table of steps, and that it follows from the predictions and nothing else."""

import json

import pytest

from luthier.evaluation import effects, predictions, questions, suite, tasks
from luthier.evaluation.refining import Refining, second
from luthier.evaluation.refining import own as refine_own
from luthier.evaluation.suite import MeasureSpec
from luthier.evaluation.tasks import Answer
from luthier.models.call_form import CallForm
from luthier.outputs.other import Told
from luthier.outputs.spec import AnsweringSpec

WISHES = {
    "steps": {"answers": ["normalize", {"banned": {"patterns": ["[aeiou]"]}}]},
    "vote": {"constrain": {"regex": "[ab]{1,2}"}, "vote": {"samples": 3}, "answers": [{"banned": {"words": ["aa"], "do": "mask"}}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
@pytest.mark.parametrize("name", WISHES)
def test_what_steps_did_is_told_and_can_be_computed_again(world, tmp_path, name):
    spec = MeasureSpec(against=["base"], resamples=200, max_tokens=8, answering=WISHES[name])
    out, _ = world.run(suite.STAGE, spec, tmp_path)
    report = json.loads((out / "report.json").read_text())
    table = predictions.read(out / "predictions.parquet")
    asked = questions.read(world.folders["dataset"] / "test.parquet")
    refining = Refining.of(AnsweringSpec.model_validate(WISHES[name]), report["task"], 8)
    again = effects.effects(table, report["task"], refining, tasks.of(report["task"]), asked)
    assert json.loads(json.dumps(again)) == report["answers"]
    told, lines = report["answers"], [one for one in table.to_pylist() if one["model"] == "tuned"]
    assert told["metric"] == "token_f1" and told["rows"] == len(lines) == 12
    assert [one["step"] for one in told["steps"]] == [
        next(iter(s)) if isinstance(s, dict) else s for s in WISHES[name]["answers"]
    ]
    last = told["steps"][-1]
    assert last["after"] == pytest.approx(report["systems"]["tuned"]["metrics"]["token_f1"], abs=1e-9)
    assert told["refused"] == sum(one["refusal"] is not None for one in lines)
    assert all(one["prediction"] == "" and not one["correct"] for one in lines if one["refusal"])
    assert {one["raw"] for one in table.to_pylist() if one["model"] == "base"} == {None}
    if name == "vote":
        assert all(len(one["samples"]) == 3 for one in lines)
        assert told["vote"]["agreement"] == pytest.approx(sum(one["raw_probability"] for one in lines) / 12)
    else:
        assert told["steps"][1]["refused"] == told["refused"]


def test_without_steps_nothing_is_told_and_the_text_is_kept(world, tmp_path):
    out, _ = world.run(
        suite.STAGE,
        MeasureSpec(against=[], resamples=200, max_tokens=8, answering={"constrain": "labels"}),
        tmp_path,
    )
    report = json.loads((out / "report.json").read_text())
    assert report["answers"] is None
    for line in predictions.read(out / "predictions.parquet").to_pylist():
        assert line["raw"] == line["prediction"]
        assert line["raw_probability"] == line["probability"]


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_what_a_fallback_says_is_looked_at_for_private_data_and_calls(world, tmp_path):
    """The columns of a line are of the answer that is served, whoever gave it."""
    spec = AnsweringSpec.model_validate(
        {"answers": [{"banned": {"words": ["no"]}}], "fallback": {"to": "big"}}
    )
    task = {"kind": "chat", "labels": None}
    refining, part = Refining.of(spec, task, 8), tasks.of(task)
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ]
    due = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
    }
    prompt = ({"role": "user", "content": "Who?"},)
    asked = [
        questions.Question("a", prompt, "nobody"),
        questions.Question(
            "b", prompt, "f()", tools=tools, answer=due, form=CallForm("<tool_call>", "</tool_call>")
        ),
    ]
    lines = [predictions.line(one, "tuned", refining.told(Answer("no"), (), one), part) for one in asked]
    assert [one["private"] for one in lines] == [[], []] and lines[1]["calls"]["said"] is None

    class Big:
        says = iter(["Mail ann@firm.com", '{"name": "f", "arguments": {}}'])

        def ask(self, turns, max_tokens):
            return Told(next(self.says), 1, 1)

    found = second(lines, refining, Big(), asked, part, tmp_path, world.at)
    assert found[0]["prediction"] == "Mail ann@firm.com" and found[0]["private"] == ["email"]
    assert json.loads(found[1]["calls"]["said"]) == [{"name": "f", "arguments": {}}]


@pytest.mark.parametrize("do", ["mask", "refuse"])
def test_the_examples_show_no_private_data_that_a_step_takes_out(do):
    """The text before that step, and before those that stand before it, is not in the report."""
    spec = AnsweringSpec.model_validate({"answers": ["normalize", {"redact": {"do": do}}]})
    refining = Refining.of(spec, {"kind": "chat", "labels": None}, 8)
    lines = [{"id": "a", "raw": "On 25/12/2024 ann@firm.com came.", "samples": None, "raw_probability": None}]
    asked = {"a": questions.Question("a", ({"role": "user", "content": "Who?"},), "nobody")}
    settled = refine_own(lines, refining, asked)
    told = effects._steps(lines, settled, refining, asked, lambda texts: None)
    assert [one["step"] for one in told] == ["normalize", "redact"]
    assert "ann@firm.com" not in json.dumps(told)
    assert told[0]["examples"][0]["before"] == "On 25/12/2024 [EMAIL_1] came."
    assert told[1]["examples"][0]["after"] == (None if do == "refuse" else "On 2024-12-25 [EMAIL_1] came.")


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_a_free_text_that_may_be_declined_has_a_curve_without_calibration(world, tmp_path):
    """Too few validation rows, or calibrate: null: the model will decline all the same."""
    spec = MeasureSpec(against=[], resamples=200, max_tokens=8, metrics=["token_f1"], sure=True)
    spec = spec.model_copy(update={"answering": AnsweringSpec()})
    out, _ = world.run(suite.STAGE, spec, tmp_path)
    report = json.loads((out / "report.json").read_text())
    assert report["calibration"] is None and report["answers"] is None
    assert report["abstention"]["curve"][0]["given"] == report["rows"] == 12
    plain, _ = world.run(suite.STAGE, spec.model_copy(update={"sure": False}), tmp_path, "plain")
    before = json.loads((plain / "report.json").read_text())
    assert before["abstention"] is None
    assert before["systems"]["tuned"]["metrics"] == report["systems"]["tuned"]["metrics"]


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_a_fallback_is_measured_with_what_it_cost(world, tmp_path):
    answering = {"answers": [{"banned": {"patterns": ["."]}}], "fallback": {"to": "base"}}
    spec = MeasureSpec(against=[], resamples=200, max_tokens=6, answering=answering)
    inputs = {**world.inputs, "fallback": world.inputs["base"]}
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    suite.STAGE.function(spec, inputs, out, scratch, world.at)
    told = json.loads((out / "report.json").read_text())["answers"]["fallback"]
    lines = predictions.read(out / "predictions.parquet").to_pylist()
    refused = [line for line in lines if line["asked_for"] == "refused"]
    assert told["asked"] == told["why"]["refused"] == len(refused) > 0
    assert told["tokens_out"] == sum(line["other_tokens_out"] for line in refused)
    assert all(line["refusal"] for line in refused)  # no answer passes this step, whoever gives it
    assert set(json.loads((scratch / "other.json").read_text())) == {line["id"] for line in refused}
