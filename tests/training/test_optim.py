import math

import pytest
import torch

from luthier.training import optim
from luthier.training.spec import TrainSpec


def rates(total, **spec):
    return [
        optim.learning_rate(TrainSpec(learning_rate=1.0, **spec), step, total) for step in range(1, total + 1)
    ]


def test_schedules_by_hand():
    # Two of ten steps rise: 1/2, 1; then eight fall: 1 - k/8 for k = 0..7.
    assert rates(10, warmup=0.2, schedule="linear") == [
        0.5,
        1,
        1,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
    ]
    assert rates(3, warmup=0, schedule="constant") == [1, 1, 1]
    # cos(0) = 1, cos(π/2) = 0: halves at the middle.
    assert rates(4, warmup=0, schedule="cosine") == pytest.approx(
        [1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5, 1])
def test_no_step_is_wasted_on_rate_zero(schedule, warmup):
    for total in (1, 2, 7, 100):
        found = rates(total, warmup=warmup, schedule=schedule)
        assert min(found) > 0 and max(found) == 1


def parameters():
    torch.manual_seed(0)
    return [("matrix", torch.nn.Parameter(torch.randn(3, 2))), ("norm", torch.nn.Parameter(torch.ones(2)))]


def test_factors_around_one_are_not_decayed(base):
    from luthier.models import weights
    from luthier.models.adapters import Ia3
    from luthier.models.spec import Ia3Spec

    adapter = Ia3()
    named = adapter.trainable(adapter.attach(weights.load(base), Ia3Spec(), 0))
    decayed = [
        group
        for group in optim.build(named, TrainSpec(weight_decay=0.5)).param_groups
        if group["weight_decay"]
    ]
    assert named and decayed == []


def test_one_step_of_adamw_by_hand():
    # First step: m̂ = g, v̂ = g², so the update is -rate·g/(|g| + eps) = ∓rate; decay first scales by 1 - rate·decay.
    named = parameters()
    before = {name: p.detach().clone() for name, p in named}
    optimizer = optim.build(named, TrainSpec(learning_rate=0.1, weight_decay=0.5))
    for _, p in named:
        p.grad = torch.full_like(p, 0.25)
    optimizer.step()
    assert torch.allclose(named[0][1], before["matrix"] * (1 - 0.1 * 0.5) - 0.1, atol=1e-6)
    assert torch.allclose(named[1][1], before["norm"] - 0.1, atol=1e-6)  # a norm is not decayed


def test_a_stored_state_goes_on_bit_for_bit(tmp_path):
    from safetensors.torch import load_file

    from luthier.training.tensors import pieces

    def walk(named, optimizer, steps):
        for step in steps:
            for i, (_, p) in enumerate(named):
                torch.manual_seed(10 * step + i)
                p.grad = torch.randn_like(p)
            optimizer.step()

    spec = TrainSpec(learning_rate=0.1, weight_decay=0.1)
    whole = parameters()
    walk(whole, optim.build(whole, spec), range(6))
    first = parameters()
    walk(first, optimizer := optim.build(first, spec), range(3))
    (tmp_path / "o.safetensors").write_bytes(b"".join(pieces(optim.state_tensors(optimizer, first))))
    second = [(name, torch.nn.Parameter(p.detach().clone())) for name, p in first]
    optim.restore(resumed := optim.build(second, spec), second, load_file(tmp_path / "o.safetensors"))
    walk(second, resumed, range(3, 6))
    for (_, a), (_, b) in zip(whole, second, strict=True):
        assert torch.equal(a, b)


def test_the_gradient_norm_is_of_all_and_clips():
    named = parameters()
    named[0][1].grad, named[1][1].grad = torch.full((3, 2), 2.0), torch.tensor([0.0, 1.0])
    # √(6·4 + 1) = 5
    assert optim.gradient_norm(named, None) == 5.0
    assert torch.equal(named[1][1].grad, torch.tensor([0.0, 1.0]))
    assert optim.gradient_norm(named, 2.5) == 5.0
    assert torch.allclose(named[1][1].grad, torch.tensor([0.0, 0.5]), atol=1e-6)
