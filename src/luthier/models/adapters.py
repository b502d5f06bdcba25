"""What moves while training: LoRA beside frozen weights, or every weight. Layouts in and out are peft's and transformers'.

An adapter kind is a class with three methods, and the training loop knows nothing else about it:

    attach(model, spec, seed) -> model      deterministic from the seed
    trainable(model) -> [(name, parameter)] in a stable order
    save(model, folder, base_name)          bytes depend on the weights only
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, did_you_mean

from .folder import read_json
from .spec import LARGEST_RANK, FullSpec, LoraSpec
from .weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

# What a tuned whole model takes over from its base, beside weights and config.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


class Lora:
    """Low-rank adapters through peft. The base may be bf16; the adapter itself is always fp32."""

    def attach(self, model: Any, spec: LoraSpec, seed: int) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        targets = linear_layers(model) if spec.targets == "all-linear" else list(spec.targets)
        _need_layers(model, targets)
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.scale * spec.rank,
            lora_dropout=spec.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(model, config, autocast_adapter_dtype=True)

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        save_file(
            {name: w.detach().cpu().contiguous() for name, w in sorted(weights.items())},
            folder / ADAPTER_WEIGHTS,
        )
        config = model.peft_config["default"].to_dict()
        config.update(base_model_name_or_path=base_name, inference_mode=True, revision=None)
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        plain["target_modules"] = sorted(plain["target_modules"])
        (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, sort_keys=True, indent=1, default=str) + "\n")


class Full:
    """Every weight moves. The result is a whole folder, tokenizer included."""

    def attach(self, model: Any, spec: FullSpec, seed: int) -> Any:
        import torch

        if model.dtype != torch.float32:
            raise ModelError(
                f"full fine-tuning of {model.dtype} weights loses updates smaller than their precision.",
                remedy="Set train.dtype: fp32, or use a LoRA adapter.",
            )
        return model.requires_grad_(True)

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        return list(model.named_parameters())  # a tied weight is told once

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()
        model.save_pretrained(folder)
        copy_tokenizer(Path(model.name_or_path), folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy tokenizer and chat template, which tuning never changes."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def linear_layers(model: Any) -> list[str]:
    """The last names of every linear layer but the output head, sorted: what "all-linear" stands for."""
    import torch

    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return sorted(names)


def _need_layers(model: Any, targets: list[str]) -> None:
    known = linear_layers(model)
    for target in targets:
        if target.rpartition(".")[2] not in known:
            raise ModelError(f"the model has no linear layer {target!r}.", remedy=did_you_mean(target, known))


def check_saved(folder: Path) -> dict[str, Any]:
    """adapter_config.json, refused where it asks for more than a plain LoRA: peft would read patterns and imports in it."""
    config = read_json(folder / ADAPTER_CONFIG)

    def refuse(key: str, rule: str) -> ModelError:
        return ModelError(
            f"adapter_config.json says {key} = {str(config.get(key))[:80]!r}: {rule}.",
            remedy="Use a plain LoRA adapter.",
        )

    if config.get("peft_type") != "LORA":
        raise refuse("peft_type", "only LORA is supported")
    rank = config.get("r")
    if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
        raise refuse("r", f"a rank is a whole number from 1 to {LARGEST_RANK}")
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(t, str) and len(t) < 200 for t in targets):
        raise refuse("target_modules", "a list of layer names is expected, never a pattern")
    if config.get("bias", "none") != "none":
        raise refuse("bias", "only 'none' is supported")
    for key in _MUST_BE_EMPTY:
        if config.get(key):
            raise refuse(key, "this is not supported")
    return config


_MUST_BE_EMPTY = (
    "auto_mapping",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "megatron_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "use_dora",
    "use_rslora",
    "use_qalora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "fan_in_fan_out",
)


def attach_saved(model: Any, folder: Path) -> Any:
    """A saved adapter on its base, through peft. Raises ModelError when it does not fit."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = check_saved(folder)
    known = linear_layers(model)
    if foreign := sorted({t.rpartition(".")[2] for t in config["target_modules"]} - set(known)):
        raise ModelError(
            f"the adapter is for layers that this base does not have ({foreign[0]!r}).",
            remedy="Name the base it was trained on.",
        )
    fresh = get_peft_model(
        model,
        LoraConfig(
            r=config["r"],
            lora_alpha=config["lora_alpha"],
            lora_dropout=config.get("lora_dropout", 0.0),
            target_modules=config["target_modules"],
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=True,
    )
    weights = load_file(folder / ADAPTER_WEIGHTS)
    try:
        told = set_peft_model_state_dict(fresh, weights)
    except RuntimeError as error:
        raise ModelError(
            f"the adapter does not fit its base: {str(error).splitlines()[-1].strip()}",
            remedy="Name the base it was trained on.",
        ) from None
    missing = [key for key in told.missing_keys if "lora_" in key]
    if missing or told.unexpected_keys:
        first = (missing or list(told.unexpected_keys))[0]
        raise ModelError(
            f"the adapter does not fit its base; first at {first!r}.",
            remedy="Name the base it was trained on.",
        )
    return fresh
