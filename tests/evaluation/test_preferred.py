"""Pairs, and how near answers are: by hand, and through a tiny model that is asked them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data.embedders.embedder import EmbedderSpec
from luthier.evaluation import compare, predictions, preferred, similar, suite, tasks
from luthier.evaluation.spec import EvaluateSpec


@pytest.fixture
def kind():
    return "chat"


def line(model, i, chosen, rejected, tokens=(2, 2)):
    plain = dict.fromkeys(predictions.SCHEMA.names)
    told = {"id": str(i), "model": model, "reference": "r", "loss_sum": chosen, "loss_tokens": tokens[0]}
    return (
        plain
        | told
        | {"rejected_sum": rejected, "rejected_tokens": tokens[1] if rejected is not None else None}
    )


def test_by_hand():
    lines = [
        line("tuned", 0, 2.0, 6.0),  # 1 against 3 per token: preferred; 4 apart against the base's 1: gained
        line("base", 0, 2.0, 3.0),
        line(
            "tuned", 1, 4.0, 6.0, tokens=(2, 6)
        ),  # 2 against 1 per token: not preferred; 2 apart against 3: lost
        line("base", 1, 3.0, 6.0),
        line("tuned", 2, 1.0, None),
        line("base", 2, 1.0, None),
    ]
    preferred.gains(lines)
    assert [one["gain"] for one in lines] == [3.0, None, -1.0, None, None, None]
    answers = predictions.by_system(predictions.table(lines))
    tuned, base = (compare.at_sample(preferred.statistics(answers[name]), 3) for name in ("tuned", "base"))
    assert tuned == {"preferred": 0.5, "reward_accuracy": 0.5}
    assert base == {"preferred": 1.0}
    both = answers["tuned"].and_(answers["base"].only(["1", "2"]))
    assert both.of("gain") == (3.0, -1.0, None, None, None)
    assert compare.at_sample(preferred.statistics(both), 5)["preferred"] == pytest.approx(2 / 3)


def test_similarity_is_the_cosine_and_equal_texts_are_one():
    lines = [
        {"reference": "the parcel has not arrived", "prediction": said}
        for said in ("the parcel  has not arrived", "the parcel arrived", "zzz", "", None)
    ]
    similar.measure(lines, EmbedderSpec.hashed(), lambda: None)
    same, near, far, blank = (one["similarity"] for one in lines[:4])
    assert same == 1.0 and 1 > near > far >= 0 and blank == 0.0 and "similarity" not in lines[4]
    one, other = (
        EmbedderSpec.hashed().made().embed([lines[1]["reference"], lines[1]["prediction"]]).astype(float)
    )
    assert near == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_pairs_of_the_test_split_are_measured(world, tmp_path):
    from luthier.models.template import Template
    from luthier.models.weights import load, load_tokenizer

    path = world.folders["dataset"] / "test.parquet"
    rows = pq.read_table(path)
    rejected = pa.array([f"no {i}" if i % 2 else None for i in range(len(rows))])
    pq.write_table(rows.set_column(rows.schema.get_field_index("rejected"), "rejected", rejected), path)
    spec = EvaluateSpec(
        against=["base"], metrics=["preferred", "reward_accuracy"], resamples=200, dtype="fp32"
    )
    out, _ = world.run(suite.STAGE, spec, tmp_path)
    lines = predictions.read(out / "predictions.parquet").to_pylist()
    assert {one["prediction"] for one in lines} == {None}  # nothing need be written for these
    assert sum(one["rejected_sum"] is not None for one in lines) == 12
    found = json.loads((out / "report.json").read_text())
    assert set(found["systems"]["base"]["metrics"]) == {"preferred", "reward_accuracy"}
    assert found["systems"]["base"]["metrics"]["reward_accuracy"] is None
    template, model = Template(load_tokenizer(world.folders["base"]), 256), load(world.folders["base"])
    one = next(one for one in lines if one["model"] == "base" and one["rejected_sum"] is not None)
    record = next(r for r in pq.read_table(path).to_pylist() if r["id"] == one["id"])
    assert one["rejected_sum"] == pytest.approx(_loss(model, template, record), rel=1e-4)
    assert found["systems"]["tuned"]["metrics"]["preferred"] is not None


def _loss(model, template, record):
    """By a plain forward pass over the prompt and the rejected answer."""
    import torch

    prompt, answer = template.prompt(record["messages"][:-1]), template.answer(record["rejected"])
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return -float(logp[range(len(answer)), answer].sum())


def test_predictions_of_before_are_read_still(tmp_path):
    old = [name for name in predictions.SCHEMA.names if name not in predictions.MORE]
    lines = [{**line("tuned", 0, 1.0, None), "prediction": "r"}]
    predictions.write(predictions.table(lines).select(old), tmp_path / "p.parquet")
    answers = predictions.by_system(predictions.read(tmp_path / "p.parquet"))["tuned"]
    told = tasks.of({"kind": "chat", "labels": None}).summarise(answers)["metrics"]
    assert told["exact_match"] == 1.0 and told["similarity"] is None and told["call_match"] is None
