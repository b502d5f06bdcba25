"""A head on a language model: scores by hand, off and on, saved and put back, and what does not fit."""

import json

import pytest
import torch
from safetensors.torch import save_file

from luthier.core.errors import ModelError
from luthier.models import head as heads
from luthier.models.choices import score_choices, score_freely
from luthier.models.head import Labels, Number
from luthier.models.template import Template
from luthier.models.testing import tiny_model
from luthier.models.weights import load, load_tokenizer

LABELS = ("billing", "delivery", "returns")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("head") / "tiny", hidden=16, heads=2, kv_heads=1)


@pytest.fixture
def model(folder):
    return load(folder)


@pytest.fixture(scope="module")
def template(folder):
    return Template(load_tokenizer(folder), 512)


def prompts(template, *texts):
    return [template.prompt([{"role": "user", "content": text}]) for text in texts]


def test_scores_are_the_last_hidden_state_times_the_weights(model, template):
    head = heads.attach(model, Labels(LABELS), seed=1)
    asked = prompts(
        template, "refund please", "the parcel has not arrived and the page shows an error", "one"
    )
    found = score_freely(model, template, asked, LABELS)
    for prompt, row in zip(asked, found, strict=True):
        with torch.no_grad():  # the plain twin: one prompt, transformers' own forward
            hidden = model.model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = (head.score.weight @ hidden).log_softmax(-1)
        assert row == pytest.approx(expected.tolist(), abs=1e-5)
    # two of the three labels: renormalised over them
    two = score_choices(model, template, asked[:1], LABELS[:2])[0]
    assert sum(torch.tensor(two).exp()).item() == pytest.approx(1)
    assert two[0] - two[1] == pytest.approx(found[0][0] - found[0][1], abs=1e-6)


def test_without_it_the_model_is_what_it_was(model, template):
    asked = prompts(template, "refund please")
    before = score_freely(model, template, asked, LABELS)
    heads.attach(model, Labels(LABELS), seed=1)
    assert score_freely(model, template, asked, LABELS) != before
    with heads.without(model):
        assert score_freely(model, template, asked, LABELS) == before
    heads.take_off(model)
    assert heads.head_of(model) is None and score_freely(model, template, asked, LABELS) == before


def test_a_seed_decides_the_start(folder):
    first, same, other = (heads.attach(load(folder), Labels(LABELS), seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("gives", [Labels(LABELS), Number(mean=3.25, scale=1.5)])
def test_saved_and_put_back(model, folder, tmp_path, gives):
    head = heads.attach(model, gives, seed=1)
    written = set()
    for _ in range(8):
        heads.save(model, tmp_path)
        written.add((tmp_path / heads.FILE).read_bytes())
    assert len(written) == 1
    again = load(folder)
    heads.load(again, tmp_path)
    put = heads.head_of(again)
    assert put.gives == gives and torch.equal(put.score.weight, head.score.weight)


def test_what_does_not_fit_is_refused(model, template, tmp_path):
    heads.attach(model, Labels(LABELS), seed=1)
    with pytest.raises(ModelError, match="does not know the label 'sales'"):
        score_freely(model, template, prompts(template, "x"), ["billing", "sales"])
    told = json.dumps({"kind": "labels", "labels": LABELS})
    save_file({"score.weight": torch.zeros(3, 8)}, tmp_path / heads.FILE, metadata={"gives": told})
    with pytest.raises(ModelError, match=r"score\.weight of 3×16"):
        heads.load(model, tmp_path)
    for told in ('{"kind": "tree"}', "[1]", "{"):
        save_file({"score.weight": torch.zeros(3, 16)}, tmp_path / heads.FILE, metadata={"gives": told})
        with pytest.raises(ModelError, match="does not say what its outputs are"):
            heads.load(model, tmp_path)
