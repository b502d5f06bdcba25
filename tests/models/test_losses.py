"""Losses through slices of the head equal those through the model's own logits, for every kind of head."""

import pytest
import torch

from luthier.models import attention, losses, weights
from luthier.models.testing import tiny_model

S = 17


@pytest.fixture
def asked():
    draw = torch.Generator().manual_seed(2)
    inputs = {
        "input_ids": torch.randint(3, 500, (1, 30), generator=draw),
        **attention.packed([11, 19]),
    }
    keep = torch.randperm(30, generator=draw)[:S].sort().values
    return inputs, keep, torch.randint(3, 500, (S,), generator=draw)


def grads(model, scalar):
    scalar.backward()
    told = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return told


def same(ours, theirs, limit=1e-5):
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        assert (ours[name] - one).norm() <= limit * one.norm(), name


HEADS = {
    "tied": {},
    "untied": {"tied": False},
    "scaled": {"family": "granite", "logits_scaling": 4.0},
    "capped": {"family": "gemma3_text", "final_logit_softcapping": 2.0},
}


@pytest.fixture(params=HEADS)
def model(request, tmp_path):
    return weights.load(tiny_model(tmp_path / "m", **HEADS[request.param])).requires_grad_(True).train()


@pytest.mark.parametrize("slices", [1, 4])
def test_weighted_nll_equals_plain(model, asked, slices, monkeypatch):
    monkeypatch.setattr(losses, "THINNEST", 1)
    monkeypatch.setattr(losses, "SLICE_BYTES", model.config.vocab_size * 4 * -(-S // slices))
    assert losses.why_plain(model) == ""
    amounts = torch.linspace(0.1, 2, S)
    fast, plain = (f(model, *asked, amounts) for f in (losses.weighted_nll, losses.plain_weighted_nll))
    torch.testing.assert_close(fast.sum, plain.sum, rtol=1e-6, atol=0)
    torch.testing.assert_close(fast.losses_S, plain.losses_S, rtol=1e-5, atol=1e-6)
    assert not fast.losses_S.requires_grad and fast.losses_S.dtype == torch.float32 and fast.right_S is None
    # The gradient must pass through whatever the sum is divided by.
    same(grads(model, fast.sum / 7), grads(model, plain.sum / 7))


def test_logprobs_equal_plain(model, asked, monkeypatch):
    monkeypatch.setattr(losses, "THINNEST", 4)
    monkeypatch.setattr(losses, "SLICE_BYTES", 1)
    # Any function of the single values, as preference losses have: -ln sigmoid of pairwise differences.
    values = [f(model, *asked) for f in (losses.token_logprobs, losses.plain_token_logprobs)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    ours, theirs = (-torch.nn.functional.logsigmoid(v[::2].sum() - 2 * v.square()).sum() for v in values)
    same(grads(model, ours), grads(model, theirs))


def test_without_gradients_it_judges_and_learns_nothing(tiny, asked):
    amounts = torch.ones(S)
    with torch.no_grad():
        told, plain = (f(tiny, *asked, amounts) for f in (losses.weighted_nll, losses.plain_weighted_nll))
    assert not told.sum.requires_grad and torch.equal(told.right_S, plain.right_S)
    torch.testing.assert_close(told.losses_S, plain.losses_S)


def test_a_frozen_head_gets_no_gradient(tiny, asked):
    tiny.requires_grad_(False)
    tiny.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    found = grads(tiny, losses.weighted_nll(tiny, *asked, torch.ones(S)).sum)
    assert found.keys() == {"model.layers.0.mlp.up_proj.weight"}


def test_bf16_is_near_plain(tiny_folder, asked):
    model = weights.load(tiny_folder, dtype="bf16").requires_grad_(True)
    amounts = torch.ones(S)
    fast, plain = (f(model, *asked, amounts).sum for f in (losses.weighted_nll, losses.plain_weighted_nll))
    # bf16 logits keep 8 bits; both ways round them once.
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=0)
    same(grads(model, fast), grads(model, plain), 0.05)


def test_nothing_supervised_is_a_loss_of_nothing(tiny, asked):
    inputs, keep, targets = asked
    told = losses.weighted_nll(tiny.requires_grad_(True), inputs, keep[:0], targets[:0], torch.ones(0))
    told.sum.backward()
    assert float(told.sum.detach()) == 0 and told.losses_S.shape == (0,)


def test_a_head_that_does_more_goes_the_plain_way(tiny, asked):
    class Odd(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    odd = Odd(32, tiny.config.vocab_size, bias=False)
    tiny.set_output_embeddings(odd)
    assert losses.why_plain(tiny) == "the output head is a Odd, not a plain linear layer"
    amounts = torch.ones(S)
    ours, theirs = (f(tiny, *asked, amounts).sum for f in (losses.weighted_nll, losses.plain_weighted_nll))
    assert torch.equal(ours, theirs)


def test_a_config_that_hides_a_scale_is_found_out(tiny):
    plain = tiny.forward

    def forward(*arguments, **keywords):
        out = plain(*arguments, **keywords)
        out.logits = out.logits * 2
        return out

    tiny.forward = forward
    assert losses.why_plain(tiny) == "its logits are not those of its linear layer"


def test_plainly_is_the_models_own_way(tiny, asked, monkeypatch):
    monkeypatch.setattr(losses, "read_hidden", lambda *_: pytest.fail("went past the head"))
    with losses.plainly():
        losses.weighted_nll(tiny, *asked, torch.ones(S))
        losses.token_logprobs(tiny, *asked)
