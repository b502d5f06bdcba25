"""The laws of merging, each against the same in plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.models import combine

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))


def draws(shape, count, seed):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(np.float32) for _ in range(count + 1)]


def t(arrays):
    return [torch.from_numpy(one.copy()) for one in arrays]


def same(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(SHAPES, st.integers(0, 999), st.lists(st.floats(0.1, 3), min_size=1, max_size=4))
def test_linear(shape, seed, weights):
    _, *models = draws(shape, len(weights), seed)
    same(
        combine.linear(t(models), weights),
        sum(w * m for w, m in zip(weights, models, strict=True)) / sum(weights),
    )


def test_linear_of_one_model_is_that_model_to_the_bit():
    model = torch.randn(5, 7)
    assert torch.equal(combine.linear([model], [0.3]), model)


@settings(max_examples=40)
@given(SHAPES, st.integers(0, 999), st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_task_arithmetic(shape, seed, weights):
    base, *models = draws(shape, len(weights), seed)
    wanted = base + sum(w * (m - base) for w, m in zip(weights, models, strict=True))
    same(combine.task_arithmetic(t([base])[0], t(models), weights), wanted)


def test_a_task_and_its_negation_leave_the_base():
    base, model = torch.randn(4, 4), torch.randn(4, 4)
    torch.testing.assert_close(combine.task_arithmetic(base, [model, model], [1.0, -1.0]), base)


def ties_in_numpy(base, models, weights, density):
    """Algorithm 1 of the paper, number by number."""
    vectors = []
    for model in models:
        vector = (model - base).ravel()
        keep = max(1, round(density * vector.size))
        border = np.sort(np.abs(vector))[-keep]
        vectors.append(np.where(np.abs(vector) >= border, vector, 0))
    merged = np.zeros(base.size, np.float32)
    for i in range(base.size):
        mass = sum(w * v[i] for w, v in zip(weights, vectors, strict=True))
        agreeing = [
            (w, v[i])
            for w, v in zip(weights, vectors, strict=True)
            if v[i] != 0 and np.sign(w * v[i]) == np.sign(mass)
        ]
        if agreeing and mass:
            merged[i] = sum(w * v for w, v in agreeing) / sum(abs(w) for w, _ in agreeing)
    return base + merged.reshape(base.shape)


@settings(max_examples=60)
@given(SHAPES, st.integers(0, 999), st.lists(st.floats(0.2, 2), min_size=1, max_size=4), st.floats(0.1, 1))
def test_ties(shape, seed, weights, density):
    base, *models = draws(shape, len(weights), seed)
    ours = combine.ties(t([base])[0], t(models), weights, density)
    same(ours, ties_in_numpy(base, models, weights, density))


def test_ties_of_one_whole_model_is_that_model():
    base, model = torch.randn(8, 8), torch.randn(8, 8)
    torch.testing.assert_close(combine.ties(base, [model], [1.0], 1.0), model)
    torch.testing.assert_close(
        combine.ties(base, [model], [0.4], 1.0), model
    )  # a mean of one is it, whatever its weight


def slerp_in_numpy(one, other, t):
    a, b = one.ravel().astype(float), other.ravel().astype(float)
    angle = np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
    mixed = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return mixed.reshape(one.shape)


@settings(max_examples=40)
@given(st.integers(0, 999), st.floats(0.01, 0.99))
def test_slerp(seed, at):
    _, one, other = draws((3, 5), 2, seed)
    same(combine.slerp(*t([one, other]), at), slerp_in_numpy(one, other, at))


def test_the_ends_of_slerp_are_the_models_to_the_bit():
    one, other = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(combine.slerp(one, other, 0.0), one)
    assert torch.equal(combine.slerp(one, other, 1.0), other)


def test_slerp_is_straight_where_there_is_no_arc():
    one = torch.randn(3, 4)
    torch.testing.assert_close(combine.slerp(one, 3 * one, 0.5), 2 * one)
    assert torch.isfinite(combine.slerp(one, -one, 0.5)).all()
    torch.testing.assert_close(combine.slerp(torch.zeros(3, 4), one, 0.25), one / 4)


def test_the_length_along_an_arc_between_two_of_one_length_stays():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert combine.slerp(one, other, 0.3).norm() == pytest.approx(1.0)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_dare_keeps_the_expectation(density):
    """Over 400 seeds the mean of vector/density·Bernoulli(density) has the deviation |v|·√((1-density)/density/400)."""
    base, model = torch.zeros(50), torch.linspace(-2, 2, 50)
    mean = sum(combine.dare(base, [model], [1.0], density, s, "w", elect=False) for s in range(400)) / 400
    deviation = model.abs() * ((1 - density) / density / 400) ** 0.5
    assert ((mean - model).abs() <= 4.5 * deviation + 1e-6).all()


def test_dare_drops_by_seed_name_and_place_and_nothing_else():
    vector = torch.ones(1000)
    one = combine.dropped(vector, 0.3, 7, "0:w")
    assert torch.equal(one, combine.dropped(vector, 0.3, 7, "0:w"))
    assert not torch.equal(one, combine.dropped(vector, 0.3, 8, "0:w"))
    assert not torch.equal(one, combine.dropped(vector, 0.3, 7, "1:w"))
    assert torch.equal(one[one > 0], torch.full_like(one[one > 0], 1.0) / 0.3)
    assert (one > 0).float().mean() == pytest.approx(0.3, abs=0.06)  # four deviations of √(0.3·0.7/1000)


def test_dare_that_drops_nothing_is_task_arithmetic_or_ties():
    base, one, other = torch.randn(4, 4), torch.randn(4, 4), torch.randn(4, 4)
    plain = combine.dare(base, [one, other], [0.5, 0.7], 1.0, 0, "w", elect=False)
    torch.testing.assert_close(plain, combine.task_arithmetic(base, [one, other], [0.5, 0.7]))
    elected = combine.dare(base, [one, other], [0.5, 0.7], 1.0, 0, "w", elect=True)
    torch.testing.assert_close(elected, combine.ties(base, [one, other], [0.5, 0.7], 1.0))
