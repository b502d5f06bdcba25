"""The stage on a tiny model: its files, and that they can be computed again from the predictions alone."""

import json

import numpy as np
import pytest

from luthier.core.errors import Interrupted, ModelError
from luthier.evaluation import compare, metrics, predictions, prompted, suite
from luthier.evaluation.spec import EvaluateSpec

SPEC = EvaluateSpec(resamples=200, max_tokens=8, dtype="fp32")


def _report(out):
    return json.loads((out / "report.json").read_text())


def test_every_number_of_the_report_follows_from_the_predictions(world, tmp_path):
    out, _ = world.run(suite.STAGE, SPEC, tmp_path)
    found, table = _report(out), predictions.read(out / "predictions.parquet")
    again = metrics.from_predictions(table, found["task"])
    assert list(found["systems"]) == list(SPEC.systems(found["task"]["kind"]))
    for name, system in found["systems"].items():
        assert system["rows"] == 12
        assert system["metrics"] == {
            m: again[name]["metrics"][m] for m in SPEC.measured(found["task"]["kind"])
        }
        assert system["per_label"] == again[name]["per_label"]
        assert system["confusion"] == again[name]["confusion"]
    comparisons, intervals = compare.from_predictions(
        table, found["task"], metrics=SPEC.measured(found["task"]["kind"]), resamples=200
    )
    assert found["comparisons"] == comparisons
    assert {name: system["intervals"] for name, system in found["systems"].items()} == intervals


def test_the_same_twice_gives_the_same_bytes(world, tmp_path):
    one, _ = world.run(suite.STAGE, SPEC, tmp_path, "one")
    two, _ = world.run(suite.STAGE, SPEC, tmp_path, "two")
    for name in ("report.json", "predictions.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_answers_are_labels_with_probabilities_and_the_baselines_are_there(world, tmp_path):
    out, output = world.run(suite.STAGE, SPEC, tmp_path)
    lines = predictions.read(out / "predictions.parquet").to_pylist()
    assert [line["model"] for line in lines[::12]] == ["tuned", "base", "base_3shot", "tfidf"]
    for line in lines:
        assert line["prediction"] in ("billing", "delivery", "technical")
        assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert line["probability"] == max(line["probabilities"])
        assert (line["loss_sum"] is None) == (line["model"] in ("base_3shot", "tfidf"))
    assert _report(out)["systems"]["tfidf"]["metrics"]["perplexity"] is None
    assert output.summary["tfidf"]["accuracy"] == 1.0  # three templates of words: nothing is easier
    assert any("only 12 rows" in one for one in _report(out)["cautions"])


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_the_base_is_the_base_alone_bit_for_bit(world):
    """What the adapter's off switch gives, against weights that never met an adapter."""
    import torch

    from luthier.models.attention import packed
    from luthier.models.weights import load

    ids = torch.arange(3, 23)[None]
    alone = load(world.folders["base"])
    tuned = load(world.folders["model"], base_folder=world.folders["base"])
    with torch.inference_mode():
        expected = alone(input_ids=ids, **packed([20])).logits
        with tuned.disable_adapter():
            assert torch.equal(tuned(input_ids=ids, **packed([20])).logits, expected)
        assert not torch.equal(tuned(input_ids=ids, **packed([20])).logits, expected)


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_perplexity_is_over_the_reference_answers_tokens(world, tmp_path):
    """By a plain forward pass: one row at a time, full logits, the answer's tokens only."""
    import torch

    from luthier.evaluation.questions import read
    from luthier.models.template import Template
    from luthier.models.weights import load, load_tokenizer

    out, _ = world.run(suite.STAGE, EvaluateSpec(against=["base"], resamples=200, dtype="fp32"), tmp_path)
    template = Template(load_tokenizer(world.folders["base"]), 256)
    model = load(world.folders["base"])
    total, count = 0.0, 0
    for question in read(world.folders["dataset"] / "test.parquet"):
        prompt, answer = template.prompt(question.prompt), template.answer(question.reference)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        total -= float(logp[range(len(answer)), answer].sum())
        count += len(answer)
    assert _report(out)["systems"]["base"]["metrics"]["perplexity"] == pytest.approx(
        np.exp(total / count), rel=1e-4
    )


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(world, tmp_path):
    whole, _ = world.run(suite.STAGE, SPEC, tmp_path, "whole")
    world.at.stop_after_checks = 1  # the first system passes, the second stops
    (tmp_path / "again").mkdir()
    scratch = tmp_path / "again-scratch"
    scratch.mkdir()
    with pytest.raises(Interrupted):
        suite.evaluate(SPEC, world.inputs, tmp_path / "again", scratch, world.at)
    assert [path.name for path in scratch.iterdir()] == ["answers of tuned.json"]
    world.at.stop_after_checks = None
    world.at.events.clear()
    suite.evaluate(SPEC, world.inputs, tmp_path / "again", scratch, world.at)
    assert "tuned" not in [event.data["system"] for event in world.at.events]
    for name in ("report.json", "predictions.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_what_does_not_fit_is_named_and_left_out_of_the_pairs(world, tmp_path, monkeypatch):
    """With the examples in front, some prompts pass the limit that all pass without."""
    from luthier.models import weights
    from luthier.models.template import Template

    template = Template(weights.load_tokenizer(world.folders["base"]), 256)
    bench = prompted.Bench(
        SPEC, _task(world), _part(world), _questions(world), {}, world.folders, tmp_path, world.at
    )
    sheets, _ = prompted._sheets(bench, {"base_3shot": template}, ["base_3shot"])
    lengths = sorted(len(one.prompt_ids) for one in sheets["base_3shot"])
    limit = lengths[-1] + bench.part.room(template) - 1  # the longest does not fit by one token
    facts = weights.describe(world.folders["base"])
    monkeypatch.setattr(weights, "describe", lambda folder: type(facts)(**{**vars(facts), "context": limit}))
    out, _ = world.run(suite.STAGE, SPEC, tmp_path)
    found = _report(out)
    skipped = [line for line in found["cautions"] if "was not asked of base_3shot" in line]
    assert len(skipped) == lengths.count(lengths[-1]) == 12 - found["systems"]["base_3shot"]["rows"]
    assert all(f"the context holds {limit}" in line and line.startswith("Row test-") for line in skipped)
    assert {c["to"]: c["rows"] for c in found["comparisons"]} == {
        "base": 12, "base_3shot": 12 - len(skipped), "tfidf": 12,
    }  # fmt: skip


def _task(world):
    return json.loads((world.folders["dataset"] / "dataset.json").read_text())["task"]


def _part(world):
    from luthier.evaluation import tasks

    return tasks.of(_task(world), SPEC.max_tokens)


def _questions(world):
    from luthier.evaluation.questions import read

    return read(world.folders["dataset"] / "test.parquet")


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_a_full_model_is_loaded_by_itself(world, tmp_path):
    """A full fine-tuning that changed nothing answers as the base does."""
    import shutil

    model = world.folders["model"]
    facts = json.loads((model / "luthier.json").read_text())
    shutil.rmtree(model)
    shutil.copytree(world.folders["base"], model)
    (model / "luthier.json").write_text(json.dumps({**facts, "adapter": "full"}))
    out, _ = world.run(suite.STAGE, EvaluateSpec(against=["base"], resamples=200, max_tokens=8), tmp_path)
    assert {(c["difference"], c["low"], c["high"]) for c in _report(out)["comparisons"]} == {(0.0, 0.0, 0.0)}


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"base_digest": "f" * 64}, "tuned from base ffffffffffff"),
        ({"task": {"kind": "chat"}}, "tuned for the task"),
    ],
)
def test_strangers_are_refused(world, tmp_path, change, told):
    path = world.folders["model"] / "luthier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=told):
        world.run(suite.STAGE, SPEC, tmp_path)


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_when_nothing_fits_the_context_is_named(world, tmp_path, monkeypatch):
    from luthier.models import weights

    facts = weights.describe(world.folders["base"])
    monkeypatch.setattr(weights, "describe", lambda folder: type(facts)(**{**vars(facts), "context": 30}))
    with pytest.raises(ModelError, match="none of the 12 test rows fits the model's context of 30 tokens"):
        world.run(suite.STAGE, SPEC, tmp_path)


def test_importing_the_stage_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, luthier.evaluation.suite; print({'torch', 'sklearn', 'pyarrow', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )


@pytest.mark.parametrize("kind", ["chat", "classify"], indirect=True)
def test_disliked_answers_are_neither_references_nor_examples(world, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        path = world.folders["dataset"] / f"{split}.parquet"
        rows = pq.read_table(path)
        ratings = pa.array([float(i % 2) for i in range(len(rows))])
        pq.write_table(rows.set_column(rows.schema.get_field_index("rating"), "rating", ratings), path)
    shown = []
    real = prompted.three_examples
    monkeypatch.setattr(prompted, "three_examples", lambda rows, seed: shown.extend(rows) or real(rows, seed))
    out, _ = world.run(suite.STAGE, SPEC, tmp_path)
    found, lines = _report(out), predictions.read(out / "predictions.parquet").to_pylist()
    assert found["rows"] == 6 and {int(line["id"][-3:]) % 2 for line in lines} == {1}
    assert {int(row["id"][-3:]) % 2 for row in shown} == {1}
    assert any(line.startswith("6 rows of the test split are rated 0 or less") for line in found["cautions"])
