"""Many answers at once are the answers one by one; draws follow the probabilities and their own numbers."""

import numpy as np
import pytest
import torch

from luthier.models.generate import answer, generate
from luthier.models.sample import drawn, sample
from luthier.models.template import Template, TooLong
from luthier.models.testing import tiny_model
from luthier.models.weights import load, load_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("sample") / "tiny", hidden=16, heads=2, kv_heads=1)
    return load(folder), Template(load_tokenizer(folder), 64)


def prompts_of(template, *texts):
    return [template.prompt([{"role": "user", "content": text}]) for text in texts]


def test_a_number_falls_into_its_share():
    # Shares 1/2, 0, 1/4, 1/4: cumulated 1/2, 1/2, 3/4, 1. A token of no probability is never drawn.
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(6, -1)
    numbers = torch.tensor([0.0, 0.499, 0.501, 0.749, 0.751, 0.999999999], dtype=torch.float64)
    assert drawn(logits, 1.0, numbers).tolist() == [0, 0, 2, 2, 3, 3]
    # At temperature 1/2 probabilities are squared: 1/4 : 0 : 1/16 : 1/16, that is 2/3, 0, 1/6, 1/6.
    assert drawn(logits[:2], 0.5, torch.tensor([0.66, 0.67], dtype=torch.float64)).tolist() == [0, 2]


def test_greedy_answers_are_those_of_answer(tiny):
    model, template = tiny
    prompts = prompts_of(template, "parcel", "the refund of my invoice", "a")
    made = sample(model, template, prompts, 1, 12)
    assert [template.decode(one.ids) for (one,) in made] == answer(model, template, prompts, 12)


def test_an_answer_does_not_depend_on_what_is_drawn_beside_it(tiny):
    model, template = tiny
    prompts = prompts_of(template, "parcel", "the refund of my invoice", "a")
    draws = np.random.default_rng(0).random((3, 4, 10))
    told = {"temperature": 1.0, "draws_PGN": draws}
    together = sample(model, template, prompts, 4, 10, **told)
    narrow = sample(model, template, prompts, 4, 10, **told, answers_at_once=4)
    assert narrow == together
    for i in range(3):
        for g in range(4):
            alone = {"temperature": 1.0, "draws_PGN": draws[i : i + 1, g : g + 1]}
            assert sample(model, template, [prompts[i]], 1, 10, **alone) == [[together[i][g]]]
    assert len({tuple(one.ids) for one in together[0]}) > 1


def test_an_answer_ends_at_its_end_or_where_there_is_no_more_room(tiny):
    model, template = tiny
    (prompt,) = prompts_of(template, "one two three four five six seven eight nine ten parcel")
    (one,), *_ = sample(model, template, [prompt], 1, 1000)
    assert one.finished or len(prompt) + len(one.ids) == template.context
    steps = list(generate(model, template, prompt))
    assert [step.token_id for step in steps] == one.ids and one.finished == (steps[-1].finish == "stop")
    with pytest.raises(TooLong):
        sample(model, template, [[5] * 64], 1, 4)
