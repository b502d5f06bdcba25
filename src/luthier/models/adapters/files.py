"""What a tuned model is written as: peft's two files, or a whole Hugging Face folder. Bytes follow from the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from luthier.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

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


def save_beside(model: Any, folder: Path, base_name: str) -> None:
    """The adapter of a peft model, as plain peft reads it. Nothing of the base is in it, nor how it was held."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: w.detach().cpu().contiguous() for name, w in sorted(weights.items())},
        folder / ADAPTER_WEIGHTS,
    )
    config = model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=base_name, inference_mode=True, revision=None)
    # peft keeps names in sets, whose order changes from process to process.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, sort_keys=True, indent=1, default=str) + "\n")


def save_whole(model: Any, folder: Path) -> None:
    """Weights, config, tokenizer and chat template."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    copy_tokenizer(Path(model.name_or_path), folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy tokenizer and chat template, which tuning never changes."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
