"""A LoRA adapter as a GGUF file: the numbers that llama.cpp will add, read back, and what has no place there. That llama.cpp computes
with it as peft does: tests/serving/test_llamacpp_engine.py."""

from __future__ import annotations

import json

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models import adapters, to_gguf_adapter
from luthier.models.gguf import open_reader, unpermute
from luthier.models.spec import LoraSpec
from luthier.models.testing import tiny_model
from luthier.models.weights import load


@pytest.fixture
def tuned(tmp_path):
    base = tiny_model(tmp_path / "base", heads=4, kv_heads=2)
    model = adapters.Lora().attach(load(base), LoraSpec(kind="lora", rank=4, rslora=True), seed=1)
    with torch.no_grad():
        for name, weight in adapters.Lora().trainable(model):
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    (tmp_path / "a").mkdir()
    adapters.Lora().save(model, tmp_path / "a", "tiny")
    return tmp_path / "a", base


def test_every_matrix_is_there_with_the_scale_that_training_had(tuned, tmp_path):
    from safetensors.torch import load_file

    adapter, base = tuned
    to_gguf_adapter.write(adapter, base, tmp_path / "a.gguf")
    reader = open_reader(tmp_path / "a.gguf")
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = json.loads((adapter / "adapter_config.json").read_text())
    # llama.cpp multiplies by alpha / r; rslora means lora_alpha / sqrt(r), so alpha is that times r
    assert facts["adapter.lora.alpha"] / 4 == pytest.approx(config["lora_alpha"] / 2)
    assert (facts["general.type"], facts["adapter.type"]) == ("adapter", "lora")
    stored = {one.name: torch.tensor(one.data) for one in reader.tensors}
    ours = load_file(adapter / "adapter_model.safetensors")
    assert len(stored) == len(ours)
    prefix = "base_model.model.model.layers.0."
    assert torch.equal(stored["blk.0.ffn_up.weight.lora_a"], ours[f"{prefix}mlp.up_proj.lora_A.weight"])
    assert torch.equal(stored["blk.0.attn_q.weight.lora_a"], ours[f"{prefix}self_attn.q_proj.lora_A.weight"])
    for name, heads in (("q", 4), ("k", 2)):
        rows = stored[f"blk.0.attn_{name}.weight.lora_b"]
        assert torch.equal(unpermute(rows, heads), ours[f"{prefix}self_attn.{name}_proj.lora_B.weight"])


@pytest.mark.parametrize(
    ("config", "told"),
    [({"use_dora": True}, "DoRA"), ({"peft_type": "IA3", "feedforward_modules": []}, "IA3")],
)
def test_other_kinds_are_refused(tuned, config, told):
    adapter, base = tuned
    path = adapter / "adapter_config.json"
    kept = json.loads(path.read_text())
    if "peft_type" in config:
        kept = {"target_modules": kept["target_modules"]}
    path.write_text(json.dumps({**kept, **config}))
    with pytest.raises(ModelError, match=told) as caught:
        to_gguf_adapter.refuse(adapter, base)
    assert "merged" in str(caught.value.remedy)
