"""Shared = apart: losses, gradients, and what of a batch a method sees."""

import copy
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.models import weights
from luthier.models.losses import token_logprobs, weighted_nll
from luthier.models.testing import tiny_model
from luthier.training import prefixes
from luthier.training.batches import cut
from luthier.training.packing import pack_rows, pack_sequences
from luthier.training.prefixes import Prefixes, apart
from luthier.training.rows import Row, Tokens


def tokens(ids, told):
    """`told`: which tokens are learnt."""
    learnt = np.zeros(len(ids), bool)
    learnt[list(told)] = True
    return Tokens(np.asarray(ids, np.int32), learnt)


def row(name, *sequences, weight=1.0):
    return Row(name, weight, "", tuple(sequences))


@st.composite
def forests(draw):
    """Sequences that begin with some of the beginnings before them, cut anywhere, and end in tokens of their own."""
    made = []
    for _ in range(draw(st.integers(1, 6))):
        before = draw(st.sampled_from(made)) if made and draw(st.booleans()) else []
        own = draw(st.lists(st.integers(3, 40), min_size=1, max_size=12))
        ids = [*before[: draw(st.integers(0, len(before)))], *own]
        ids = ids if len(ids) > 1 else [*ids, 5]
        made.append(ids)
    return [tokens(ids, draw(st.sets(st.integers(1, len(ids) - 1), min_size=1, max_size=4))) for ids in made]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return weights.load(tiny_model(tmp_path_factory.mktemp("tiny"))).train()


@pytest.fixture
def least(monkeypatch):
    monkeypatch.setattr(prefixes, "LEAST", 2)


def told(model, batch):
    """Losses of the kept tokens and every gradient."""
    model.zero_grad()
    found = weighted_nll(model, batch.inputs, batch.keep, batch.targets, batch.weights)
    found.sum.backward()
    return found.losses_S, [p.grad.clone() for p in model.parameters()]


def near(one, other, rel):
    assert (one - other).norm() <= rel * other.norm() + 1e-12, float((one - other).norm() / other.norm())


@settings(max_examples=40, deadline=None)
@given(sequences=forests(), data=st.data())
def test_shared_equals_apart(model, sequences, data):
    kept, prefixes.LEAST = prefixes.LEAST, data.draw(st.sampled_from([1, 2, 5]))
    try:
        own = [data.draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in sequences]
        shared, plain = (pack_sequences(sequences, own, own, share=share) for share in (True, False))
    finally:
        prefixes.LEAST = kept
    # Whatever a method reads beside `inputs` and `keep` is the same.
    for name in ("targets", "weights", "owner"):
        assert torch.equal(getattr(shared, name), getattr(plain, name))
    assert (shared.tokens, shared.supervised, shared.row_weights) == (plain.tokens, plain.supervised, own)
    assert shared.computed <= plain.computed == sum(len(one.ids) - 1 for one in sequences)
    assert len(set(shared.keep.tolist())) == len(shared.keep)
    places = shared.inputs["input_ids"][0], shared.inputs["position_ids"][0]
    wanted = plain.inputs["input_ids"][0], plain.inputs["position_ids"][0]
    for one, other in zip(places, wanted, strict=True):
        assert torch.equal(one[shared.keep], other[plain.keep])

    losses, gradients = told(model, shared)
    plain_losses, plain_gradients = told(model, plain)
    near(losses, plain_losses, 2e-6)
    for one, other in zip(gradients, plain_gradients, strict=True):
        near(one, other, 5e-6)


def test_gradients_in_fp64_agree_to_the_last_digits(model, least):
    """The same law where rounding cannot hide anything."""
    exact = copy.deepcopy(model).double()
    system, asked = [*range(10, 40)], [*range(50, 61)]
    sequences = [
        tokens([*system, *asked, 7, 8, 9], [41, 42, 43]),
        tokens([*system, *asked, 7, 8], [41, 42]),
        tokens([*system, 90, 91, 92], [31]),
        tokens([100, 101, 102], [1, 2]),
    ]
    ones = [1.0] * 4
    found = []
    for share in (True, False):
        batch = pack_sequences(sequences, ones, ones, share=share)
        exact.zero_grad()
        logits_SV = exact(**batch.inputs, logits_to_keep=batch.keep, use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits_SV, batch.targets, reduction="sum")
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in exact.parameters()]))
    near(found[0][0], found[1][0], 1e-12)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        # The norms' and rotary tables' own fp32 leave 1e-7.
        near(one, other, 1e-6)


def test_what_is_shared_ends_before_the_first_learnt_prediction():
    # 20 equal tokens; token 20 is the first learnt, predicted at position 19: 19 positions are shared.
    same = list(range(20))
    sequences = [tokens([*same, 70, 71], [20, 21]), tokens([*same, 80], [20])]
    pieces, ends = Prefixes(sequences).pieces([0, 1])
    assert [(one.first, one.last, one.above) for one in pieces] == [(0, 19, None), (19, 21, 0), (19, 20, 0)]
    assert ends == {0: 1, 1: 2}
    batch = pack_sequences(sequences, [1.0, 1.0], [2.0, 1.0], share=True)
    # 19 + 2 + 1 inputs of 21 + 20; learnt at 19, 20 (first) and 21 (second).
    assert (batch.computed, batch.tokens, batch.keep.tolist()) == (22, 43, [19, 20, 21])
    assert batch.inputs["position_ids"][0, -3:].tolist() == [19, 20, 19]
    assert Prefixes(sequences).tokens([0, 1]) == 22 + 2


def test_two_levels():
    system = list(range(100, 140))
    first, second = [*system, *range(200, 220)], [*system, *range(300, 317)]
    sequences = [tokens([*first, 9, k], [len(first) + 1]) for k in (1, 2)]
    sequences += [tokens([*second, 9, k], [len(second) + 1]) for k in (3, 4)]
    pieces, _ = Prefixes(sequences).pieces(range(4))
    # The token before the learnt one (9) is where the prediction is made, so it is not shared.
    assert [(one.first, one.last, one.above) for one in pieces] == [
        (0, 40, None),
        (40, 60, 0), (60, 61, 1), (60, 61, 1),
        (40, 57, 0), (57, 58, 4), (57, 58, 4),
    ]  # fmt: skip


def test_little_in_common_is_not_worth_sharing():
    short = list(range(prefixes.LEAST - 1))
    sequences = [tokens([*short, 70, 71], [len(short) + 1]), tokens([*short, 80, 81], [len(short) + 1])]
    assert Prefixes(sequences).pieces([0, 1]) == apart(sequences)


def test_without_anything_in_common_the_line_is_the_plain_one():
    rows = [row(str(k), tokens([k, k + 1, k + 2, 9], [2, 3]), weight=k) for k in (30, 20, 10)]
    shared, plain = pack_rows(rows, share=True), pack_rows(rows)
    for name in ("input_ids", "position_ids"):
        assert torch.equal(shared.inputs[name], plain.inputs[name])
    assert torch.equal(shared.keep, plain.keep) and not shared.inputs["layout"].shared


def test_log_probabilities_of_pairs(model, least):
    """A preference method sums by sequence; chosen and rejected share their prompt."""
    prompt = list(range(20, 50))
    rows = [
        row("a", tokens([*prompt, 5, 6, 7], [30, 31, 32]), tokens([*prompt, 8, 9], [30, 31])),
        row("b", tokens([*prompt[:9], 5, 6], [9, 10]), tokens([*prompt[:9], 8], [9])),
    ]
    sums = []
    for share in (True, False):
        batch = pack_rows(rows, share=share)
        with torch.no_grad():
            logprobs_S = token_logprobs(model, batch.inputs, batch.keep, batch.targets)
        sums.append(batch.per_sequence(logprobs_S))
    near(*sums, 1e-6)


# -- cutting a step into micro-batches -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(sequences=forests(), data=st.data())
def test_a_cut_holds_every_row_once_and_the_budget(sequences, data):
    """Rows of one or two sequences; what is counted is what the line will hold."""
    kept, prefixes.LEAST = prefixes.LEAST, 2
    try:
        sizes = data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=len(sequences)))
        ends = [end for end in accumulate(sizes) if end <= len(sequences)] or [len(sequences)]
        starts = [0, *ends[:-1]]
        rows = [row(f"r{a}", *sequences[a:b]) for a, b in zip(starts, ends, strict=True)]
        budget = data.draw(st.integers(2, 80))
        parts = cut(rows, budget, share=True)
        assert sorted(i for part in parts for i in part) == list(range(len(rows)))
        assert parts == cut(rows, budget, share=True)
        for part in parts:
            batch = pack_rows([rows[i] for i in part], share=True)
            assert batch.computed + batch.sequences <= budget or len(part) == 1
    finally:
        prefixes.LEAST = kept


def test_rows_that_begin_alike_come_together():
    """Two instructions of 100 tokens, six rows of each with 20 of their own: 100 + 6·20 = 220 tokens for all of one."""
    rows = []
    for k in range(12):
        begin = range(1000, 1100) if k % 2 else range(2000, 2100)
        rows.append(row(str(k), tokens([*begin, *range(k * 20 + 1, k * 20 + 21)], [110])))
    assert cut(rows, 250, share=True) == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    # Apart, 12·120 tokens fill at least six micro-batches of two.
    assert len(cut(rows, 250)) == 6
    # A set that is too large is cut evenly: 100 + 3·20 in each part, of which two do not fit in 219 together.
    assert [len(part) for part in cut(rows, 219, share=True)] == [3, 3, 3, 3]


def test_a_cut_does_not_depend_on_what_rows_are_called_and_a_long_row_goes_alone():
    begin = list(range(500, 540))
    rows = [row(str(k), tokens([*begin, k, k + 1], [41])) for k in range(5)]
    rows.append(row("long", tokens(list(range(300)), [299])))
    assert cut(rows, 100, share=True) == [[5], [0, 1, 2, 3, 4]]
    apart = [row(one.id, tokens(one.sequences[0].ids + 1000 * k, [41])) for k, one in enumerate(rows)]
    assert cut(apart, 100, share=True) == cut(apart, 100)
    assert cut([], 100, share=True) == []
