"""Preference methods over pairs: formulas by hand, gradients' signs, no dependence on the cut, the kept reference, and a
run of each that learns to prefer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError, ModelError
from luthier.core.testing import FakeContext
from luthier.models import losses
from luthier.models.template import Template
from luthier.models.testing import tiny_model
from luthier.models.weights import load, load_tokenizer
from luthier.training.machine import find
from luthier.training.method import Work
from luthier.training.methods.dpo import dpo_losses
from luthier.training.methods.ipo import ipo_losses
from luthier.training.methods.orpo import log_odds, orpo_losses
from luthier.training.methods.reference import answer_logprobs
from luthier.training.methods.simpo import simpo_losses
from luthier.training.rows import Row, Tokens
from luthier.training.spec import MethodSpec, TrainSpec

PAIRED = ("dpo", "ipo", "orpo", "simpo")
LN2 = math.log(2)


def made(written):
    spec = MethodSpec.model_validate(written)
    return spec.load()(spec.settings)


def tensors(*values, grad=False):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=grad) for value in values]


# -- formulas -----------------------------------------------------------------------------------------------------------


def test_dpo_by_hand():
    # First pair: nothing has moved, h = 0, the loss is -ln σ(0) = ln 2.
    # Second: chosen +3, rejected -1 against the reference, h = 4; β = 0.5 gives -ln σ(2) = ln(1 + e⁻²) = 0.126928.
    chosen, rejected, ref_chosen, ref_rejected = tensors(
        [-5.0, -2.0], [-7.0, -4.0], [-5.0, -5.0], [-7.0, -3.0]
    )
    losses = dpo_losses(chosen, rejected, ref_chosen, ref_rejected, beta=0.5)
    assert losses.tolist() == pytest.approx([LN2, math.log1p(math.exp(-2))])
    # A tenth of the pairs the wrong way round: 0.9·ln(1 + e⁻²) + 0.1·ln(1 + e²), and ln(1 + e²) = 2 + ln(1 + e⁻²).
    smooth = dpo_losses(chosen, rejected, ref_chosen, ref_rejected, beta=0.5, label_smoothing=0.1)
    assert smooth.tolist() == pytest.approx([LN2, math.log1p(math.exp(-2)) + 0.2])


def test_ipo_by_hand():
    # h = 4 as above; τ = 0.1 aims at 1/0.2 = 5: (4 - 5)² = 1. Nothing has moved: (0 - 5)² = 25.
    chosen, rejected, ref_chosen, ref_rejected = tensors(
        [-5.0, -2.0], [-7.0, -4.0], [-5.0, -5.0], [-7.0, -3.0]
    )
    assert ipo_losses(chosen, rejected, ref_chosen, ref_rejected, tau=0.1).tolist() == pytest.approx([25, 1])


def test_orpo_by_hand():
    # p = 1/2: odds 1; p = 1/5: odds 1/4. Ratio 4: -ln σ(ln 4) = ln(1 + 1/4). With λ = 0.1: ln 2 + 0.1·ln 1.25.
    chosen, rejected = tensors([math.log(0.5)], [math.log(0.2)])
    assert log_odds(rejected).exp().item() == pytest.approx(0.25)
    assert orpo_losses(chosen, rejected, 0.1).item() == pytest.approx(LN2 + 0.1 * math.log(1.25))
    assert math.isfinite(log_odds(torch.zeros(1)).item())  # a probability that is rounded to one


def test_simpo_by_hand():
    # β·(-1 - -1.5) - γ = 2·0.5 - 1 = 0: ln 2. Without a margin: -ln σ(1) = ln(1 + e⁻¹).
    chosen, rejected = tensors([-1.0], [-1.5])
    assert simpo_losses(chosen, rejected, 2.0, 1.0).item() == pytest.approx(LN2)
    assert simpo_losses(chosen, rejected, 2.0, 0.0).item() == pytest.approx(math.log1p(math.exp(-1)))


@pytest.mark.parametrize("name", PAIRED)
def test_a_step_down_raises_the_chosen_and_lowers_the_rejected(name):
    chosen, rejected = tensors([-1.2], [-1.0], grad=True)
    reference = tensors([-1.2], [-1.0])
    {
        "dpo": lambda: dpo_losses(chosen, rejected, *reference, 0.1),
        "ipo": lambda: ipo_losses(chosen, rejected, *reference, 0.1),
        "orpo": lambda: orpo_losses(chosen, rejected, 0.1),
        "simpo": lambda: simpo_losses(chosen, rejected, 2.0, 1.0),
    }[name]().sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()


# -- rows and batches ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("preference") / "tiny", hidden=16, heads=2, kv_heads=1)
    return load(folder).requires_grad_(True)


def row(seed, n, weight=1.0, answers=(3, 5)):
    """A prompt of n tokens and answers of these lengths."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(3, 300, n).astype(np.int32)
    sequences = []
    for length in answers:
        ids = np.concatenate([prompt, rng.integers(3, 300, length).astype(np.int32)])
        sequences.append(Tokens(ids, np.arange(len(ids)) >= n))
    return Row(f"row{seed}", weight, "", tuple(sequences))


def plain_sums(model, row):
    """The plain twin: one sequence at a time, log-softmax over all logits."""
    sums = []
    for one in row.sequences:
        ids = torch.tensor(one.ids, dtype=torch.long)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        told = torch.log_softmax(logits[:-1].float(), -1)[torch.arange(len(ids) - 1), ids[1:]]
        sums.append(told[torch.tensor(one.supervised[1:])].sum())
    return sums


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def close(a, b):
    for name in a:
        scale = max(1.0, b[name].abs().max().item())
        assert torch.allclose(a[name], b[name], atol=1e-5 * scale, rtol=1e-4), name


@pytest.mark.parametrize("name", PAIRED)
def test_a_micro_batch_is_the_formula_on_plain_log_probabilities(model, name):
    method, rows = made(name), [row(1, 6), row(2, 9, weight=2.0, answers=(4, 1))]
    method.sums = {"row1": (-20.0, -30.0), "row2": (-25.0, -5.0)}
    batch = method.collate(rows)
    assert batch.row_weights == [1.0, 2.0] and batch.supervised == 3 + 5 + 4 + 1
    wanted = []
    for one in rows:
        chosen, rejected = plain_sums(model, one)
        n, m = (s.supervised_count for s in one.sequences)
        reference = [torch.tensor(x) for x in method.sums[one.id]]
        wanted.append(
            {
                "dpo": lambda c=chosen, r=rejected, ref=reference: dpo_losses(c, r, *ref, 0.1),
                "ipo": lambda c=chosen, r=rejected, ref=reference: ipo_losses(c, r, *ref, 0.1),
                "orpo": lambda c=chosen / n, r=rejected / m: orpo_losses(c, r, 0.1),
                "simpo": lambda c=chosen / n, r=rejected / m: simpo_losses(c, r, 2.0, 1.0),
            }[name]()
        )
    told = method.loss(model, batch)
    assert told.by_row.tolist() == pytest.approx([wanted[0].item(), 2 * wanted[1].item()], rel=1e-4)
    close(gradients(model, told.sum), gradients(model, wanted[0] + 2 * wanted[1]))


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(PAIRED),
    st.lists(st.tuples(st.integers(2, 12), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=5),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_a_step_does_not_depend_on_how_it_is_cut(model, name, told, cut):
    method = made(name)
    rows = [row(i, n, weight) for i, (n, weight) in enumerate(told)]
    method.sums = {f"row{i}": (-20.0 - i, -22.0) for i in range(len(rows))}
    parts = [[r for r, c in zip(rows, cut, strict=False) if c == k] for k in range(3)]
    weight = sum(one.weight for one in rows)
    whole = method.loss(model, method.collate(rows))
    pieces = [method.loss(model, method.collate(part)) for part in parts if part]
    assert whole.sum.item() == pytest.approx(sum(p.sum.item() for p in pieces), rel=1e-4)
    for metric, value in whole.metrics.items():
        assert value == pytest.approx(sum(p.metrics[metric] for p in pieces), rel=1e-4, abs=1e-5)
    close(gradients(model, whole.sum / weight), gradients(model, sum(p.sum / weight for p in pieces)))


# -- records ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(base):
    return Template(load_tokenizer(base), 512)


def paired(record):
    right = record["messages"][-1]["content"]
    return {**record, "rejected": "delivery" if right == "billing" else "billing"}


def test_only_the_last_answer_is_compared(template):
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    chosen, rejected = made("dpo").encode({"messages": messages, "rejected": "five five"}, template).sequences
    for one, text in ((chosen, "four"), (rejected, "five five")):
        told = [i for i, s in zip(one.ids, one.supervised, strict=True) if s]
        assert template.decode(told) == text and told[-1] in template.end_ids
    assert chosen.ids[: chosen.supervised.index(True)] == template.prompt(messages[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": None}, r"`dpo` compares .* no rejected answer.\n  → Map its column \(map.rejected\)"),
        ({"rejected": "same"}, r"the rejected answer is the chosen one \('same'\)"),
        ({"messages": None, "text": "x", "rejected": "y"}, "this row is a plain text"),
    ],
)
def test_what_is_no_pair_is_refused(template, change, message):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "same"}]
    with pytest.raises(DataError, match=message):
        made("dpo").encode({"messages": messages, "text": None, **change}, template)


# -- the reference ------------------------------------------------------------------------------------------------------


def work_for(base, template, scratch, micro_tokens=64):
    machine = find(TrainSpec(dtype="fp32", device="cpu"))
    return Work({"base": base}, template, machine, micro_tokens, scratch, "same", FakeContext(scratch))


def test_the_reference_is_computed_once_and_read_back(model, base, template, tmp_path):
    splits = {"train": [row(i, 4 + i) for i in range(5)], "validation": [row(9, 7)]}
    first, second = made("dpo"), made("dpo")
    first.prepare(model, splits, work_for(base, template, tmp_path))
    for one in [*splits["train"], *splits["validation"]]:
        with torch.no_grad():
            wanted = [s.item() for s in plain_sums(model, one)]
        assert first.sums[one.id] == pytest.approx(wanted, rel=1e-4)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".parquet", ".parquet"]
    second.prepare(None, splits, work_for(base, template, tmp_path))  # no model is asked
    assert second.sums == first.sums
    loss = first.loss(model, first.collate(splits["train"]))  # nothing has moved yet
    assert loss.sum.item() == pytest.approx(5 * LN2, rel=1e-4)


def test_a_reference_that_does_not_fit_in_memory_is_told(model, base, template, tmp_path, monkeypatch):
    def large(*_):
        raise MemoryError

    monkeypatch.setattr(losses, "token_logprobs", large)
    one = row(3, 20)
    tokens = sum(len(sequence.ids) for sequence in one.sequences)
    with pytest.raises(ModelError, match=f"a micro-batch of {tokens} tokens does not fit in memory") as told:
        made("dpo").prepare(model, {"train": [one]}, work_for(base, template, tmp_path))
    assert "Lower train.batch.micro_tokens" in told.value.remedy


def test_log_probabilities_do_not_depend_on_micro_batches(model, base, template, tmp_path):
    units = [row(i, 3 + i).sequences for i in range(6)]
    narrow = answer_logprobs(model, units, work_for(base, template, tmp_path, micro_tokens=16))
    wide = answer_logprobs(model, units, work_for(base, template, tmp_path, micro_tokens=4096))
    assert np.allclose(narrow, wide, rtol=1e-5)


@pytest.mark.parametrize("name", PAIRED)
def test_a_run_learns_to_prefer(new_work, make_record, name):
    rows = [paired(make_record(i)) for i in range(40)]
    work = new_work(f"pairs-{name}", train=rows[:32], validation=rows[32:])
    work.run(method=name, epochs=4, learning_rate=0.01)
    told = work.told("validation")
    assert told[-1]["margin"] > told[0]["margin"] and max(one["accuracy"] for one in told) > 0.5
    assert min(one["loss"] for one in told) < told[0]["loss"]


@pytest.mark.parametrize("name", PAIRED)
def test_a_prompt_computed_once_for_both_answers_is_the_same(model, name):
    method, rows = made(name), [row(1, 20), row(2, 36, weight=2.0, answers=(4, 1))]
    method.sums = {"row1": (-20.0, -30.0), "row2": (-25.0, -5.0)}
    apart = method.loss(model, method.collate(rows))
    method.share = True
    batch = method.collate(rows)
    shared = method.loss(model, batch)
    # All but the last token of each sequence are read, 22 + 24 + 39 + 36; all but the last of each prompt once: 19 + 35.
    assert batch.packed.computed == 121 - 54 and batch.tokens == 125
    assert shared.by_row.tolist() == pytest.approx(apart.by_row.tolist(), rel=1e-4)
    close(gradients(model, shared.sum), gradients(model, apart.sum))
