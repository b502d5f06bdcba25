"""GRPO: advantages, loss and divergence by hand; the gradient is A·∇ln p; answers follow from seed and row; a run whose
reward grows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from luthier.core.errors import ModelError, SpecError
from luthier.core.testing import FakeContext
from luthier.models import sample as sampling
from luthier.models.adapters import Lora
from luthier.models.losses import token_logprobs
from luthier.models.spec import LoraSpec
from luthier.models.template import Template
from luthier.models.weights import load, load_tokenizer
from luthier.training.machine import find
from luthier.training.method import Work
from luthier.training.methods.grpo import (
    Answered,
    Grpo,
    GrpoSettings,
    advantages,
    continued,
    draws_of,
    kl_estimates,
    policy_losses,
)
from luthier.training.rows import Row, Tokens
from luthier.training.spec import TrainSpec

SHORT = {"rewards": [{"length": {"max": 10}}], "max_tokens": 6, "generations": 3}


class Split(list):
    @property
    def names(self):
        return [row.id for row in self]


def test_advantages_by_hand():
    # Rewards 1, 2, 3, 6: mean 3, deviations -2, -1, 0, 3, spread sqrt(14/4).
    spread = math.sqrt(3.5) + 1e-4
    assert advantages(np.array([1.0, 2, 3, 6])).tolist() == pytest.approx(
        [-2 / spread, -1 / spread, 0, 3 / spread]
    )
    assert advantages(np.array([1.0, 2, 3, 6]), by_spread=False).tolist() == [-2, -1, 0, 3]
    assert advantages(np.array([0.7, 0.7])).tolist() == [0, 0]  # all alike: nothing to learn


def test_the_loss_by_hand():
    # ρ = p / p = 1, whatever p is: the loss is -A, and its slope in ln p is -A·ρ = -A.
    logprobs = torch.tensor([0.9, 0.2, 1e-6]).log().requires_grad_(True)
    losses = policy_losses(logprobs, torch.tensor([1.5, -2.0, 0.5]))
    assert losses.tolist() == [-1.5, 2.0, -0.5]
    losses.sum().backward()
    assert logprobs.grad.tolist() == [-1.5, 2.0, -0.5]


def test_the_divergence_by_hand():
    # p = 1/4, p_ref = 1/2: 2 - ln 2 - 1. Equal: 0.
    told = kl_estimates(torch.tensor([0.25, 0.5]).log(), torch.tensor([0.5, 0.5]).log())
    assert told.tolist() == pytest.approx([1 - math.log(2), 0])


@pytest.fixture(scope="module")
def template(base):
    return Template(load_tokenizer(base), 512)


@pytest.fixture(scope="module")
def model(base):
    return load(base).requires_grad_(True)


def prepared(model, base, template, scratch, validation=(), **wish):
    method = Grpo(GrpoSettings.model_validate({**SHORT, **wish}))
    machine = find(TrainSpec(dtype="fp32", device="cpu"))
    work = Work({"base": base}, template, machine, 64, scratch, "same", FakeContext(scratch))
    method.prepare(model, {"train": Split(), "validation": Split(validation)}, work)
    return method


def asked(template, *texts, weight=1.0):
    rows = []
    for i, text in enumerate(texts):
        ids = np.array([*template.prompt([{"role": "user", "content": text}]), 2], np.int32)
        told = np.arange(len(ids)) == len(ids) - 1
        rows.append(Row(f"row{i}", weight + i, "", (Tokens(ids, told),), answer="yes"))
    return rows


def test_one_row_per_answer_with_its_advantage(model, base, template, tmp_path):
    method = prepared(model, base, template, tmp_path)
    rows = asked(template, "parcel", "refund of it")
    made = method.unfold(model, rows, seed=3)
    assert [one.id for one in made] == [f"row{i}/{g}" for i in range(2) for g in range(3)]
    for i, row in enumerate(rows):
        group = made[3 * i : 3 * i + 3]
        rewards = np.array([one.signal for one in group])
        assert [one.advantage for one in group] == pytest.approx(advantages(rewards).tolist())
        for one in group:
            (tokens,) = one.sequences
            assert tokens.ids[~tokens.supervised].tolist() == row.sequences[0].ids[:-1].tolist()
            text = template.decode(tokens.ids[tokens.supervised])
            assert one.signal == pytest.approx(min(1, max(0, 2 - len(text) / 10)))
            assert one.weight == row.weight and one.divisor == tokens.supervised_count
    again = method.unfold(
        model, rows[1:], seed=3
    )  # an answer follows from seed and row, not from what is beside it
    for one, other in zip(again, made[3:], strict=True):
        assert one.id == other.id and one.sequences[0].ids.tolist() == other.sequences[0].ids.tolist()
    assert draws_of(3, "row1", 2, 4).tolist() != draws_of(4, "row1", 2, 4).tolist()


def test_a_row_that_a_mix_draws_twice_is_answered_anew(model, base, template, tmp_path):
    method = prepared(model, base, template, tmp_path)
    (row,) = asked(template, "parcel")
    once, twice = method.unfold(model, [row], seed=3), method.unfold(model, [row, row], seed=3)
    assert [one.id for one in twice] == [f"row0/{g}" for g in range(3)] + [f"row0#1/{g}" for g in range(3)]
    said = [one.sequences[0].ids.tolist() for one in twice]
    assert said[:3] == [one.sequences[0].ids.tolist() for one in once] and said[3:] != said[:3]


def test_answers_that_do_not_fit_in_memory_are_told(model, base, template, tmp_path, monkeypatch):
    def large(*_, **__):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(sampling, "sample", large)
    method = prepared(model, base, template, tmp_path)
    rows = asked(template, "parcel", "refund of it")
    most = max(len(row.sequences[0].ids) for row in rows) - 1
    told = rf"a batch of 6 answers \({6 * (most + 6)} tokens with their questions, at most\) does not fit in memory"
    with pytest.raises(ModelError, match=told) as found:
        method.unfold(model, rows, seed=0)
    assert "Lower max_tokens of train.method grpo" in found.value.remedy


@pytest.mark.parametrize("normalise", ["answer", "step", "constant"])
def test_what_an_answers_tokens_are_divided_by(model, base, template, tmp_path, normalise):
    method = prepared(model, base, template, tmp_path, normalise=normalise)
    made = method.unfold(model, asked(template, "parcel", "refund of it"), seed=1)
    counts = [one.sequences[0].supervised_count for one in made]
    mean = (sum(counts[:3]) + 2 * sum(counts[3:])) / 9  # the second row weighs 2
    wanted = {"answer": counts, "step": [mean] * 6, "constant": [6] * 6}[normalise]
    assert [one.divisor for one in made] == pytest.approx(wanted)


def answered(seed, n, advantage, weight=1.0, divisor=None):
    rng = np.random.default_rng(seed)
    tokens = continued(rng.integers(3, 300, 5), rng.integers(3, 300, n))
    told = {"signal": 0.5, "advantage": advantage, "divisor": divisor or float(n)}
    return Answered(f"row{seed}", weight, "", (tokens,), **told)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        scale = max(1.0, b[name].abs().max().item())
        assert torch.allclose(a[name], b[name], atol=1e-5 * scale, rtol=1e-4), name


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_the_advantage_times_that_of_the_log_probability(
    model, base, template, tmp_path, temperature
):
    method = prepared(model, base, template, tmp_path, temperature=temperature)
    rows = [answered(1, 3, 1.2), answered(2, 5, -0.4, weight=2.0)]
    told = method.loss(model, method.collate(rows))
    # ρ = 1: an answer's loss is -A, whatever its length, times the row's weight.
    assert told.by_row.tolist() == pytest.approx([-1.2, 0.8])
    assert told.metrics["reward"] == pytest.approx(1.5) and told.metrics["answer_tokens"] == pytest.approx(13)
    plain = 0.0
    for row in rows:
        ids = torch.tensor(row.sequences[0].ids, dtype=torch.long)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, 4:-1]
        logprobs = torch.log_softmax(logits / temperature, -1)[torch.arange(len(ids) - 5), ids[5:]]
        plain = plain - row.weight * row.advantage * logprobs.mean()
    close(gradients(model, told.sum), gradients(model, plain))


def test_a_step_does_not_depend_on_how_it_is_cut(model, base, template, tmp_path):
    method = prepared(model, base, template, tmp_path)
    rows = [answered(i, 2 + i, 1.0 - 0.7 * i, weight=1.0 + i % 2, divisor=4.0) for i in range(5)]
    whole = method.loss(model, method.collate(rows))
    pieces = [method.loss(model, method.collate(part)) for part in (rows[:2], rows[2:])]
    assert whole.sum.item() == pytest.approx(sum(p.sum.item() for p in pieces), rel=1e-5)
    close(gradients(model, whole.sum), gradients(model, sum(p.sum for p in pieces)))


def test_the_reference_is_the_model_without_its_adapter(base, template, tmp_path):
    plain = load(base)
    model = Lora().attach(load(base), LoraSpec(rank=4), 0)
    method = prepared(model, base, template, tmp_path, kl=0.5)
    rows = [answered(1, 3, 0.0), answered(2, 5, 0.0)]
    batch = method.collate(rows)
    start = method.loss(model.train(), batch)  # the adapter begins at zero
    assert start.metrics["kl"] == pytest.approx(0, abs=1e-6) and start.sum.item() == pytest.approx(
        0, abs=1e-5
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    told = method.loss(model, batch)
    with torch.no_grad():
        packed = batch.packed
        now, before = (
            token_logprobs(one, packed.inputs, packed.keep, packed.targets) for one in (model, plain)
        )
    wanted = packed.per_sequence(kl_estimates(now, before)) / torch.tensor([3.0, 5.0])
    assert told.by_row.tolist() == pytest.approx((0.5 * wanted).tolist(), rel=1e-4)
    assert told.metrics["kl"] == pytest.approx(wanted.sum().item(), rel=1e-4)
    assert model.training and any(g.abs().max() > 0 for g in gradients(model, told.sum).values())


def test_validation_answers_greedily_and_tells_the_reward(model, base, template, tmp_path):
    rows = asked(template, "parcel", "refund of it")
    method = prepared(model, base, template, tmp_path, validation=rows)
    made = method.unfold(model, rows, seed=0)
    assert [one.id for one in made] == ["row0", "row1"] and not any(one.learnt for one in made)
    with torch.no_grad():
        told = method.loss(model, method.collate(made))
    rewards = [one.signal for one in made]
    assert told.metrics["reward"] == pytest.approx(rewards[0] + 2 * rewards[1])
    assert told.sum.item() == pytest.approx(-told.metrics["reward"])


def test_several_rewards_are_weighed(model, base, template, tmp_path):
    rewards = [{"regex": {"pattern": "."}}, {"regex": {"pattern": "^$"}}, "exact_match"]
    method = prepared(model, base, template, tmp_path, rewards=rewards, reward_weights=[0.5, 2, 4])
    row = replace(asked(template, "x")[0], answer="parcel")
    words = template.tokenizer("parcel", add_special_tokens=False)["input_ids"]
    assert method._reward(row, continued([5, 6], words)) == 4.5
    assert method._reward(row, continued([5, 6], [2])) == 2.0  # nothing said


def test_what_cannot_be(model, base, template, tmp_path):
    with pytest.raises(SpecError, match=r"kl = 0\.1 compares with the model before training"):
        prepared(model, base, template, tmp_path, kl=0.1)
    with pytest.raises(ValidationError, match="there is no key 'clip' here"):
        GrpoSettings.model_validate({**SHORT, "clip": 0.2})
    with pytest.raises(ValidationError, match="1 reward_weights for 2 rewards; give one for each"):
        GrpoSettings.model_validate({"rewards": ["label", "number"], "reward_weights": [1]})


def test_a_run_earns_more(new_work, make_record):
    rows = [make_record(i) for i in range(20)]
    work = new_work("earn", train=rows[:16], validation=rows[16:])
    wish = {"rewards": [{"length": {"max": 8}}], "generations": 6, "max_tokens": 12}
    work.run(method={"grpo": wish}, epochs=8, learning_rate=0.02, batch={"rows": 8, "micro_tokens": 600})
    told = work.told("validation")
    assert max(one["reward"] for one in told) > told[0]["reward"] + 0.2
    steps = work.told("step")
    assert np.mean([one["reward"] for one in steps[-4:]]) > np.mean([one["reward"] for one in steps[:4]])


def test_a_prompt_computed_once_for_all_answers_is_the_same(model, base, template, tmp_path):
    method = prepared(model, base, template, tmp_path, generations=4)
    made = method.unfold(model, asked(template, "one two three four five six seven eight nine ten"), seed=2)
    apart = method.loss(model, method.collate(made))
    method.share = True
    batch = method.collate(made)
    shared = method.loss(model, batch)
    assert batch.packed.computed < batch.tokens / 2
    assert shared.by_row.tolist() == pytest.approx(apart.by_row.tolist(), rel=1e-4)
    close(gradients(model, shared.sum), gradients(model, apart.sum))
