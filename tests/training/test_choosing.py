"""Which trial is kept: by hand, and the same whatever order trials come in."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.training.search import Trial, choose, front, standard_error


def _trial(number, value, work, rows=(), folds=()):
    return Trial(number, {}, "done", value, work=work, value_R=tuple(rows), value_K=tuple(folds))


def test_folds_give_the_standard_error_where_it_is_the_larger_one():
    # differences 0.01, 0.03, 0.05: standard deviation 0.02, over the root of three
    one = _trial(0, 0.83, 1, [0.8, 0.81], (0.82, 0.83, 0.84))
    other = _trial(1, 0.80, 1, [0.79, 0.8], (0.81, 0.80, 0.79))
    assert standard_error(one, other) == pytest.approx(0.02 / math.sqrt(3))
    # the rows' resamples differ by 0.01 each time, which is no spread at all
    assert standard_error(_trial(0, 0.83, 1, [0.8, 0.81]), _trial(1, 0.8, 1, [0.79, 0.8])) == pytest.approx(
        0, abs=1e-12
    )


def test_the_reason_names_what_was_given_up_for_what():
    cheap = _trial(0, 0.80, 1.0, [0.79, 0.81, 0.81, 0.79])
    dear = _trial(1, 0.81, 4.0, [0.83, 0.79, 0.83, 0.79])
    found = choose([cheap, dear], higher=True)
    assert found.kept is cheap
    assert "0.01 behind" in found.why
    assert "25 % of its work" in found.why
    assert choose([cheap, dear], higher=True, rule="best").kept is dear
    # what costs the same is chosen by its value alone
    alike = _trial(2, 0.81, 1.0, [0.83, 0.79, 0.83, 0.79])
    assert choose([cheap, alike], higher=True).kept is alike
    # lower is better: the cheap one is the best there
    assert choose([cheap, dear], higher=False).best is cheap


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1, max_size=12), st.integers(0, 10**6)
)
def test_who_finishes_makes_no_difference_and_nothing_on_the_front_is_beaten(points, seed):
    noise = np.random.default_rng(seed)
    trials = [_trial(n, v, w, noise.normal(v, 0.02, 20)) for n, (v, w) in enumerate(points)]
    mixed = trials[:]
    random.Random(seed).shuffle(mixed)
    one, other = choose(trials, higher=True), choose(mixed, higher=True)
    assert one == other
    on = set(one.front)
    for a in trials:
        beaten = any(
            b.value >= a.value and b.work <= a.work and (b.value > a.value or b.work < a.work) for b in trials
        )
        assert not (a.number in on and beaten)
    assert one.best.number in on or any(t.value == one.best.value and t.work == one.best.work for t in trials)
    assert one.kept.work <= one.best.work
    assert front([], higher=True) == ()
