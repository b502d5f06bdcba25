"""A folder becomes a GGUF file and comes back: every family, every number format, the tokenizer, the template."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models import gguf, to_gguf, weights
from luthier.models.folder import read_config, stored_tensors
from luthier.models.gguf_names import SPLITS, gguf_name, hugging_face_name, pre_tokenizer
from luthier.models.tensor_file import Tensors
from luthier.models.testing import tiny_model

FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tied": False},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}


def written(tmp_path, form="gguf", **settings):
    source = tiny_model(tmp_path / "m", hidden=64, **settings)
    to_gguf.write(source, tmp_path / "model.gguf", form, {"general.name": "tiny", "general.license": None})
    return source, tmp_path / "model.gguf"


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_interleaving_and_back(heads, halves, inputs):
    rows = torch.randn(heads * 2 * halves, inputs)
    assert torch.equal(gguf.unpermute(to_gguf.permute(rows, heads), heads), rows)
    assert torch.equal(gguf.unpermute(to_gguf.permute(rows[:, 0], heads), heads), rows[:, 0])  # a bias


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_bit_for_bit_in_16_bits(family, tmp_path):
    source, file = written(tmp_path, family=family, dtype="bf16", **FAMILIES[family])
    (tmp_path / "back").mkdir()
    gguf.convert(file, tmp_path / "back")
    there, back = Tensors(source), Tensors(tmp_path / "back")
    assert set(there.stored) == set(back.stored)
    for name in there:
        assert torch.equal(there.read(name).float(), back.read(name).float()), name
    ids = [[5, 9, 200, 31]]
    if family != "mistral":  # comes back as llama, which it is without its window
        assert read_config(tmp_path / "back")["model_type"] == family
    with torch.no_grad():
        one, other = (
            weights.load(place)(input_ids=torch.tensor(ids)).logits for place in (source, tmp_path / "back")
        )
    torch.testing.assert_close(one, other)


def test_numbers_of_32_bits_are_kept_in_16(tmp_path):
    source, file = written(tmp_path)
    read, there = gguf.weights_of(file), Tensors(source)
    for name in there:
        torch.testing.assert_close(read(name), there.read(name), rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("form", ["gguf", "gguf-q8", "gguf-q4"])
def test_the_foreseen_size_is_that_of_the_file(form, tmp_path):
    source, file = written(tmp_path, form, vocabulary=512, layers=4)
    foreseen = to_gguf.size_bytes(stored_tensors(source), form)
    header = sum(
        len(one.tobytes()) for field in gguf.open_reader(file).fields.values() for one in field.parts
    )
    assert (
        foreseen <= file.stat().st_size <= foreseen + header + 8_000
    )  # names, shapes and alignment of 38 tensors


def test_tokens_and_template_come_back(tmp_path):
    source, file = written(tmp_path)
    place = tmp_path / "back"
    place.mkdir()
    gguf.write_tokenizer(file, place)
    one, other = (weights.load_tokenizer(folder) for folder in (source, place))
    text = "The parcel <|im_end|> has 12 ümläuts.\n\n  two  "
    assert one(text)["input_ids"] == other(text)["input_ids"]
    assert one.chat_template == other.chat_template
    assert (one.bos_token_id, one.eos_token_id, one.pad_token_id) == (
        other.bos_token_id,
        other.eos_token_id,
        other.pad_token_id,
    )


def test_what_the_file_says_of_itself(tmp_path):
    _, file = written(tmp_path)
    fields = gguf.open_reader(file).fields
    assert fields["general.name"].contents() == "tiny" and "general.license" not in fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["llama.rope.dimension_count"].contents() == 16


def test_llama_3s_rotary_factors_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    settings = {"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128, "rope_parameters": rope}
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**settings, max_position_embeddings=131072), "cpu")
    plain = 1 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    ours = plain / torch.from_numpy(to_gguf._rope_factors(settings))
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"family": "gemma3_text"}, "a gemma3_text model cannot be .*Families that can: llama, mistral, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4,
                              "original_max_position_embeddings": 256}}, "rotary scaling 'yarn'"),
        ({"family": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "a sliding window"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_say_is_refused(settings, told, tmp_path):
    source = tiny_model(tmp_path / "m", **settings)
    with pytest.raises(ModelError, match=f"(?s){told}"):
        to_gguf.refuse(source)


def test_tokens_without_a_row_are_refused_before_training(tmp_path):
    source = tiny_model(tmp_path / "m")
    told = json.loads((source / "tokenizer.json").read_text())
    rows = read_config(source)["vocab_size"]
    told["added_tokens"].append({**told["added_tokens"][0], "id": rows, "content": "<late>"})
    (source / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"1 tokens beyond the .* rows of the embedding, first '<late>'"):
        to_gguf.refuse(source)


def test_a_window_that_slides_bounds_the_context(tmp_path):
    _, file = written(tmp_path, family="mistral", sliding_window=64)
    assert gguf.open_reader(file).fields["llama.context_length"].contents() == 64


@pytest.mark.parametrize("name", SPLITS)
def test_patterns_that_have_a_name(name):
    cut = {"type": "Split", "pattern": {"Regex": SPLITS[name]}, "behavior": "Isolated", "invert": False}
    end = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    whole = name != "qwen2"
    told = {
        "model": {"type": "BPE", "ignore_merges": whole},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, end]},
    }
    assert pre_tokenizer(told) == name
    with pytest.raises(ModelError, match="treats whole words otherwise"):
        pre_tokenizer({**told, "model": {"type": "BPE", "ignore_merges": not whole}})
    cut["pattern"]["Regex"] += "|x"
    with pytest.raises(ModelError, match="no name for"):
        pre_tokenizer(told)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"model": {"type": "BPE", "byte_fallback": True}}, "no byte-level BPE"),
        ({"model": {"type": "Unigram"}}, "no byte-level BPE"),
        ({"model": {"type": "BPE"}, "normalizer": {"type": "Lowercase"}}, "rewrites text by Lowercase"),
        ({"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Whitespace"}}, "does not end in bytes"),
    ],
)
def test_tokenizers_that_have_no_name(told, why):
    with pytest.raises(ModelError, match=why):
        pre_tokenizer(told)


def test_names_there_and_back():
    for name in (
        "model.layers.11.mlp.gate_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.norm.weight",
    ):
        assert hugging_face_name(gguf_name(name)) == name
    with pytest.raises(ModelError, match="has no place in a GGUF file"):
        gguf_name("model.layers.0.self_attn.rotary.weight")


def test_numbers_beyond_16_bits_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    source = tiny_model(tmp_path / "m", hidden=64)
    stored = load_file(source / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp.up_proj.weight' holds numbers beyond"):
        to_gguf.write(source, tmp_path / "model.gguf", "gguf", {})


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_every_family_as_transformers_does(family, tmp_path):
    """The likeliest tokens' log-probabilities after each of some tokens."""
    from luthier.postprocessing import llamacpp

    if llamacpp.version() is None:
        pytest.skip("xllamacpp is not installed")
    source, file = written(tmp_path, family=family, dtype="bf16", **FAMILIES[family])
    ids = torch.randint(3, 300, (12,), generator=torch.Generator().manual_seed(1)).tolist()
    found = llamacpp.ask(file, [{"ids": ids, "at": [0, 5, 11]}], [[{"role": "user", "content": "hi"}]], 512)
    with torch.no_grad():
        logp = torch.log_softmax(weights.load(source)(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    apart = [
        abs(p - float(logp[at, token]))
        for at, place in zip([0, 5, 11], found.top[0], strict=True)
        for token, p in place[:20]
    ]
    # its cache has 16 bits: up to 0.15 in 12 places of a random llama; heads in a wrong order are whole units apart
    assert sum(apart) / len(apart) < 0.05 and max(apart) < 0.3, (family, max(apart))
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert found.tokens == [weights.load_tokenizer(source)(prompt)["input_ids"]]


def test_extra_rows_of_the_embedding_and_users_tokens(tmp_path):
    source = tiny_model(tmp_path / "m", hidden=64)
    told = json.loads((source / "tokenizer.json").read_text())
    size = len(told["model"]["vocab"])
    told["added_tokens"].append(
        {**told["added_tokens"][0], "id": size, "content": "<tool>", "special": False}
    )
    (source / "tokenizer.json").write_text(json.dumps(told))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": size + 3}))
    to_gguf.write(source, tmp_path / "model.gguf", "gguf", {})
    fields = gguf.open_reader(tmp_path / "model.gguf").fields
    tokens, types = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    assert tokens[size:] == ["<tool>", f"[PAD{size + 1}]", f"[PAD{size + 2}]"] and types[size:] == [4, 5, 5]
