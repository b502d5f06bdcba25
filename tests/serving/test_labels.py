"""Choosing a label: the arithmetic against numbers made by hand, and the laws of a draw."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.serving.labels import choose

THREE = [math.log(0.2), math.log(0.7), math.log(0.1)]


def shares(temperature, top_p, n=4000):
    counts = Counter(choose(THREE, temperature, top_p, seed) for seed in range(n))
    return [counts[i] / n for i in range(3)]


def test_draws_follow_the_distribution():
    # four standard errors of a share near 0.5 in 4,000 draws: 4 * sqrt(0.25 / 4000) = 0.032
    assert shares(1, 1) == pytest.approx([0.2, 0.7, 0.1], abs=0.032)
    # temperature 2 takes square roots: 0.447, 0.837, 0.316, sum 1.600 -> 0.279, 0.523, 0.198
    assert shares(2, 1) == pytest.approx([0.279, 0.523, 0.198], abs=0.032)
    # top_p 0.8 keeps 0.7 and 0.2, which hold 0.9 -> 0.222, 0.778
    assert shares(1, 0.8) == pytest.approx([0.222, 0.778, 0], abs=0.032)
    # 0.7 alone already holds 0.69
    assert shares(1, 0.69) == [0, 1, 0]
    assert shares(1, 0) == [0, 1, 0]


def test_ties_go_to_the_first():
    assert choose([math.log(0.5)] * 2, 0, 1, None) == 0


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=20), st.floats(0, 2), st.floats(0, 1), st.integers())
def test_a_seed_fixes_the_choice_and_the_choice_is_an_index(logprobs, temperature, top_p, seed):
    index = choose(logprobs, temperature, top_p, seed)
    assert 0 <= index < len(logprobs)
    assert choose(logprobs, temperature, top_p, seed) == index
    if temperature == 0 or top_p == 0:
        assert logprobs[index] == max(logprobs)


def test_a_tiny_temperature_does_not_overflow():
    assert choose([-1000.0, -1.0], 1e-300, 1, 0) == 1
