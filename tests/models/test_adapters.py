import json

import pytest
import torch
from pydantic import ValidationError

from luthier.core.errors import ModelError
from luthier.models import adapters, weights
from luthier.models.adapters import Full, Lora
from luthier.models.merge import merge
from luthier.models.spec import FullSpec, LoraSpec

IDS = torch.tensor([list(range(20, 40))])


def tuned(model, spec=None, seed=0):
    """An adapter that changes something: B starts at zero."""
    model = Lora().attach(model, spec or LoraSpec(rank=4), seed)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in Lora().trainable(model):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture
def saved(tiny_folder, tmp_path):
    model = tuned(weights.load(tiny_folder))
    folder = tmp_path / "adapter"
    folder.mkdir()
    Lora().save(model, folder, "tiny-llama")
    with torch.no_grad():
        return folder, model(input_ids=IDS, use_cache=False).logits


def test_plain_peft_gives_the_same_logits(saved, tiny_folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, ours = saved
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS).logits, ours, atol=1e-5, rtol=1e-5)


def test_our_load_gives_the_same_logits(saved, tiny_folder):
    folder, ours = saved
    again = weights.load(folder, base_folder=tiny_folder)
    assert not again.training
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS, use_cache=False).logits, ours, atol=0, rtol=0)
    with pytest.raises(ModelError, match="adapter only"):
        weights.load(folder)


def test_saved_bytes_follow_from_the_seed_alone(tiny_folder, tmp_path):
    def files(seed, stray):
        torch.manual_seed(stray)
        folder = tmp_path / f"{seed}-{stray}"
        folder.mkdir()
        Lora().save(Lora().attach(weights.load(tiny_folder), LoraSpec(), seed), folder, "tiny-llama")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    one = files(0, 1)
    assert sorted(one) == ["adapter_config.json", "adapter_model.safetensors"]
    assert one == files(0, 2)
    assert one["adapter_model.safetensors"] != files(1, 1)["adapter_model.safetensors"]
    config = json.loads(one["adapter_config.json"])
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (16, 32, "tiny-llama")
    assert config["target_modules"] == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert str(tmp_path).encode() not in one["adapter_config.json"]


def test_the_adapter_is_fp32_on_a_bf16_base_and_alone_moves(tiny_folder):
    model = Lora().attach(weights.load(tiny_folder, dtype="bf16"), LoraSpec(rank=4), 0)
    moving = Lora().trainable(model)
    assert {p.dtype for _, p in moving} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if not p.requires_grad} == {torch.bfloat16}
    # rank 4, hidden 32, kv 16, intermediate 64, 2 layers: (in + out) * 4 for q, k, v, o, gate, up, down.
    expected = 2 * 4 * ((32 + 32) + (32 + 16) * 2 + (32 + 32) + (32 + 64) * 3)
    assert sum(p.numel() for _, p in moving) == expected
    model(input_ids=IDS, use_cache=False).logits.float().sum().backward()
    assert all(p.grad is not None for _, p in moving)


def test_chosen_layers_only(tiny):
    model = Lora().attach(tiny, LoraSpec(targets=["q_proj", "v_proj"], alpha=8, rank=4), 0)
    assert {n.split(".")[-4] for n, _ in Lora().trainable(model)} == {"q_proj", "v_proj"}
    assert LoraSpec(alpha=8, rank=4).scale == 2.0
    assert LoraSpec(rank=4).scale == 2.0
    with pytest.raises(ModelError, match="no linear layer 'q_projj'"):
        Lora().attach(tiny, LoraSpec(targets=["q_projj"]), 0)


@pytest.mark.parametrize("bad", [{"rank": 0}, {"rank": 10**6}, {"alpha": 0}, {"dropout": 1.0}, {"targets": []},
                                 {"targets": ["(a+)+$"]}, {"targets": ".*"}])  # fmt: skip
def test_specs_refuse(bad):
    with pytest.raises(ValidationError):
        LoraSpec(**bad)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(a+)+$"),
        ("target_modules", "all-linear"),
        ("r", 10**6),
        ("r", "16"),
        ("peft_type", "LOHA"),
        ("auto_mapping", {"base_model_class": "os", "parent_library": "evil"}),
        ("rank_pattern", {"(a+)+$": 4}),
        ("modules_to_save", ["lm_head"]),
        ("use_qalora", True),
        ("bias", "all"),
    ],
)
def test_a_saved_adapter_that_asks_for_more_is_refused(saved, tiny_folder, key, value):
    folder, _ = saved
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    for attempt in (adapters.check_saved, lambda f: weights.load(f, base_folder=tiny_folder)):
        with pytest.raises(ModelError, match=f"says {key} = "):
            attempt(folder)


def test_a_config_that_its_weights_do_not_follow_is_refused(saved, tiny_folder, tmp_path):
    folder, _ = saved
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(ModelError, match="does not fit its base"):
        weights.load(folder, base_folder=tiny_folder)
    with pytest.raises(ModelError, match="without their pair"):
        merge(tiny_folder, folder, tmp_path / "out")


def test_an_adapter_for_another_base_is_refused(saved, tmp_path):
    from luthier.models.testing import tiny_model

    folder, _ = saved
    other = tiny_model(tmp_path / "other", hidden=64)
    with pytest.raises(ModelError, match="does not fit its base"):
        weights.load(folder, base_folder=other)
    deeper = tiny_model(tmp_path / "deeper", layers=3)
    with pytest.raises(ModelError, match="does not fit its base"):
        weights.load(folder, base_folder=deeper)
    with pytest.raises(ModelError, match="does not fit a weight"):
        merge(other, folder, tmp_path / "out")


def test_merged_loads_in_plain_transformers_with_the_same_logits(saved, tiny_folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, ours = saved
    merge(tiny_folder, folder, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, ours, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert weights.describe(tmp_path / "merged") == weights.describe(tiny_folder)


def test_merge_equals_pefts_own(saved, tiny_folder, tmp_path):
    from safetensors.torch import load_file

    folder, _ = saved
    merge(tiny_folder, folder, tmp_path / "merged", dtype="fp32")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    theirs = weights.load(folder, base_folder=tiny_folder).merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-6)


def test_full_moves_everything_and_saves_a_whole_folder(tiny, tiny_folder, tmp_path):
    model = Full().attach(tiny, FullSpec(), 0)
    names = [name for name, _ in Full().trainable(model)]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names  # tied: told once
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
        ours = model(input_ids=IDS, use_cache=False).logits
    (tmp_path / "full").mkdir()
    Full().save(model, tmp_path / "full", "tiny-llama")
    from luthier.models.inspection import inspect

    inspect(tmp_path / "full")
    again = weights.load(tmp_path / "full")
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS, use_cache=False).logits, ours, atol=0, rtol=0)
    assert weights.load_tokenizer(tmp_path / "full").chat_template
    text = "".join(p.read_text() for p in (tmp_path / "full").glob("*.json"))
    assert str(tiny_folder) not in text and str(tmp_path) not in text


def test_full_refuses_bf16(tiny_folder):
    with pytest.raises(ModelError, match=r"loses updates(.|\n)*fp32"):
        Full().attach(weights.load(tiny_folder, dtype="bf16"), FullSpec(), 0)
