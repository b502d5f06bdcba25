"""A LoRA adapter in peft's layout becomes a GGUF file that llama.cpp adds to its base as it answers.

llama.cpp computes scale · alpha / r · B·A, so alpha is written as the config's own scale times r (rslora's included). Rows of B for q
and k of the Llama family are interleaved, as those of the base are (to_gguf.py). What has no place in such a file (DoRA, IA3, layers
outside the blocks) is refused: merged, it can be served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, missing_part

from .folder import read_config, stored_tensors
from .gguf_names import ARCHITECTURES, ROTATED, gguf_name
from .to_gguf import permute

_PREFIX = "base_model.model."
_REMEDY = "Package the model as merged (postprocess.export: [merged]); whole weights are served with anything in them."


def refuse(adapter: Path, base: Path) -> dict[str, Any]:
    """The adapter's checked config. Raises ModelError for an adapter that a GGUF file cannot hold."""
    from .adapters.saved import check_saved
    from .weights import ADAPTER_WEIGHTS

    config, family = check_saved(adapter), read_config(base).get("model_type")
    if config["peft_type"] != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config["peft_type"] == "LORA" else config["peft_type"]
        raise ModelError(f"this adapter is {kind}, and llama.cpp reads plain LoRA alone.", remedy=_REMEDY)
    if family not in ARCHITECTURES:
        raise ModelError(
            f"llama.cpp is not asked for {family} models here.", remedy="Use --engine transformers."
        )
    for name in stored_tensors(adapter):
        if name.split(".")[-2] not in ("lora_A", "lora_B") or ".layers." not in name:
            raise ModelError(
                f"this adapter changes {name.removeprefix(_PREFIX)!r}, which llama.cpp's adapters cannot.",
                remedy=_REMEDY,
            )
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{adapter.name} holds no {ADAPTER_WEIGHTS}.", remedy="Run its recipe again.")
    return config


def write(adapter: Path, base: Path, out: Path) -> None:
    """One file, of the adapter's own numbers in fp32. Raises ModelError."""
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise missing_part("gguf", "train", "writing a GGUF file") from None
    from .adapters.saved import scale_of
    from .tensor_file import Tensors

    config, facts = refuse(adapter, base), read_config(base)
    architecture = ARCHITECTURES[facts["model_type"]]
    heads = facts["num_attention_heads"]
    counts = {"q_proj": heads, "k_proj": facts.get("num_key_value_heads") or heads}
    writer = GGUFWriter(out, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", scale_of(config) * config["r"])
    tensors = Tensors(adapter)
    for name in tensors:
        value = tensors.read(name).float()
        stem, matrix = name.removeprefix(_PREFIX).removesuffix(".weight").rsplit(".", 1)
        layer = stem.rpartition(".")[2]
        if matrix == "lora_B" and architecture in ROTATED and layer in counts:
            value = permute(value, counts[layer])
        writer.add_tensor(f"{gguf_name(stem + '.weight')}.{matrix.lower()}", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
