"""A whole model's folder becomes one GGUF file for llama.cpp: weights, tokenizer, chat template and what the model is.

    gguf       matrices as they are stored: BF16, or F16 where the folder holds fp32
    gguf-q8    matrices as Q8_0: blocks of 32 with one scale                         8.5 bits a number
    gguf-q4    blocks' matrices as Q4_1: blocks of 32 with scale and minimum         5 bits; embeddings and head Q8_0
    in all     norms and biases as F32

Written by the official `gguf` package, one tensor at a time. Two things differ between the formats and are easy to get
silently wrong, and are read back by gguf.py, which tests hold against this: rows of q and k of the Llama family are interleaved,
and a tied head has no tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, missing_part

from .folder import StoredTensor, read_config, read_json, stored_tensors
from .gguf_names import ARCHITECTURES, ROPE_FREQUENCIES, ROTATED, gguf_name, pre_tokenizer

BLOCK = 32
TYPES = {"gguf": None, "gguf-q8": "Q8_0", "gguf-q4": "Q4_1"}
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5  # gguf's token types
_ROPES = ("default", "linear", "llama3")


def refuse(folder: Path) -> None:
    """Raises ModelError where a GGUF file could not say all that this folder says: family, settings, tensors, tokenizer; MissingPart
    where nothing is there that writes one. Reads settings and headers only."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise missing_part("gguf", "train", "writing a GGUF file")
    config = read_config(folder)
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ModelError(
            f"a {family} model cannot be written to a GGUF file here.",
            remedy=f"Families that can: {', '.join(ARCHITECTURES)}. Export it as merged, int8, int4 or onnx.",
        )
    rope = _rope(config)
    for holds, what in (
        (config.get("hidden_act", "silu") == "silu", f"hidden_act = {config.get('hidden_act')!r}"),
        (rope["rope_type"] in _ROPES, f"rotary scaling {rope['rope_type']!r}"),
        (not (family != "mistral" and config.get("use_sliding_window")), "a sliding window"),
    ):
        if not holds:
            raise ModelError(
                f"this model has {what}, which a GGUF file of its family cannot say.",
                remedy="Export it as merged, int8 or int4.",
            )
    for name in stored_tensors(folder):
        gguf_name(name)
    written = read_json(folder / "tokenizer.json")
    pre_tokenizer(written)
    _refuse_rowless(written, config["vocab_size"])


def _refuse_rowless(written: Mapping[str, Any], rows: int) -> None:
    """A GGUF file lists one token for each row of the embedding."""
    ids = {added["content"]: added["id"] for added in written.get("added_tokens", [])}
    beyond = [token for token, at in {**written["model"]["vocab"], **ids}.items() if at >= rows]
    if beyond:
        raise ModelError(
            f"the tokenizer has {len(beyond):,} tokens beyond the {rows:,} rows of the embedding, first {beyond[0]!r}, and a GGUF file "
            "has no place for them.",
            remedy="Export it as merged, int8, int4 or onnx.",
        )


def size_bytes(stored: Mapping[str, StoredTensor], form: str) -> int:
    """Of the weights in the file; tokenizer and header come on top."""
    return sum(_bytes_of(tensor, _type_of(gguf_name(name), tensor, form)) for name, tensor in stored.items())


def write(source: Path, out: Path, form: str, about: Mapping[str, str | None]) -> None:
    """One file. `about`: GGUF keys -> text (general.name, general.license, ..); what is None is left out. Raises ModelError."""
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise missing_part("gguf", "train", "writing a GGUF file") from None

    refuse(source)
    config = read_config(source)
    writer = GGUFWriter(out, ARCHITECTURES[config["model_type"]])
    for key, value in about.items():
        if value is not None:
            writer.add_string(key, value)
    stored = stored_tensors(source)
    _write_settings(writer, config, form, stored)
    _write_tokenizer(writer, source, config)
    extra = _rope_factors(config)
    if extra is not None:
        writer.add_tensor_info(ROPE_FREQUENCIES, extra.shape, extra.dtype, extra.nbytes)
    for name, tensor in sorted(stored.items()):
        _plan(writer, gguf_name(name), tensor, _type_of(gguf_name(name), tensor, form))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if extra is not None:
        writer.write_tensor_data(extra)
    for data in _data(source, config, stored, form):
        writer.write_tensor_data(data)
    writer.close()


# -- weights --------------------------------------------------------------------------------------------------------------


def _type_of(name: str, tensor: StoredTensor, form: str) -> str:
    """GGML's name of the number format."""
    if len(tensor.shape) < 2:
        return "F32"
    wanted = TYPES[form]
    if wanted == "Q4_1" and not name.startswith("blk."):
        wanted = "Q8_0"
    if wanted is None or tensor.shape[-1] % BLOCK:
        return "BF16" if tensor.dtype == "BF16" else "F16"
    return wanted


_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_1": 5}


def _bytes_of(tensor: StoredTensor, kind: str) -> int:
    return int(tensor.elements * _BITS[kind]) // 8


def _plan(writer: Any, name: str, tensor: StoredTensor, kind: str) -> None:
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    if kind in ("F32", "F16"):
        width = np.dtype(np.float32 if kind == "F32" else np.float16)
        writer.add_tensor_info(name, tensor.shape, width, tensor.elements * width.itemsize)
        return
    raw = GGMLQuantizationType[kind]
    shape = quant_shape_to_byte_shape(tensor.shape, raw)
    writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=raw)


def _data(
    source: Path, config: dict[str, Any], stored: Mapping[str, StoredTensor], form: str
) -> Iterator[Any]:
    """NumPy arrays, as planned, one tensor in memory at a time."""
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    from .tensor_file import Tensors

    tensors, rotated = Tensors(source), ARCHITECTURES[config["model_type"]] in ROTATED
    heads = config["num_attention_heads"]
    counts = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
    for name, tensor in sorted(stored.items()):
        value = tensors.read(name).float()
        layer = name.split(".")[-2]
        if rotated and layer in counts:
            value = permute(value, counts[layer])
        kind = _type_of(gguf_name(name), tensor, form)
        array = value.numpy()
        if kind == "F16":
            if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise ModelError(
                    f"the tensor {name!r} holds numbers beyond the range of 16 bits.",
                    remedy="Use a base in bf16, or export as merged.",
                )
            yield array.astype(np.float16)
        elif kind == "F32":
            yield array
        else:
            yield quantize(array, GGMLQuantizationType[kind])


def permute(rows: Any, heads: int) -> Any:
    """The inverse of gguf.unpermute: both halves of each rotary pair come to stand side by side ([heads·D] or [heads·D, in]).

    >>> import torch
    >>> permute(torch.tensor([[0], [1], [10], [11]]), heads=1).flatten().tolist()
    [0, 10, 1, 11]
    """
    size = rows.shape[0]
    return rows.reshape(heads, 2, size // heads // 2, -1).transpose(1, 2).reshape(rows.shape)


# -- settings -------------------------------------------------------------------------------------------------------------


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings in one form, whatever version of transformers wrote them."""
    told = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    told.setdefault("rope_type", told.get("type", "default"))
    told.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return told


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _write_settings(
    writer: Any, config: dict[str, Any], form: str, stored: Mapping[str, StoredTensor]
) -> None:
    from gguf.constants import GGML_QUANT_VERSION, LlamaFileType, RopeScalingType

    heads, rope = config["num_attention_heads"], _rope(config)
    context = config["max_position_embeddings"]
    if config["model_type"] == "mistral" and config.get("sliding_window"):
        context = min(context, config["sliding_window"])  # up to there its attention is the plain one
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    kept = "BF16" if any(t.dtype == "BF16" for t in stored.values()) else "F16"
    writer.add_file_type(LlamaFileType[f"MOSTLY_{TYPES[form] or kept}"])
    if TYPES[form]:
        writer.add_quantization_version(GGML_QUANT_VERSION)


def _rope_factors(config: dict[str, Any]) -> Any:
    """Llama 3's scaling, as factors that frequencies are divided by [D/2]; None for others. As in transformers'
    `_compute_llama3_parameters`."""
    import numpy as np

    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size, original = _head_size(config), rope["original_max_position_embeddings"]
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = (original / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    told = np.where(waves < original / high, 1.0, np.where(waves > original / low, factor, between))
    return told.astype(np.float32)


# -- tokenizer ------------------------------------------------------------------------------------------------------------


def _write_tokenizer(writer: Any, source: Path, config: dict[str, Any]) -> None:
    from .weights import load_tokenizer

    written = read_json(source / "tokenizer.json")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(written))
    tokens: list[str | None] = [None] * config["vocab_size"]
    types = [_NORMAL] * len(tokens)
    for token, at in written["model"]["vocab"].items():
        tokens[at] = token
    for added in written.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER
    for at, token in enumerate(tokens):
        if token is None:  # rows that round the embedding up
            tokens[at], types[at] = f"[PAD{at}]", _UNUSED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = written["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    tokenizer = load_tokenizer(source)
    for name in ("bos", "eos", "unk", "pad"):
        if (at := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(at)
    opened, closed = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    writer.add_add_bos_token(len(opened) > len(closed) and opened[0] == tokenizer.bos_token_id)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())
    ends = _ends(source, config)
    if tokenizer.eos_token_id is not None and (other := [at for at in ends if at != tokenizer.eos_token_id]):
        writer.add_eot_token_id(other[0])


def _ends(source: Path, config: dict[str, Any]) -> list[int]:
    """The tokens that end an answer, as generation_config.json or config.json has them."""
    path = source / "generation_config.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = told.get("eos_token_id", config.get("eos_token_id"))
    return [at for at in (found if isinstance(found, list) else [found]) if isinstance(at, int)]
