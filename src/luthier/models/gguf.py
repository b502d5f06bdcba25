"""A GGUF file of the Llama family becomes a Hugging Face folder: weights dequantised once, tokenizer and template as stored.

Two things differ between the formats and are easy to get silently wrong:
    rows of q and k    GGUF interleaves the two halves of each rotary pair, transformers keeps them apart
    tied embeddings    no `output.weight` means that the head is the embedding

Not here: an importer for any GGUF a stranger sends. It is called for the files in `known.py`, whose SHA-256 is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, missing_part

# GGUF's name of a pre-tokenizer -> whether digits are split one by one before the byte-level rule.
_PRE_TOKENIZERS = {"smollm": True, "gpt-2": False}
_CONTROL = 3  # gguf's token type for control tokens

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, out: Path) -> None:
    """Write config, bf16 safetensors, tokenizer, chat template and generation config into `out`."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise missing_part("gguf", "train", "reading a GGUF file") from None

    reader = GGUFReader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    if facts["general.architecture"] != "llama":
        raise ModelError(
            f"{source.name} holds a {facts['general.architecture']!r} model.",
            remedy="Only llama is converted.",
        )
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    config = _config(facts, tied)
    _write_json(out / "config.json", config)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(out / "generation_config.json", ends)
    _write_weights(reader.tensors, config, out / "model.safetensors")
    _write_tokenizer(facts, config, out)


def _config(facts: dict[str, Any], tied: bool) -> dict[str, Any]:
    hidden, heads = facts["llama.embedding_length"], facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": facts["llama.context_length"],
        # Stored as fp32: 1e-5 comes back as 9.99..e-6.
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": facts["llama.rope.freq_base"],
        "rope_parameters": {"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        "tie_word_embeddings": tied,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "dtype": "bfloat16",
    }


def _write_weights(tensors: Any, config: dict[str, Any], path: Path) -> None:
    import numpy as np
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    weights = {}
    for tensor in tensors:
        name = _hugging_face_name(tensor.name)
        # Copied: the reader maps the file read-only, and a tensor must own what it may write.
        value = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if name.endswith("q_proj.weight"):
            value = unpermute(value, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            value = unpermute(value, config["num_key_value_heads"])
        weights[name] = value.to(torch.bfloat16).contiguous()
    save_file(weights, path, metadata={"format": "pt"})


def unpermute(rows: Any, heads: int) -> Any:
    """Rows of one head in GGUF: x0 y0 x1 y1 ..; in transformers: x0 x1 .. y0 y1 .. ([heads·D, in] both).

    >>> import torch
    >>> unpermute(torch.tensor([[0], [10], [1], [11]]), heads=1).flatten().tolist()
    [0, 1, 10, 11]
    """
    size, inputs = rows.shape
    return rows.reshape(heads, size // heads // 2, 2, inputs).transpose(1, 2).reshape(size, inputs)


def _hugging_face_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _LAYER_NAMES:
        return f"model.layers.{int(parts[1])}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in _OUTER_NAMES:
        return f"{_OUTER_NAMES[parts[0]]}.{parts[1]}"
    raise ModelError(
        f"the GGUF file holds an unknown tensor {name!r}.", remedy="Use a file of the Llama family."
    )


def _write_tokenizer(facts: dict[str, Any], config: dict[str, Any], out: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    kind, before = facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]
    if kind != "gpt2" or before not in _PRE_TOKENIZERS:
        raise ModelError(
            f"the GGUF file's tokenizer ({kind}, {before}) is unknown.",
            remedy="Use a safetensors folder of this model.",
        )
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _PRE_TOKENIZERS[before] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        t for t, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True) if kind == _CONTROL
    ]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(out / "tokenizer.json"))
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[config["bos_token_id"]],
            "eos_token": tokens[config["eos_token_id"]],
            "pad_token": tokens[config["pad_token_id"]],
            "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    )
    (out / "chat_template.jinja").write_text(facts["tokenizer.chat_template"])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n")
