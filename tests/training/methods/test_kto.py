"""KTO: formula and estimate by hand, mates and their answers, a z₀ that belongs to the whole step, and a run."""

import math

import numpy as np
import pytest
import torch

from luthier.core.errors import DataError, ModelError
from luthier.core.testing import FakeContext
from luthier.models import losses
from luthier.models.template import Template
from luthier.models.weights import load, load_tokenizer
from luthier.training.machine import find
from luthier.training.method import Work
from luthier.training.methods.kto import Kto, KtoSettings, kl_estimate, kto_losses, spliced
from luthier.training.rows import Row, Tokens
from luthier.training.spec import TrainSpec


class Split(list):
    """Rows as a split holds them: sorted by id, with names."""

    @property
    def names(self):
        return [row.id for row in self]


def sequence(prompt, answer, after=()):
    ids = np.array([*prompt, *answer, *after], np.int32)
    told = np.zeros(len(ids), bool)
    told[len(prompt) : len(prompt) + len(answer)] = True
    return Tokens(ids, told)


def rows_of(n, weight=1.0):
    rng = np.random.default_rng(0)
    return Split(
        Row(
            f"row{i}",
            weight + i % 2,
            "",
            (sequence(rng.integers(3, 300, 4 + i), rng.integers(3, 300, 3)),),
            float(i % 2),
        )
        for i in range(n)
    )


def test_the_value_by_hand():
    # Gains of 4 nats against z₀ = 2, β = 0.5: good 1 - σ(1), bad 1 - σ(-1) = σ(1), times 3. A gain of z₀: half.
    logprobs, reference = torch.tensor([-1.0, -1.0, -3.0]), torch.tensor([-5.0, -5.0, -5.0])
    good, z0 = torch.tensor([True, False, True]), torch.tensor(2.0)
    sigma = 1 / (1 + math.exp(-1))
    losses = kto_losses(logprobs, reference, good, z0, 0.5, up=1.0, down=3.0)
    assert losses.tolist() == pytest.approx([1 - sigma, 3 * sigma, 0.5])


def test_a_step_down_raises_what_is_good_and_lowers_what_is_bad():
    logprobs = torch.tensor([-4.0, -4.0], requires_grad=True)
    losses = kto_losses(
        logprobs, torch.tensor([-4.0, -4.0]), torch.tensor([True, False]), torch.tensor(0.0), 0.1, 1, 1
    )
    losses.sum().backward()
    # d/dx of 1 - σ(βx) at 0 is -β/4.
    assert logprobs.grad.tolist() == pytest.approx([-0.025, 0.025])


def test_the_divergence_is_a_weighted_mean_and_never_negative():
    # Gains 2 and -1 with weights 1 and 3: (2 - 3)/4 < 0; with equal weights 1/2.
    assert kl_estimate([-1.0, -6.0], [-3.0, -5.0], [1.0, 3.0]) == 0.0
    assert kl_estimate([-1.0, -6.0], [-3.0, -5.0], [1.0, 1.0]) == pytest.approx(0.5)


def test_a_mates_answer_after_the_own_prompt():
    own, mate = sequence([1, 2, 3], [4, 5], after=[9]), sequence([7], [8, 6], after=[9])
    one = spliced(own, mate, limit=10)
    assert one.ids.tolist() == [1, 2, 3, 8, 6] and one.supervised.tolist() == [False] * 3 + [True] * 2
    assert spliced(own, mate, limit=4).ids.tolist() == [1, 2, 3, 8]
    assert spliced(own, mate, limit=2).ids.tolist() == [1, 8]


@pytest.fixture(scope="module")
def model(base):
    return load(base).requires_grad_(True)


def prepared(model, base, scratch, rows, micro_tokens=64):
    method = Kto(KtoSettings())
    machine = find(TrainSpec(dtype="fp32", device="cpu"))
    template = Template(load_tokenizer(base), 512)
    work = Work({"base": base}, template, machine, micro_tokens, scratch, "same", FakeContext(scratch))
    method.prepare(model, {"train": rows, "validation": Split()}, work)
    return method


def test_mates_go_round(model, base, tmp_path):
    rows = rows_of(3)
    method = prepared(model, base, tmp_path, rows)
    for i, mate in ((0, 1), (1, 2), (2, 0)):
        told = method.mismatched(rows[i])
        assert told.ids[told.supervised].tolist() == rows[mate].sequences[0].ids[-3:].tolist()


def test_a_step_does_not_depend_on_how_it_is_cut(model, base, tmp_path):
    rows = rows_of(5)
    method = prepared(model, base, tmp_path, rows)
    method.sums = {
        name: (own - 3, mate - 3) for name, (own, mate) in method.sums.items()
    }  # as if it had moved
    whole = method.unfold(model, rows, 0)
    other = prepared(model, base, tmp_path, rows, micro_tokens=16)
    other.sums = method.sums
    assert {row.z0 for row in whole} == {whole[0].z0} and whole[0].z0 == pytest.approx(3.0, rel=1e-3)
    assert other.unfold(model, rows, 0)[0].z0 == pytest.approx(whole[0].z0, rel=1e-5)
    told = method.loss(model, method.collate(whole))
    pieces = [method.loss(model, method.collate(part)) for part in (whole[:1], whole[1:])]
    assert told.sum.item() == pytest.approx(sum(p.sum.item() for p in pieces), rel=1e-5)
    assert told.metrics["kl"] == pytest.approx(sum(p.metrics["kl"] for p in pieces), rel=1e-5)
    # Every answer gained 3 nats and so did the mates': each value is a half, times the row's weight (1, 2, 1, 2, 1).
    assert told.by_row.tolist() == pytest.approx([0.5, 1, 0.5, 1, 0.5], rel=1e-3)
    gradients = []
    for some in ([told], pieces):
        model.zero_grad()
        sum(one.sum for one in some).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, one in gradients[0].items():
        assert torch.allclose(one, gradients[1][name], atol=1e-6, rtol=1e-4), name


def test_an_estimate_that_does_not_fit_in_memory_is_told(model, base, tmp_path, monkeypatch):
    rows = rows_of(3)
    method = prepared(model, base, tmp_path, rows)

    def large(*_):
        raise MemoryError

    monkeypatch.setattr(losses, "token_logprobs", large)
    with pytest.raises(ModelError, match=r"a micro-batch of \d+ tokens does not fit in memory"):
        method.unfold(model, rows, 0)


@pytest.mark.parametrize(
    ("rating", "told"), [(None, "this row has no rating"), (0.5, "this row has the rating 0.5")]
)
def test_a_rating_that_is_none_is_refused(base, make_record, rating, told):
    template = Template(load_tokenizer(base), 512)
    with pytest.raises(DataError, match=told) as found:
        Kto(KtoSettings()).encode(make_record(0, rating=rating), template)
    assert "map.rating" in found.value.remedy


def test_a_run_learns_from_thumbs(new_work, make_record):
    def rated(i):
        record = make_record(i)
        *asked, answer = record["messages"]
        if i % 2:
            return {**record, "rating": 1.0}
        wrong = "delivery" if answer["content"] == "billing" else "billing"
        return {**record, "messages": [*asked, {**answer, "content": wrong}], "rating": 0.0}

    rows = [rated(i) for i in range(40)]
    work = new_work("thumbs", train=rows[:32], validation=rows[32:])
    work.run(method={"kto": {"beta": 0.5}}, epochs=3, learning_rate=0.01)
    told = work.told("validation")
    # Before the first step nothing has gained anything: every value is a half.
    assert told[0]["loss"] == pytest.approx(0.5, abs=1e-3) and min(one["loss"] for one in told) < 0.49
    assert max(one["kl"] for one in told) > 0
