import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models.generate import answer, generate, sequence_loss
from luthier.models.said import Certain
from luthier.models.template import Encoded


@pytest.fixture
def ask(tiny_template):
    def make(text="The parcel"):
        return tiny_template.prompt([{"role": "user", "content": text}])

    return make


def slowly(model, template, prompt, count, logits):
    """Greedy by a whole forward pass per token."""
    out = list(prompt)
    for _ in range(count):
        token = int(logits(model, out)[-1].argmax())
        if token in template.end_ids:
            break
        out.append(token)
    return out[len(prompt) :]


def test_cached_equals_uncached(tiny, tiny_template, ask, logits):
    steps = list(generate(tiny, tiny_template, ask(), max_tokens=30))
    expected = slowly(tiny, tiny_template, ask(), 30, logits)
    assert [s.token_id for s in steps if s.token_id not in tiny_template.end_ids] == expected
    assert "".join(s.text_delta for s in steps) == tiny_template.decode(expected)
    table = logits(tiny, ask() + expected).log_softmax(-1)
    for place, step in enumerate(steps[: len(expected)]):
        assert math.isclose(step.logprob, table[len(ask()) - 1 + place, step.token_id], abs_tol=1e-4)


def test_batched_equals_one_by_one(tiny, tiny_template, ask):
    prompts = [ask("refund " * n) for n in (3, 0, 20, 1, 1, 7)]
    one = ["".join(s.text_delta for s in generate(tiny, tiny_template, p, max_tokens=25)) for p in prompts]
    assert answer(tiny, tiny_template, prompts, 25) == one
    assert answer(tiny, tiny_template, prompts, 25, rows_at_once=2) == one
    assert answer(tiny, tiny_template, [], 5) == []


def test_rows_that_end_leave_the_batch(tiny, tiny_template, ask, logits):
    # Make the end likely, at moments that differ by row.
    with torch.no_grad():
        tiny.get_output_embeddings().weight[2] *= 6
    prompts = [ask(w) for w in ("refund", "parcel", "billing", "a", "b", "c")]
    expected = [slowly(tiny, tiny_template, p, 40, logits) for p in prompts]
    assert len({len(e) for e in expected}) > 1
    assert answer(tiny, tiny_template, prompts, 40) == [tiny_template.decode(e) for e in expected]
    last = list(generate(tiny, tiny_template, prompts[0], max_tokens=40))[-1]
    assert last.finish == "stop" and last.token_id == 2


def test_same_seed_same_answer(tiny, tiny_template, ask):
    def sample(seed, **kwargs):
        return [s.token_id for s in generate(tiny, tiny_template, ask(), max_tokens=12, seed=seed, **kwargs)]

    torch.manual_seed(1)
    first = sample(7, temperature=1.0)
    torch.manual_seed(2)
    assert sample(7, temperature=1.0) == first != sample(8, temperature=1.0)
    # top_p so small that only the likeliest is left: greedy.
    assert sample(7, temperature=1.0, top_p=1e-9) == sample(None)
    assert sample(7, temperature=1e-308) == sample(None)


def test_sampling_follows_the_shares(tiny, tiny_template, ask, logits):
    shares = torch.softmax(logits(tiny, ask())[-1] / 2.0, -1)
    first = [
        next(generate(tiny, tiny_template, ask(), max_tokens=1, temperature=2.0, seed=s)).token_id
        for s in range(200)
    ]
    top = int(shares.argmax())
    # Binomial: within four standard deviations.
    assert abs(first.count(top) / 200 - shares[top]) < 4 * math.sqrt(shares[top] * (1 - shares[top]) / 200)


def test_top_logprobs(tiny, tiny_template, ask, logits):
    step = next(generate(tiny, tiny_template, ask(), max_tokens=3, logprobs=4))
    expected = logits(tiny, ask())[-1].log_softmax(-1).topk(4)
    assert [token for token, _ in step.top] == expected.indices.tolist()
    assert [lp for _, lp in step.top] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert step.top[0] == (step.token_id, step.logprob)


def test_stop_sequence_is_not_part_of_the_text(tiny, tiny_template, ask):
    whole = "".join(s.text_delta for s in generate(tiny, tiny_template, ask(), max_tokens=30))
    stop = whole[10:14]
    steps = list(generate(tiny, tiny_template, ask(), max_tokens=30, stop=[stop, "never"]))
    assert "".join(s.text_delta for s in steps) == whole[: whole.find(stop)]
    assert steps[-1].finish == "stop"


def test_ends_at_max_tokens_and_at_the_context(tiny, tiny_template, ask):
    steps = list(generate(tiny, tiny_template, ask(), max_tokens=5))
    assert [s.finish for s in steps] == [None] * 4 + ["length"]
    nearly_full = [5] * (tiny_template.context - 3)
    assert len(list(generate(tiny, tiny_template, nearly_full))) <= 3


@pytest.mark.parametrize(
    ("prompt", "settings_", "told"),
    [
        ([], {}, "empty"),
        ([5] * 512, {}, "512 tokens and the model's context holds 512"),
        ([5], {"max_tokens": 0}, "leaves no answer"),
        ([5], {"temperature": -1.0}, "cannot be sampled"),
        ([5], {"temperature": float("nan")}, "cannot be sampled"),
        ([5], {"top_p": 0.0}, "cannot be sampled"),
    ],
)
def test_what_cannot_be_asked(tiny, tiny_template, prompt, settings_, told):
    with pytest.raises(ModelError, match=told):
        next(generate(tiny, tiny_template, prompt, **settings_))


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), stop=st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_streamed_text_is_the_text_up_to_the_stop(tiny_template, text, stop):
    text = text.replace("\ufffd", "")
    stream, out, stopped = Certain(tiny_template, stop), "", False
    for token in tiny_template.answer(text)[:-1]:
        delta, stopped = stream.add(token)
        assert "\ufffd" not in delta
        out += delta
        if stopped:
            break
    out += "" if stopped else stream.finish()
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    assert out == (text[: min(ends)] if ends else text)


def test_losses_are_those_of_plain_passes(tiny, logits):
    generator = torch.Generator().manual_seed(3)
    rows = []
    for n in (2, 30, 9, 64):
        ids = torch.randint(3, 500, (n,), generator=generator).tolist()
        rows.append(Encoded(ids, [False] + [bool(i % 3) for i in range(1, n)]))
    expected = []
    for row in rows:
        table = logits(tiny, row.ids).log_softmax(-1)
        told = [i for i, yes in enumerate(row.supervised) if yes]
        expected.append((-sum(float(table[i - 1, row.ids[i]]) for i in told), len(told)))
    for budget in (1, 40, 2048):
        for (loss, count), (plain, known) in zip(sequence_loss(tiny, rows, budget), expected, strict=True):
            assert count == known
            assert loss == pytest.approx(plain, abs=1e-3)
    assert sequence_loss(tiny, [Encoded([5, 6], [False, False])]) == [(0.0, 0)]
