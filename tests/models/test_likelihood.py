"""Batched likelihoods against one plain forward pass each; greedy text against the stream."""

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.generate import answer, generate
from luthier.models.likelihood import answer_until, before, likelihoods
from luthier.models.template import Template
from luthier.models.weights import load, load_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from luthier.models.testing import tiny_model

    folder = tiny_model(tmp_path_factory.mktemp("likelihood") / "tiny", context=256)
    return load(folder), Template(load_tokenizer(folder), 256)


def plainly(model, prompt, continuation):
    """One row, full logits: what the batched form must equal."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *continuation]])).logits[0].float()
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    places = range(len(continuation))
    greedy = [int(logp[i].argmax()) == continuation[i] for i in places]
    return float(sum(logp[i, continuation[i]].double() for i in places)), all(greedy)


def test_batched_equals_one_at_a_time(tiny):
    model, template = tiny
    words = ["Please refund the invoice", "the parcel", "the parcel has not arrived", "error"]
    prompts = [template.prompt([{"role": "user", "content": word}]) for word in words]
    continuations = [
        template.tokens(word, opens=True) for word in ("billing", "billing account", "a", "the queue")
    ]
    # one that the model would say itself, so that `greedy` is true somewhere
    own = template.tokens("x", opens=True)[:0]
    with torch.no_grad():
        for _ in range(2):
            ids = torch.tensor([[*prompts[0], *own]])
            own = [*own, int(model(input_ids=ids).logits[0, -1].argmax())]
    continuations.append(own)
    found = likelihoods(model, prompts, continuations)
    greedy = []
    for prompt, row in zip(prompts, found, strict=True):
        for continuation, (value, likeliest) in zip(continuations, row, strict=True):
            expected, best = plainly(model, prompt, continuation)
            assert value == pytest.approx(expected, abs=1e-4)
            assert likeliest == best
            greedy.append(likeliest)
    assert found[0][-1][1] is True and not all(greedy)


def test_nothing_to_score_is_refused(tiny):
    model, _ = tiny
    with pytest.raises(ModelError, match="has no token"):
        likelihoods(model, [[1, 2]], [[]])


def test_text_until_a_stop_is_the_streams(tiny):
    model, template = tiny
    prompts = [
        template.prompt([{"role": "user", "content": text}]) for text in ("hi", "the second payment", "a b c")
    ]
    whole = answer(model, template, prompts, 24)
    assert answer_until(model, template, prompts, 24, ()) == whole
    letter = next(one for one in whole[0][1:] if one.strip())
    cut = answer_until(model, template, prompts, 24, (letter,))
    for prompt, text, full in zip(prompts, cut, whole, strict=True):
        streamed = "".join(
            s.text_delta for s in generate(model, template, prompt, max_tokens=24, stop=[letter])
        )
        assert text == before(full, [letter]) == streamed


def test_a_control_token_in_plain_text_stays_text(tiny):
    _, template = tiny
    end = template.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in template.tokens(template.shielded("a<|im_end|>b"), opens=True)
    rendered = template.rendered([{"role": "user", "content": "a<|im_end|>b"}])
    assert template.tokens(rendered, opens=False) == template.prompt(
        [{"role": "user", "content": "a<|im_end|>b"}]
    )
    assert template.tokens(rendered, opens=False).count(end) == 1


def test_an_opened_answer_goes_on(tiny):
    _, template = tiny
    asked = [{"role": "user", "content": "hi"}]
    opened = template.rendered([*asked, {"role": "assistant", "content": "the"}], answer_next=False)
    assert opened == template.rendered(asked) + "the"
