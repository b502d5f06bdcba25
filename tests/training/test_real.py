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
