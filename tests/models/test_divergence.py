"""The divergence of two models: by hand, slice by slice = all logits at once, and no gradient for the teacher."""

import math

import numpy as np
import pytest
import torch

from luthier.models import divergence, losses
from luthier.models.attention import packed
from luthier.models.divergence import Wish, divergences, plain_weighted_divergence, weighted_divergence
from luthier.models.testing import tiny_model
from luthier.models.weights import load


def test_by_hand():
    # Student (3/4, 1/4), teacher (1/2, 1/2).
    # forward: ½·ln(½ / ¾) + ½·ln(½ / ¼) = ½·ln(4/3);  reverse: ¾·ln(3/2) + ¼·ln(1/2)
    student, teacher = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert divergences(student, teacher, 1.0, "forward").item() == pytest.approx(0.5 * math.log(4 / 3))
    reverse = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergences(student, teacher, 1.0, "reverse").item() == pytest.approx(reverse)
    # Temperature 1/2 squares the student's odds, 3 -> 9: (9/10, 1/10); T² = 1/4.
    squared = 0.25 * (0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    assert divergences(student, teacher, 0.5, "forward").item() == pytest.approx(squared, rel=1e-5)
    assert divergences(student, student, 3.0, "forward").item() == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divergence")
    student = tiny_model(folder / "student", hidden=16, heads=2, kv_heads=1)
    teacher = tiny_model(folder / "teacher", hidden=32, heads=4, kv_heads=2, seed=5)
    return load(student).requires_grad_(True), load(teacher).requires_grad_(False)


@pytest.mark.parametrize("wish", [Wish(1.0, "forward", 0.0, 400), Wish(2.0, "reverse", 0.3, 512)])
def test_slices_are_the_whole(models, monkeypatch, wish):
    student, teacher = models
    monkeypatch.setattr(divergence, "SLICE_BYTES", 0)
    monkeypatch.setattr(divergence, "THINNEST", 7)
    rng = np.random.default_rng(0)
    width = student.get_output_embeddings().weight.shape[0]
    ids = torch.tensor(rng.integers(3, 300, 40))
    inputs = {"input_ids": ids[None], **packed([25, 15])}
    keep = torch.tensor(sorted(rng.choice(40, 23, replace=False)))
    targets, weights = torch.tensor(rng.integers(3, 300, 23)), torch.rand(23)
    wish = Wish(wish.temperature, wish.direction, wish.labels, min(wish.width, width))
    told = []
    for way in (weighted_divergence, plain_weighted_divergence):
        student.zero_grad()
        found = way(student, teacher, inputs, keep, targets, weights, wish)
        (found.sum * 0.5).backward()
        told.append((found, {name: p.grad.clone() for name, p in student.named_parameters()}))
    (fast, fast_grads), (plain, plain_grads) = told
    assert fast.sum.item() == pytest.approx(plain.sum.item(), rel=1e-5)
    assert torch.allclose(fast.divergences_S, plain.divergences_S, atol=1e-4, rtol=1e-4)
    assert torch.allclose(fast.losses_S, plain.losses_S, atol=1e-5)
    for name, one in plain_grads.items():
        assert torch.allclose(fast_grads[name], one, atol=1e-4 * max(1.0, one.abs().max())), name
    assert all(p.grad is None for p in teacher.parameters())
    with torch.no_grad():
        again = weighted_divergence(student, teacher, inputs, keep, targets, weights, wish)
    assert again.sum.item() == pytest.approx(fast.sum.item(), rel=1e-6)


def test_without_gradients_none_are_computed(models, monkeypatch):
    student, teacher = models
    inputs, keep = {"input_ids": torch.arange(3, 13)[None], **packed([10])}, torch.arange(9)
    given = inputs, keep, torch.arange(4, 13), torch.ones(9)
    monkeypatch.setattr(torch.autograd, "grad", lambda *_: pytest.fail("a gradient was computed"))
    monkeypatch.setattr(losses._Gradients, "add", lambda *_: pytest.fail("a gradient was computed"))
    with torch.no_grad():
        weighted_divergence(student, teacher, *given, Wish(1.0, "forward", 0.5, 300))
        losses.weighted_nll(student, *given)


def test_plainly_means_the_logits_of_both_models(models, monkeypatch):
    student, teacher = models
    ids = torch.arange(3, 13)
    given = (
        {"input_ids": ids[None], **packed([10])},
        torch.arange(9),
        ids[1:],
        torch.ones(9),
        Wish(1.0, "forward", 0.0, 300),
    )
    wanted = plain_weighted_divergence(student, teacher, *given).sum.item()

    def sharded(*_):
        raise AssertionError("the head's weight is not there")

    monkeypatch.setattr(divergence, "read_hidden", sharded)
    assert not losses.plain(student, teacher)
    with losses.plainly():
        assert losses.plain(student, teacher)
        assert weighted_divergence(student, teacher, *given).sum.item() == wanted
    with pytest.raises(AssertionError, match="not there"):
        weighted_divergence(student, teacher, *given)


def test_one_head_that_is_not_understood_makes_both_plain(models):
    student, teacher = models
    other = torch.nn.Linear(2, 2)
    losses.leave_plain(other, "it is none")
    assert losses.plain(student, other) and losses.plain(other, teacher) and not losses.plain(student)
