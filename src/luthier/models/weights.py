"""A model's folder becomes a transformers model, and its facts without loading anything.

A folder that reaches this module has passed `intake`; here too only safetensors are read, code from a folder is
never run, and a weight that is missing or does not fit is an error: transformers would fill it with random numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

from .compressed import packing_of
from .folder import read_config, stored_tensors
from .spec import Dtype

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FIRST_BLOCK = "model.layers.0."  # in every supported family


@dataclass(frozen=True)
class ModelFacts:
    """What plans are made of. `parameters` counts a tied head once; `context` is the longest position (with longrope the
    longest of before it: beyond, one long row turns all positions of those beside it otherwise); `block` holds
    (name within a transformer block, shape) of the first block's tensors, empty in facts that were made by hand."""

    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    intermediate: int
    context: int
    tied: bool
    dtype: Dtype
    block: tuple[tuple[str, tuple[int, ...]], ...] = ()


def describe(folder: Path) -> ModelFacts:
    """Read from config.json and the headers of the weights; needs no torch."""
    config = read_config(folder)
    heads, hidden = _int(config, "num_attention_heads"), _int(config, "hidden_size")
    tensors = stored_tensors(folder)
    return ModelFacts(
        parameters=sum(tensor.elements for tensor in tensors.values()),
        layers=_int(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or hidden // heads,
        vocabulary=_int(config, "vocab_size"),
        intermediate=_int(config, "intermediate_size"),
        context=_context(config),
        tied="lm_head.weight" not in tensors,
        dtype="bf16" if any(tensor.dtype == "BF16" for tensor in tensors.values()) else "fp32",
        block=tuple(
            (name.partition(_FIRST_BLOCK)[2], tensor.shape)
            for name, tensor in sorted(tensors.items())
            if name.startswith(_FIRST_BLOCK)
        ),
    )


def _context(config: dict[str, Any]) -> int:
    longest = _int(config, "max_position_embeddings")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return longest
    told = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    return min(longest, told) if isinstance(told, int) and told > 0 else longest


def _int(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(
            f"config.json says {key} = {value!r}, which is not a positive number.",
            remedy="Check the model's folder.",
        )
    return value


def load_tokenizer(folder: Path) -> Any:
    """The folder's own tokenizer, with its chat template if it has one."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder.name} has no tokenizer.json.", remedy="Save the model with a fast tokenizer."
        )
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load(folder: Path, *, dtype: Dtype = "fp32", device: str = "cpu", base_folder: Path | None = None) -> Any:
    """A transformers model in eval mode with attention `luthier_varlen`.

    A folder that holds an adapter needs `base_folder`; the result is then a peft model. A head that lies in the folder is
    put on (models/head). Raises ModelError.
    """
    from .libraries import load_libraries

    load_libraries()
    from .head import load as load_head

    if (folder / ADAPTER_CONFIG).is_file():
        if base_folder is None:
            raise ModelError(
                f"{folder.name} holds an adapter only.", remedy="Name the model it was trained on."
            )
        from .adapters import attach_saved

        model = attach_saved(_load_whole(base_folder, dtype, device), folder).eval()
    else:
        model = _load_whole(folder, dtype, device)
    load_head(model, folder)
    return model


def _bound_primitive_cache() -> None:
    """Keep oneDNN from remembering a compiled matrix product for each of 1,024 shapes, about a megabyte each.

    Packed batches have a new length almost every time, so it would grow by gigabytes and be of no use: memory stays
    flat at 64 and the speed is the same (docs/log.md). Read by oneDNN at its first product; a user's value stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def _load_whole(folder: Path, dtype: Dtype, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from .attention import register

    _bound_primitive_cache()
    packing = packing_of(read_config(folder))
    logging.disable_progress_bar()
    if packing is not None:
        from .packed import load_packed

        formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
        return load_packed(folder, packing, formats[dtype], register()).to(device)
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
            attn_implementation=register(),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the model in {folder.name} cannot be loaded: {str(error).strip().splitlines()[0]}",
            remedy="Check that its files are complete.",
        ) from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if told[what]:
            first = sorted(str(key) for key in told[what])[0]
            raise ModelError(
                f"the weights in {folder.name} do not fit its config.json: {len(told[what])} {what.replace('_', ' ')}, first {first!r}.",
                remedy="Fetch the model again; a part of it is missing or belongs to another one.",
            )
    return model.to(device).eval()
