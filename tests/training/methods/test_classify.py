"""The classification head: its loss by hand, no dependence on the cut, and a run whose result loads and answers."""

import json
import math

import numpy as np
import pytest
import torch

from luthier.core.errors import DataError, SpecError
from luthier.models import head as heads
from luthier.models.template import Template
from luthier.models.weights import load, load_tokenizer
from luthier.training.method import NoSettings
from luthier.training.methods.classify import Classify
from luthier.training.rows import Row, Tokens

LABELS = ("billing", "delivery")


@pytest.fixture
def method():
    found = Classify(NoSettings())
    found.places = {label: i for i, label in enumerate(LABELS)}
    return found


def row(seed, n, label, weight=1.0):
    ids = np.random.default_rng(seed).integers(3, 300, n).astype(np.int32)
    told = np.zeros(n, bool)
    told[-1] = True
    return Row(f"row{seed}", weight, "", (Tokens(ids, told),), answer=label)


def test_the_prompt_is_what_serving_asks_with(base, method, make_record):
    template = Template(load_tokenizer(base), 512)
    record = make_record(1, label="billing")
    (tokens,) = method.encode(record, template).sequences
    assert tokens.ids[:-1] == template.prompt(record["messages"][:-1])
    assert tokens.supervised == [False] * (len(tokens.ids) - 1) + [True]
    with pytest.raises(DataError, match="this row is a plain text"):
        method.encode({"messages": None, "text": "x", "label": None}, template)


def test_even_scores_cost_the_logarithm_of_the_labels(base, method):
    # A head of zeros gives every label 1/2: each row costs ln 2 times its weight, and the first label is called.
    model = load(base)
    with torch.no_grad():
        heads.attach(model, heads.Labels(LABELS), seed=0).score.weight.zero_()
    batch = method.collate([row(1, 9, "billing"), row(2, 5, "delivery", weight=2.0), row(3, 7, "delivery")])
    loss = method.loss(model, batch)
    assert loss.sum.item() == pytest.approx(4 * math.log(2))
    assert loss.by_row.tolist() == pytest.approx([math.log(2), 2 * math.log(2), math.log(2)])
    assert loss.metrics == {"accuracy": 1.0} and list(batch.row_weights) == [1.0, 2.0, 1.0]


def test_the_loss_does_not_depend_on_the_cut(base, method):
    model = load(base)
    heads.attach(model, heads.Labels(LABELS), seed=3)
    rows = [row(i, 4 + i, LABELS[i % 2], weight=1.0 + i) for i in range(5)]
    whole = method.loss(model, method.collate(rows)).by_row
    parts = [method.loss(model, method.collate(part)).by_row for part in (rows[:2], rows[2:])]
    assert torch.cat(parts).tolist() == pytest.approx(whole.tolist(), rel=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_gives_a_head_that_loads(new_work, make_record, adapter):
    def labelled(i):
        record = make_record(i)
        return {**record, "label": record["messages"][-1]["content"]}

    rows = [labelled(i) for i in range(60)]
    work = new_work(f"head-{adapter}", train=rows[:48], validation=rows[48:])
    rate = 0.02 if adapter == "lora" else 0.003
    work.run(method="classify", adapter={"kind": adapter}, learning_rate=rate, epochs=3)
    losses = [one["loss"] for one in work.history()["validation"]]
    assert min(losses) < losses[0]
    model = load(work.out, base_folder=work.base if adapter == "lora" else None)
    found = heads.head_of(model)
    assert found.gives.labels == LABELS
    # The validation loss of the kept weights, from the saved files alone.
    template = Template(load_tokenizer(work.base), 512)
    method = Classify(NoSettings())
    method.places = {label: i for i, label in enumerate(LABELS)}
    encoded = [(r, method.encode(r, template)) for r in rows[48:]]
    batch = method.collate(
        [
            Row(r["id"], 1.0, "", (Tokens(np.array(e.sequences[0].ids), np.array(e.sequences[0].supervised)),),
                answer=e.answer)
            for r, e in encoded
        ]
    )  # fmt: skip
    with torch.no_grad():
        loss = method.loss(model, batch)
    assert loss.sum.item() / 12 == pytest.approx(min(losses), rel=1e-4)


def test_a_task_without_labels_is_refused(new_work, make_record):
    work = new_work("chatty", train=[make_record(i, label="billing") for i in range(8)])
    told = json.loads((work.dataset / "dataset.json").read_text())
    told["task"] = {"kind": "chat", "instruction": None, "labels": None}
    (work.dataset / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(SpecError, match="classify needs labels, and the task is chat"):
        work.run(method="classify")
