import numpy as np
import pytest

from luthier.monitoring import two_samples


def cloud(n, seed, shift=0.0):
    told = np.random.default_rng(seed).normal(size=(n, 16))
    told[:, 0] += shift
    return np.clip(np.rint(told * 30), -127, 127).astype(np.int8)


def test_equal_samples_differ_by_luck_alone():
    """40 pairs of samples: p is uniform, so at most 6 of 40 below 0.05 but for one case in 60 (binomial)."""
    found = [(two_samples.mmd(cloud(40, n), cloud(30, 1000 + n)).p, two_samples.told_apart(cloud(40, n), cloud(30, 1000 + n)).p)
             for n in range(40)]  # fmt: skip
    below = (np.array(found) < 0.05).sum(0)
    assert (below <= 6).all()
    assert 0.3 < np.mean([one[0] for one in found]) < 0.7


def test_a_shift_is_found_and_its_size_is_told():
    near, far = (two_samples.told_apart(cloud(300, 1), cloud(300, 2, shift)) for shift in (1.0, 3.0))
    assert two_samples.mmd(cloud(300, 1), cloud(300, 2, 1.0)).p < 0.01
    assert near.p < 0.01 and far.effect > near.effect > 0.5 and far.low > 0.8


def test_mmd_is_the_formula_written_out():
    """Gretton et al. 2012, equation 3, in loops."""
    one, other = cloud(7, 1), cloud(9, 2, 1.0)
    both = two_samples._unit(np.concatenate([one, other])).astype(np.float64)
    squared = ((both[:, None] - both[None]) ** 2).sum(2)
    width = np.median(squared[np.triu_indices(16, 1)])
    kernel = np.exp(-squared / width)
    x, y = range(7), range(7, 16)
    value = (
        sum(kernel[i, j] for i in x for j in x if i != j) / (7 * 6)
        + sum(kernel[i, j] for i in y for j in y if i != j) / (9 * 8)
        - 2 * sum(kernel[i, j] for i in x for j in y) / (7 * 9)
    )
    assert two_samples.mmd(one, other).effect == pytest.approx(value, abs=1e-4)


def test_delong_is_the_auc_of_pairs():
    generator = np.random.default_rng(0)
    above, below = generator.integers(0, 9, 40) + 1.0, generator.integers(0, 9, 30) * 1.0
    pairs = np.mean([(a > b) + 0.5 * (a == b) for a in above for b in below])
    auc, spread = two_samples.delong(above, below)
    assert auc == pytest.approx(pairs) and 0 < spread < 0.1


def test_words_and_numbers():
    chi, stability = two_samples.words(["a"] * 90 + ["b"] * 10, ["a"] * 50 + ["b"] * 30 + ["c"] * 20)
    assert chi.p < 1e-6 and chi.effect > 0.3 and stability.effect > 0.25
    same, _ = two_samples.words(["a"] * 50, ["a"] * 70)
    assert (same.p, same.effect) == (1.0, 0.0)
    ks, stability = two_samples.numbers(np.arange(100.0), np.arange(100.0) + 30)
    assert ks.effect == pytest.approx(0.3) and ks.p < 0.001 and stability.by_luck < stability.effect
