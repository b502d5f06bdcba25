"""Other models beside the tuned one: asked as they are, with the base's weights in memory once."""

import json
from dataclasses import replace

import pytest

from luthier.evaluation import others, predictions, prompted, suite
from luthier.evaluation.others import Other
from luthier.evaluation.spec import EvaluateSpec

from .conftest import _artifact, write_adapter

SPEC = EvaluateSpec(
    against=["base", "production", "old@1"], resamples=200, max_tokens=6, dtype="fp32", timed_rows=2
)


@pytest.fixture
def with_others(world, tiny_base, tmp_path):
    """A release in use whose adapter is the tuned model's own, and another model that is a base by itself."""
    from luthier.models.testing import tiny_model

    task = json.loads((world.folders["dataset"] / "dataset.json").read_text())["task"]
    adapter, package, whole = tmp_path / "in-use", tmp_path / "package", tmp_path / "whole"
    write_adapter(adapter, tiny_base, task, world.inputs["base"].digest)
    package.mkdir()
    held = "labels" if task["kind"] == "classify" else None
    (package / "luthier.json").write_text(json.dumps({"temperature": 2.0, "constrain": held}))
    tiny_model(whole, context=256, seed=5)
    given = {
        "production/model": (_artifact("in use"), adapter),
        "production/base": (world.inputs["base"], tiny_base),
        "production/package": (_artifact("package"), package),
        "old@1/model": (_artifact("whole"), whole),
    }
    world.at.folders |= {one.digest: folder for one, folder in given.values()}
    return replace(world, inputs=world.inputs | {role: one for role, (one, _) in given.items()})


def test_the_same_weights_give_the_same_answers_and_the_base_is_loaded_once(
    with_others, tmp_path, monkeypatch
):
    from luthier.models import weights

    loaded = []
    whole = weights._load_whole
    monkeypatch.setattr(
        weights, "_load_whole", lambda folder, *more: loaded.append(folder.name) or whole(folder, *more)
    )
    out, _ = with_others.run(suite.STAGE, SPEC, tmp_path)
    assert loaded == ["tiny", "whole"]  # the base with one adapter after the other, then the other model
    found = predictions.by_system(predictions.read(out / "predictions.parquet"))
    assert list(found) == ["tuned", "base", "production", "old@1"]
    assert found["production"].predictions == found["tuned"].predictions
    assert (found["production"].loss_sum_N == found["tuned"].loss_sum_N).all()
    assert not (found["old@1"].loss_sum_N == found["base"].loss_sum_N).any()
    told = json.loads((out / "report.json").read_text())
    assert [one["name"] for one in told["measured"]] == list(told["systems"]) == list(found)
    assert told["measured"][2]["is"] == "the release in use"
    assert told["measured"][2]["digests"]["model"] == with_others.inputs["production/model"].digest
    same = [one for one in told["comparisons"] if one["to"] == "production" and one["metric"] == "perplexity"]
    assert [one["difference"] for one in same] == [0.0]


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_a_release_is_measured_with_the_temperature_that_it_is_served_with(with_others, tmp_path):
    """p^(1/2), normalised: the packaged temperature is 2, the tuned model's own is 1."""
    out, _ = with_others.run(suite.STAGE, SPEC, tmp_path)
    found = predictions.by_system(predictions.read(out / "predictions.parquet"))
    warm = found["tuned"].probability_NK ** 0.5
    assert found["production"].probability_NK == pytest.approx(warm / warm.sum(1, keepdims=True), abs=1e-9)


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_a_release_is_measured_through_the_steps_that_it_is_served_with(with_others, tmp_path):
    """The weights are the tuned model's own, and the package's step refuses what is no JSON, as these words are. Another model that
    the package would ask is not asked, and that is told."""
    package = with_others.at.folders[with_others.inputs["production/package"].digest]
    fallback = {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "big"}}
    told = {"answers": ["json"], "constrain": None, "vote": None, "fallback": fallback}
    (package / "luthier.json").write_text(
        json.dumps({"temperature": 1.0, "constrain": None, "answering": told})
    )
    out, _ = with_others.run(suite.STAGE, SPEC, tmp_path)
    table = predictions.read(out / "predictions.parquet")
    found = predictions.by_system(table)
    assert set(found["production"].predictions) == {""} != set(found["tuned"].predictions)
    raw = [line["raw"] for line in table.to_pylist() if line["model"] == "production"]
    assert raw == list(found["tuned"].predictions)
    cautions = json.loads((out / "report.json").read_text())["cautions"]
    assert sum(one.startswith("production asks another model") for one in cautions) == 1


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_what_was_not_there_and_what_cannot_be_asked_is_said(world, tmp_path):
    spec = EvaluateSpec(against=["production", "old@1"], resamples=200, dtype="fp32", timed_rows=0)
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "luthier.json").write_text(json.dumps({"task": {"kind": "chat", "labels": None}}))
    stranger = _artifact("stranger")
    world.at.folders[stranger.digest] = folder
    world = replace(world, inputs=world.inputs | {"old@1/model": stranger})
    out, _ = world.run(suite.STAGE, spec, tmp_path)
    told = json.loads((out / "report.json").read_text())
    assert list(told["systems"]) == ["tuned"]
    cautions = [line for line in told["cautions"] if "was not measured" in line]
    assert cautions == [
        f"production was not measured: {others.NO_RELEASE}.",
        "old@1 was not measured: it was tuned for a chat task, and this is a classify task.",
    ]


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_a_swapped_adapter_is_the_one_that_is_loaded_afresh(world, tiny_base, tmp_path):
    """Bit for bit, and the base beneath is what it was."""
    import torch

    from luthier.models.attention import packed
    from luthier.models.weights import load

    ids = torch.arange(3, 23)[None]
    fresh = load(world.folders["model"], base_folder=tiny_base)
    first = load(world.folders["model"], base_folder=tiny_base)
    again = others.swapped(first, world.folders["model"])
    with torch.inference_mode():
        expected = fresh(input_ids=ids, **packed([20])).logits
        assert torch.equal(again(input_ids=ids, **packed([20])).logits, expected)
        with again.disable_adapter(), fresh.disable_adapter():
            assert torch.equal(
                again(input_ids=ids, **packed([20])).logits, fresh(input_ids=ids, **packed([20])).logits
            )


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_a_head_with_other_labels_cannot_be_asked(world, tmp_path):
    folder = tmp_path / "headed"
    folder.mkdir()
    (folder / "luthier.json").write_text(json.dumps({"task": {"kind": "classify", "labels": ["a", "b"]}}))
    task = {"kind": "classify", "labels": ["a", "c"]}
    assert others.unfit(Other(folder, None, ("x",)), task) is None
    (folder / "head.safetensors").write_bytes(b"")
    assert "whose labels are others" in (others.unfit(Other(folder, None, ("x",)), task) or "")
    assert others.unfit(Other(folder, None, ("x",)), {"kind": "classify", "labels": ["a", "b"]}) is None


def test_no_name_of_a_system_is_a_file_of_another_part(with_others, tmp_path):
    """`other` was the file of what the fallback said, and a system that is called so was read from it."""
    (tmp_path / "out-scratch").mkdir()
    for name in ("other", "tuned.beside", "memorisation-tuned"):
        (tmp_path / "out-scratch" / f"{name}.json").write_text("{}")
    spec = EvaluateSpec(
        against=[{"base": "whole", "name": "other"}], resamples=200, max_tokens=6, dtype="fp32", timed_rows=0
    )
    inputs = with_others.inputs | {"other/model": with_others.inputs["old@1/model"]}
    out, _ = replace(with_others, inputs=inputs).run(suite.STAGE, spec, tmp_path)
    assert list(json.loads((out / "report.json").read_text())["systems"]) == ["tuned", "other"]


def test_seconds_are_of_single_answers_and_remembered(with_others, tmp_path, monkeypatch):
    from luthier.core.units import Money

    with_others.at.hourly = Money(3.6, "USD")
    out, _ = with_others.run(suite.STAGE, SPEC, tmp_path)
    systems = json.loads((out / "report.json").read_text())["systems"]
    for one in systems.values():
        latency, cost = one["latency"], one["cost"]
        assert latency["machine"].endswith(", in fp32")
        assert latency["rows"] == 2 and 0 < latency["median_s"] <= latency["p95_s"]
        # 1,000 answers, each mean_s seconds of 3.60 USD an hour: a thousandth of a dollar for each second
        assert cost["per_1000"] == pytest.approx(latency["mean_s"]) and cost["currency"] == "USD"
        assert one["tokens"]["in"] > 10 and one["tokens"]["out"] >= 1
    again, _ = with_others.run(suite.STAGE, SPEC, tmp_path, "again")
    assert (again / "report.json").read_bytes() == (out / "report.json").read_bytes()
    assert prompted.PROMPTED == ("tuned", "base", "base_3shot")


def test_predictions_of_before_are_read_and_say_nothing_of_seconds(tmp_path):
    """A file without the columns of seconds and tokens, in which the systems stand in their old order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.evaluation import expense

    old = pa.schema(
        [one for one in predictions.SCHEMA if one.name not in ("seconds", "tokens_in", "tokens_out")]
    )
    lines = [
        {"id": "r", "model": model, "reference": "a", "prediction": "a", "slices": []}
        for model in ("tuned", "base", "tfidf")
    ]
    pq.write_table(pa.Table.from_pylist(lines, old), tmp_path / "old.parquet")
    table = predictions.read(tmp_path / "old.parquet")
    assert list(predictions.by_system(table)) == ["tuned", "base", "tfidf"]
    nothing = {"latency": None, "tokens": None, "cost": None}
    assert expense.of(table, SPEC, None) == dict.fromkeys(("tuned", "base", "tfidf"), nothing)
