"""Base and adapter become one plain folder, for every adapted layer, in fp32, stored in the base's type:

    lora   W + scale·B·A                                          scale = alpha / rank, with rslora alpha / √rank
    dora   m · (W + scale·B·A) / ‖W + scale·B·A‖                  norms by row (Liu et al. 2024, equation 5)
    ia3    l · W and l · bias by output, or W · l by input        (Liu et al. 2022)

Works on the files, one tensor at a time; no model is built and no copy of it held. Rounding to bf16 is
the only difference to the adapter beside its base; `dtype="fp32"` keeps even that.

An adapter that was trained on a quantised base is merged into the base as it was before: that is also what answers are
measured and served with, so the merged model says the same. Quantising again after a merge would not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

from .adapters import ADAPTER_WEIGHTS, check_saved, copy_tokenizer
from .adapters.saved import scale_of
from .folder import read_config
from .spec import Dtype

_PREFIX = "base_model.model."
Change = Callable[[Any], Any]
"""A weight in fp32 -> the same weight with the adapter in it."""


def merge(base_folder: Path, adapter_folder: Path, out: Path, dtype: Dtype | None = None) -> None:
    """Write a whole Hugging Face folder into `out`. `dtype` None keeps the base's. Raises ModelError."""
    from .tensor_file import Tensors, TensorWriter

    stored_as = {"fp32": "F32", "bf16": "BF16", None: None}[dtype]
    below = Tensors(base_folder)
    changes = changes_of(adapter_folder, below.stored)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted({tensor.file for tensor in below.stored.values()}):
        plan = {
            name: (stored_as or tensor.dtype, tensor.shape)
            for name, tensor in sorted(below.stored.items())
            if tensor.file == file
        }
        with TensorWriter(out / file.name, plan) as writer:
            for name, (form, _) in plan.items():
                writer.write(name, _changed(below.read(name), changes.get(name), form))
    write_settings(base_folder, out, dtype)


def _changed(weight: Any, change: Change | None, form: str) -> Any:
    from .tensor_file import dtype_of

    return (weight if change is None else change(weight.float())).to(dtype_of(form))


def changes_of(adapter_folder: Path, stored: Mapping[str, Any]) -> dict[str, Change]:
    """Base weight name -> what becomes of it. `stored` are the base's names: a bias is changed only where there is one, and
    nothing may be changed that is not there. Raises ModelError."""
    changes = _changes(adapter_folder, set(stored))
    if foreign := sorted(set(changes) - set(stored)):
        raise ModelError(
            f"the adapter changes {foreign[0]!r}, which its base does not have.",
            remedy="Name the base it was trained on.",
        )
    return changes


def _changes(folder: Path, stored: set[str]) -> dict[str, Change]:
    from safetensors.torch import load_file

    config = check_saved(folder)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    if config["peft_type"] == "LORA":
        return _low_rank_changes(tensors, scale_of(config), bool(config.get("use_dora")))
    return _ia3_changes(tensors, stored)


# -- lora and dora --------------------------------------------------------------------------------------------------------


def _low_rank_changes(tensors: dict[str, Any], scale: float, dora: bool) -> dict[str, Change]:
    parts = ("lora_A.weight", "lora_B.weight", *(("lora_magnitude_vector",) if dora else ()))
    by_layer: dict[str, dict[str, Any]] = {}
    for name in sorted(tensors):
        part = next((p for p in parts if name.endswith(f".{p}")), None)
        if part is None:
            raise ModelError(
                f"{ADAPTER_WEIGHTS} holds {name!r}, which is not half of a LoRA pair.",
                remedy="Use a plain LoRA adapter.",
            )
        layer = name.removeprefix(_PREFIX).removesuffix(f".{part}")
        by_layer.setdefault(layer, {})[part] = tensors[name]
    for layer, found in by_layer.items():
        if len(found) != len(parts):
            raise ModelError(
                f"{ADAPTER_WEIGHTS} holds halves without their pair, first at {layer!r}.",
                remedy="Use a plain LoRA adapter.",
            )
    return {f"{layer}.weight": _low_rank(found, scale) for layer, found in by_layer.items()}


def _low_rank(parts: dict[str, Any], scale: float) -> Change:
    a, b = parts["lora_A.weight"].float(), parts["lora_B.weight"].float()  # [rank, in], [out, rank]
    magnitude = parts.get("lora_magnitude_vector")

    def change(weight: Any) -> Any:
        if (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise _does_not_fit(f"an update of shape {b.shape[0]}×{a.shape[1]}", weight)
        moved = weight + scale * (b @ a)
        if magnitude is None:
            return moved
        if tuple(magnitude.shape) != (b.shape[0],):
            raise _does_not_fit(f"a magnitude of shape {tuple(magnitude.shape)}", weight)
        return moved * (magnitude.float() / moved.norm(dim=1))[:, None]

    return change


# -- ia3 ------------------------------------------------------------------------------------------------------------------


def _ia3_changes(tensors: dict[str, Any], stored: set[str]) -> dict[str, Change]:
    changes: dict[str, Change] = {}
    for name, factors in sorted(tensors.items()):
        layer = name.removeprefix(_PREFIX).removesuffix(".ia3_l")
        if not name.endswith(".ia3_l") or factors.dim() != 2 or 1 not in factors.shape:
            raise ModelError(
                f"{ADAPTER_WEIGHTS} holds {name!r}, which is not a row of factors.",
                remedy="Use a plain IA3 adapter.",
            )
        changes[f"{layer}.weight"] = _scaled(factors.float())
        # peft keeps factors of outputs as a column and those of inputs as a row; a bias belongs to the outputs.
        if factors.shape[1] == 1 and f"{layer}.bias" in stored:
            changes[f"{layer}.bias"] = _scaled(factors.float()[:, 0])
    return changes


def _scaled(factors: Any) -> Change:
    def change(weight: Any) -> Any:
        fits = [f in (1, w) for f, w in zip(factors.shape, weight.shape, strict=True)]
        if not all(fits):
            raise _does_not_fit(f"a row of {factors.numel()} factors", weight)
        return weight * factors

    return change


def _does_not_fit(what: str, weight: Any) -> ModelError:
    return ModelError(
        f"{what} does not fit a weight of {tuple(weight.shape)}.",
        remedy="Name the base the adapter was trained on.",
    )


# -- beside the weights ---------------------------------------------------------------------------------------------------


def write_settings(base_folder: Path, out: Path, dtype: Dtype | None) -> None:
    """Config, generation settings, index of the files, tokenizer and template, as the base has them."""
    config = read_config(base_folder)
    if dtype is not None:
        config["dtype"] = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
        config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config, sort_keys=True, indent=1) + "\n")
    for name in ("generation_config.json", "model.safetensors.index.json"):
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, out / name)
    copy_tokenizer(base_folder, out)
