"""An adapter's folder is read back: exactly the features that training here can give, every other one refused.

The config is checked key by key and a new one is made from the keys that were understood; peft itself would read
patterns, imports and other weights' changes in it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.models.folder import read_json
from luthier.models.spec import LARGEST_RANK
from luthier.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

from .layers import linear_layers

# Said in every config, and without influence on what the saved weights mean.
_WITHOUT_EFFECT = (
    "base_model_name_or_path",
    "bias",  # checked apart: only "none"
    "inference_mode",
    "init_ia3_weights",
    "init_lora_weights",  # checked apart
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
)
_UNDERSTOOD = {
    "LORA": ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "layers_to_transform"),
    "IA3": ("feedforward_modules",),
}
# Starts of A and B beside which the base stays what it was; others (PiSSA, LoftQ, ..) take something out of it.
_STARTS = (True, False, None, "gaussian", "orthogonal")


def check_saved(folder: Path) -> dict[str, Any]:
    """adapter_config.json, refused where it asks for more than a LoRA (rslora, dora and chosen layers included) or IA3."""
    config = read_json(folder / ADAPTER_CONFIG)

    def need(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise ModelError(
                f"adapter_config.json says {key} = {str(config.get(key))[:80]!r}: {rule}.",
                remedy="Use a plain LoRA adapter.",
            )

    kind = config.get("peft_type")
    need(isinstance(kind, str) and kind in _UNDERSTOOD, "peft_type", "only LORA and IA3 are supported")
    need(_are_names(config.get("target_modules")), "target_modules", _NAMES)
    need(config.get("bias", "none") == "none", "bias", "only 'none' is supported")
    if kind == "LORA":
        _check_lora(config, need)
    else:
        names = config.get("feedforward_modules") or []
        need(_are_names(names), "feedforward_modules", _NAMES)
        inside = set(names) <= set(config["target_modules"])
        need(inside, "feedforward_modules", "they must be among target_modules")
    for key in sorted(set(config) - {*_WITHOUT_EFFECT, *_UNDERSTOOD[str(kind)]}):
        need(not config[key], key, "this is not supported")
    return config


_NAMES = "a list of layer names is expected, never a pattern"


def _check_lora(config: dict[str, Any], need: Any) -> None:
    need(
        _is_whole(config.get("r"), 1, LARGEST_RANK), "r", f"a rank is a whole number from 1 to {LARGEST_RANK}"
    )
    need(_is_finite(config.get("lora_alpha")), "lora_alpha", "a finite number is expected")
    dropout = config.get("lora_dropout", 0.0)
    need(_is_finite(dropout) and 0 <= dropout < 1, "lora_dropout", "a share below 1 is expected")
    for key in ("use_rslora", "use_dora"):
        need(config.get(key) in (None, True, False), key, "yes or no is expected")
    blocks = config.get("layers_to_transform")
    numbers = blocks is None or (
        isinstance(blocks, list) and blocks and all(_is_whole(n, 0, 99_999) for n in blocks)
    )
    need(numbers, "layers_to_transform", "a list of whole numbers is expected")
    start = config.get("init_lora_weights")
    need(start in _STARTS, "init_lora_weights", "such a start may change the base, which then is not enough")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and len(name) < 200 for name in value)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scale_of(config: dict[str, Any]) -> float:
    """What B·A is multiplied by, from a config that `check_saved` has passed."""
    rank = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def attach_saved(model: Any, folder: Path) -> Any:
    """A saved adapter on its base, through peft. Raises ModelError when it does not fit."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = check_saved(folder)
    known = linear_layers(model)
    if foreign := sorted({t.rpartition(".")[2] for t in config["target_modules"]} - set(known)):
        raise _foreign_to_base(f"it is for a layer {foreign[0]!r}, which the base does not have")
    weights = load_file(folder / ADAPTER_WEIGHTS)
    try:
        fresh = get_peft_model(model, _peft_config(config), autocast_adapter_dtype=True)
        wanted = get_peft_model_state_dict(fresh, save_embedding_layers=False)
        if strange := sorted(set(wanted) ^ set(weights)):
            raise _foreign_to_base(f"first at {strange[0]!r}")
        set_peft_model_state_dict(fresh, weights)
    except (RuntimeError, ValueError) as error:
        raise _foreign_to_base(str(error).splitlines()[-1].strip()) from None
    return fresh


def _foreign_to_base(why: str) -> ModelError:
    return ModelError(f"the adapter does not fit its base: {why}.", remedy="Name the base it was trained on.")


def _peft_config(config: dict[str, Any]) -> Any:
    """peft's own object, made from the keys that were checked."""
    from peft import IA3Config, LoraConfig

    if config["peft_type"] == "IA3":
        return IA3Config(
            target_modules=config["target_modules"],
            feedforward_modules=config.get("feedforward_modules") or [],
            task_type="CAUSAL_LM",
        )
    return LoraConfig(
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config.get("lora_dropout", 0.0),
        target_modules=config["target_modules"],
        layers_to_transform=config.get("layers_to_transform"),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
        task_type="CAUSAL_LM",
    )
