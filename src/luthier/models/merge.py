"""Base and adapter become one plain folder: W + scale · B·A for every adapted layer, in fp32, stored in the base's type.

Works on the files, one weights file at a time; no model is built and no second copy of it held. Rounding to bf16 is
the only difference to the adapter beside its base; `dtype="fp32"` keeps even that.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

from .adapters import ADAPTER_WEIGHTS, check_saved, copy_tokenizer
from .folder import read_config, stored_tensors
from .spec import Dtype

_PREFIX = "base_model.model."


def merge(base_folder: Path, adapter_folder: Path, out: Path, dtype: Dtype | None = None) -> None:
    """Write a whole Hugging Face folder into `out`. `dtype` None keeps the base's. Raises ModelError."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    stored_as = {"fp32": torch.float32, "bf16": torch.bfloat16, None: None}[dtype]
    config = check_saved(adapter_folder)
    updates = _updates(adapter_folder)
    tensors = stored_tensors(base_folder)
    if foreign := sorted(set(updates) - set(tensors)):
        raise ModelError(
            f"the adapter changes {foreign[0]!r}, which its base does not have.",
            remedy="Name the base it was trained on.",
        )
    scale = config["lora_alpha"] / config["r"]
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted({tensor.file for tensor in tensors.values()}):
        with safe_open(file, "pt") as source:
            weights = {
                name: _merged(source.get_tensor(name), updates.get(name), scale, stored_as)
                for name in sorted(source.keys())
            }
        save_file(weights, out / file.name, metadata={"format": "pt"})
    _write_settings(base_folder, out, dtype)


def _updates(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Base weight name -> (A [rank, in], B [out, rank])."""
    from safetensors.torch import load_file

    halves = load_file(folder / ADAPTER_WEIGHTS)
    updates = {}
    for name in sorted(halves):
        layer, _, half = name.removeprefix(_PREFIX).rpartition(".lora_")
        if half == "B.weight":
            continue
        other = f"{_PREFIX}{layer}.lora_B.weight"
        if half != "A.weight" or other not in halves:
            raise ModelError(
                f"{ADAPTER_WEIGHTS} holds {name!r}, which is not half of a LoRA pair.",
                remedy="Use a plain LoRA adapter.",
            )
        updates[f"{layer}.weight"] = (halves[name], halves[other])
    if 2 * len(updates) != len(halves):
        raise ModelError(
            f"{ADAPTER_WEIGHTS} holds halves without their pair.", remedy="Use a plain LoRA adapter."
        )
    return updates


def _merged(weight: Any, update: tuple[Any, Any] | None, scale: float, stored_as: Any) -> Any:
    stored_as = stored_as or weight.dtype
    if update is None:
        return weight.to(stored_as).contiguous()
    a, b = update
    if (b.shape[0], a.shape[1]) != tuple(weight.shape):
        raise ModelError(
            f"an update of shape {b.shape[0]}×{a.shape[1]} does not fit a weight of {tuple(weight.shape)}.",
            remedy="Name the base the adapter was trained on.",
        )
    return (weight.float() + scale * (b.float() @ a.float())).to(stored_as).contiguous()


def _write_settings(base_folder: Path, out: Path, dtype: Dtype | None) -> None:
    config = read_config(base_folder)
    if dtype is not None:
        config["dtype"] = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
        config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config, sort_keys=True, indent=1) + "\n")
    for name in ("generation_config.json", "model.safetensors.index.json"):
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, out / name)
    copy_tokenizer(base_folder, out)
