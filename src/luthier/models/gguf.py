"""A GGUF file becomes a Hugging Face folder: weights dequantised once, tokenizer and template as stored. The other way:
to_gguf.py.

Two things differ between the formats and are easy to get silently wrong:
    rows of q and k    GGUF interleaves the two halves of each rotary pair, transformers keeps them apart
    tied embeddings    no `output.weight` means that the head is the embedding

Not here: an importer for any GGUF a stranger sends. It is called for the files in `known.py`, whose SHA-256 is checked, and for
what was written by to_gguf.py a moment ago.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, missing_part

from .gguf_names import (
    ARCHITECTURES,
    DIGITS,
    ROPE_FREQUENCIES,
    ROTATED,
    SPLITS,
    WHOLE_WORDS,
    hugging_face_name,
)
from .spec import Dtype

_CONTROL, _USER = 3, 4  # gguf's token types for control tokens and for others that are never cut


def convert(source: Path, out: Path, dtype: Dtype = "bf16") -> None:
    """Write config, safetensors, tokenizer, chat template and generation config into `out`."""
    reader = open_reader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    if facts["general.architecture"] not in ARCHITECTURES.values():
        raise ModelError(
            f"{source.name} holds a {facts['general.architecture']!r} model.",
            remedy=f"Only {', '.join(sorted(set(ARCHITECTURES.values())))} are converted.",
        )
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    config = _config(facts, tied, dtype, {tensor.name for tensor in reader.tensors})
    _write_json(out / "config.json", config)
    ends: dict[str, Any] = {
        key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config
    }
    _write_json(out / "generation_config.json", ends)
    _write_weights(reader.tensors, config, out / "model.safetensors")
    _write_tokenizer(facts, config, out)


def settings_of(source: Path) -> dict[str, Any]:
    """What changes how the weights are used, in config.json's words."""
    facts = {name: field.contents() for name, field in open_reader(source).fields.items()}
    return _config(facts, False, "fp32", set())


def write_tokenizer(source: Path, out: Path) -> None:
    """Tokenizer and chat template of a file, as transformers reads them."""
    reader = open_reader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    _write_tokenizer(facts, _config(facts, False, "fp32", set()), out)


def open_reader(source: Path) -> Any:
    """gguf's own reader: it maps the file and copies nothing. Raises MissingPart, ModelError."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise missing_part("gguf", "train", "reading a GGUF file") from None
    try:
        return GGUFReader(source)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise ModelError(
            f"{source.name} is not a sound GGUF file: {error}.", remedy="Make it again."
        ) from None


def _config(facts: dict[str, Any], tied: bool, dtype: Dtype, names: set[str]) -> dict[str, Any]:
    kind = facts["general.architecture"]
    told = {name.removeprefix(f"{kind}."): value for name, value in facts.items()}
    hidden, heads = told["embedding_length"], told["attention.head_count"]
    config: dict[str, Any] = {
        "architectures": [{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"],
        "model_type": kind,
        "vocab_size": told["vocab_size"] if "vocab_size" in told else len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": hidden,
        "intermediate_size": told["feed_forward_length"],
        "num_hidden_layers": told["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": told["attention.head_count_kv"],
        "head_dim": told.get("attention.key_length", hidden // heads),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "max_position_embeddings": told["context_length"],
        # Stored as fp32: 1e-5 comes back as 9.99..e-6.
        "rms_norm_eps": float(f"{told['attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": told["rope.freq_base"],
        "rope_parameters": {"rope_type": "default", "rope_theta": told["rope.freq_base"]},
        "tie_word_embeddings": tied,
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[dtype],
    }
    if told.get("rope.scaling.type") == "linear":
        config["rope_parameters"] |= {"rope_type": "linear", "factor": told["rope.scaling.factor"]}
    for name, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (at := facts.get(f"tokenizer.ggml.{theirs}_token_id")) is not None:
            config[f"{name}_token_id"] = at
    return config


def _write_weights(tensors: Any, config: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    from .tensor_file import dtype_of

    stored_as = dtype_of({"bfloat16": "BF16", "float32": "F32"}[config["dtype"]])
    weights = {
        hugging_face_name(tensor.name): _value(tensor, config).to(stored_as).contiguous()
        for tensor in tensors
        if tensor.name != ROPE_FREQUENCIES
    }
    save_file(weights, path, metadata={"format": "pt"})


def _value(tensor: Any, config: dict[str, Any]) -> Any:
    """One tensor in fp32, its rows as transformers has them."""
    import numpy as np
    import torch
    from gguf.quants import dequantize

    # Copied: the reader maps the file read-only, and a tensor must own what it may write.
    value = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    counts = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    layer = tensor.name.split(".")[-2]
    if config["model_type"] in ROTATED and layer in counts:
        return unpermute(value, counts[layer])
    return value


def weights_of(source: Path) -> Callable[[str], Any]:
    """transformers' name of a tensor -> its fp32 value in this file, dequantised at each call; None where there is none."""
    reader = open_reader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(facts, False, "fp32", set())
    by_name = {hugging_face_name(t.name): t for t in reader.tensors if t.name != ROPE_FREQUENCIES}
    return lambda name: _value(by_name[name], config) if name in by_name else None


def unpermute(rows: Any, heads: int) -> Any:
    """Rows of one head in GGUF: x0 y0 x1 y1 ..; in transformers: x0 x1 .. y0 y1 .. ([heads·D, in] both).

    >>> import torch
    >>> unpermute(torch.tensor([[0], [10], [1], [11]]), heads=1).flatten().tolist()
    [0, 1, 10, 11]
    """
    size = rows.shape[0]
    return rows.reshape(heads, size // heads // 2, 2, -1).transpose(1, 2).reshape(rows.shape)


def _write_tokenizer(facts: dict[str, Any], config: dict[str, Any], out: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    kind, before = facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]
    if kind != "gpt2" or before not in {**DIGITS, **SPLITS}:
        raise ModelError(
            f"the GGUF file's tokenizer ({kind}, {before}) is unknown.",
            remedy="Use a safetensors folder of this model.",
        )
    types = facts["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    whole = before in WHOLE_WORDS
    model = models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=whole)
    tokenizer = Tokenizer(model)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=before in DIGITS)
    first: list[Any] = []
    if before in SPLITS:
        first = [pre_tokenizers.Split(Regex(SPLITS[before]), "isolated")]
    elif DIGITS[before]:
        first = [pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    if users := [t for t, kind in zip(tokens, types, strict=True) if kind == _USER]:
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in users])
    tokenizer.save(str(out / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        if (at := facts.get(f"tokenizer.ggml.{theirs}_token_id")) is not None:
            settings[f"{name}_token"] = tokens[at]
    settings |= {"model_max_length": config["max_position_embeddings"], "clean_up_tokenization_spaces": False}
    _write_json(out / "tokenizer_config.json", settings)
    if (template := facts.get("tokenizer.chat_template")) is not None:
        (out / "chat_template.jinja").write_text(template)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n")
