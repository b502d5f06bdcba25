"""Token accounting: packed = padded, head on supervised positions = full logits, and no dependence on the cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from luthier.models.testing import tiny_model
from luthier.models.weights import load
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.rows import Row, Tokens

SFT = Sft(SftSettings())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(
        tiny_model(tmp_path_factory.mktemp("sft") / "tiny", hidden=16, heads=2, kv_heads=1)
    ).requires_grad_(True)


def row(seed, n, weight=1.0):
    rng = np.random.default_rng(seed)
    told = rng.random(n) < 0.4
    told[0], told[-1] = False, True
    return Row(f"row{seed}", weight, "", (Tokens(rng.integers(3, 300, n).astype(np.int32), told),))


def padded_loss(model, rows):
    """The plain twin: right-padded, transformers' own mask, logits of every position, -100 where nothing is learnt."""
    weights_R = [r.weight for r in rows]
    rows = [r.sequences[0] for r in rows]
    longest = max(len(r.ids) for r in rows)
    ids, mask = (
        torch.zeros(len(rows), longest, dtype=torch.long),
        torch.zeros(len(rows), longest, dtype=torch.long),
    )
    labels = torch.full((len(rows), longest), -100)
    for b, r in enumerate(rows):
        n = len(r.ids)
        ids[b, :n], mask[b, :n] = torch.tensor(r.ids), 1
        labels[b, :n] = torch.where(torch.tensor(r.supervised), torch.tensor(r.ids, dtype=torch.long), -100)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    each = cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none"
    )
    weights = torch.tensor(weights_R)[:, None].expand(-1, longest - 1)
    return (each.view(len(rows), -1) * weights).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def close(a, b):
    for name in a:
        assert torch.allclose(
            a[name], b[name], atol=1e-5 * max(1.0, b[name].abs().max().item()), rtol=1e-5
        ), name


def test_packed_is_padded(model):
    rows = [row(1, 7), row(2, 31, weight=0.5), row(3, 2), row(4, 18, weight=2.0)]
    batch = SFT.collate(rows)
    assert batch.inputs["input_ids"].shape == (1, 7 + 31 + 2 + 18 - 4)  # a row's last token predicts nothing
    assert batch.tokens == 58 and batch.supervised == sum(r.sequences[0].supervised_count for r in rows)
    assert batch.row_weights == [r.weight * r.sequences[0].supervised_count for r in rows]
    loss, twin = SFT.loss(model.train(), batch).sum, padded_loss(model, rows)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-5)
    close(gradients(model, loss), gradients(model, twin))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 20), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=6),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_a_step_does_not_depend_on_how_it_is_cut(model, rows, cut):
    rows = [row(i, n, weight) for i, (n, weight) in enumerate(rows)]
    parts = [[r for r, c in zip(rows, cut, strict=False) if c == k] for k in range(4)]
    batches = [SFT.collate(part) for part in parts if part]
    weight = sum(sum(batch.row_weights) for batch in batches)
    whole = SFT.collate(rows)
    assert sum(whole.row_weights) == pytest.approx(weight)
    loss = SFT.loss(model.train(), whole).sum / weight
    pieces = sum(SFT.loss(model, batch).sum / weight for batch in batches)
    assert loss.item() == pytest.approx(pieces.item(), rel=1e-5)
    close(gradients(model, loss), gradients(model, pieces))


def test_a_weight_of_two_is_the_row_twice(model):
    doubled = SFT.collate([row(1, 9, weight=2.0), row(2, 12)])
    twice = SFT.collate([row(1, 9), row(1, 9), row(2, 12)])
    assert sum(doubled.row_weights) == sum(twice.row_weights)
    assert SFT.loss(model, doubled).sum.item() == pytest.approx(SFT.loss(model, twice).sum.item(), rel=1e-5)


def test_accuracy_is_counted_outside_training(model):
    rows = [row(1, 9), row(2, 30, weight=2.0)]
    batch = SFT.collate(rows)
    assert SFT.loss(model.train(), batch).metrics == {}
    right = 0.0
    for r in rows:
        with torch.no_grad():
            tokens = r.sequences[0]
            said = (
                model(input_ids=torch.tensor(tokens.ids, dtype=torch.long)[None]).logits[0].argmax(-1).numpy()
            )
        right += r.weight * (tokens.supervised[1:] & (said[:-1] == tokens.ids[1:])).sum()
    with torch.no_grad():
        assert SFT.loss(model.eval(), batch).metrics == {"token_accuracy": right}
