"""The small real model: the loss that training sees is the loss of plain transformers, and it falls."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from luthier.models.testing import real_model


@pytest.mark.model
@pytest.mark.slow
def test_two_steps_on_the_real_model(tmp_path, new_work, make_record):
    from transformers import AutoModelForCausalLM

    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    base = real_model(tmp_path / "base")
    records = [make_record(i) for i in range(8)]
    work = new_work("real", train=records)
    work.base = base
    work.run(dtype="bf16", learning_rate=1e-3, warmup=0, epochs=2)
    fused = work.history()["proof"]["fused"]  # short answers in bf16, where rounding shows most
    assert fused["used"] and set(fused["parts"]) == {"gated", "head", "norms", "projections", "rotary"}
    assert not work.told("fallback")
    first, second = (one["loss"] for one in work.history()["steps"])

    template, model = Template(load_tokenizer(base), 8192), AutoModelForCausalLM.from_pretrained(base)
    total, count = 0.0, 0
    for record in records:
        encoded = template.encode(record["messages"])
        told = np.flatnonzero(encoded.supervised)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([encoded.ids])).logits[0].float()
        total += cross_entropy(logits[told - 1], torch.tensor(encoded.ids)[told], reduction="sum").item()
        count += len(told)
    assert first == pytest.approx(total / count, rel=0.01)  # bf16 has eight bits
    assert second < first


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("answer", [1, 8, 40])
def test_fused_parts_are_used_however_short_the_answers_are(tmp_path, new_work, make_record, answer):
    records = [make_record(i) for i in range(6)]
    for i, record in enumerate(records):
        record["messages"][-1]["content"] = " ".join(f"{word}{i}" for word in ["parcel"] * answer)
    work = new_work("real", train=records)
    work.base = real_model(tmp_path / "base")
    work.run(dtype="bf16", max_steps=1)
    print(work.history()["proof"]["fused"])
    assert work.history()["proof"]["fused"]["used"] and not work.told("fallback")
