import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.core.errors import ModelError
from luthier.models import weights
from luthier.models.testing import tiny_model


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_facts(tiny_folder):
    facts = weights.describe(tiny_folder)
    # embedding 506*32; per layer q,o 32*32, k,v 32*16, three of 32*64, two norms of 32; a last norm of 32.
    assert facts.parameters == 506 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32
    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.head_size) == (2, 32, 4, 2, 8)
    assert (facts.vocabulary, facts.intermediate, facts.context, facts.tied, facts.dtype) == (
        506,
        64,
        512,
        True,
        "fp32",
    )
    assert facts.parameters == weights.load(tiny_folder).num_parameters()


def test_facts_of_an_untied_bf16_model(tmp_path):
    facts = weights.describe(tiny_model(tmp_path, tied=False, dtype="bf16"))
    assert (facts.tied, facts.dtype) == (False, "bf16")


@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_the_context_of_longrope_ends_where_turning_changes(folder, kind):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    plain = weights.describe(folder).context
    told = {kind: "longrope", "original_max_position_embeddings": 128}
    path.write_text(json.dumps({**config, "rope_scaling": told}))
    assert (plain, weights.describe(folder).context) == (512, 128)


def test_dtype_and_attention(tiny_folder):
    model = weights.load(tiny_folder, dtype="bf16")
    assert model.dtype == torch.bfloat16 and not model.training
    assert model.config._attn_implementation == "luthier_varlen"


def test_a_missing_weight_is_never_made_up(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"1 missing keys, first 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        weights.load(folder)


def test_a_foreign_weight_is_told(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match="1 unexpected keys"):
        weights.load(folder)


def test_a_weight_of_another_shape_is_told(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(7)}))
    with pytest.raises(ModelError, match=r"model"):
        weights.load(folder)


def test_a_folder_without_its_parts(tmp_path, folder):
    with pytest.raises(ModelError, match=r"no config\.json"):
        weights.load(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        weights.load_tokenizer(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        weights.load(folder)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 0})
    )
    with pytest.raises(ModelError, match="num_attention_heads = 0"):
        weights.describe(folder)


def test_tiny_models_are_the_same_bytes_twice(tiny_folder, tmp_path):
    again = tiny_model(tmp_path / "again")
    for path in tiny_folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
