"""The weights themselves move: all of them, or the topmost blocks' (layer freezing). The result is a whole folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.models.spec import FullSpec

from .files import save_whole
from .layers import last_blocks, requiring_gradients


class Full:
    """What does not move requires no gradient; below the lowest block that moves, torch then computes none."""

    def attach(self, model: Any, spec: FullSpec, seed: int) -> Any:
        need_fp32(model, "full fine-tuning")
        blocks = last_blocks(model, spec.last_layers)
        if spec.init == "random":
            _draw(model, seed)
        model.requires_grad_(blocks is None)
        if blocks is not None:
            decoder = model.get_decoder()
            for part in (*(decoder.layers[i] for i in blocks), decoder.norm, model.get_output_embeddings()):
                part.requires_grad_(True)
        # Last, because a tied head is the embeddings.
        model.get_input_embeddings().requires_grad_(spec.moves_embeddings)
        return model

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        return requiring_gradients(model)

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        save_whole(model, folder)


def need_fp32(model: Any, what: str) -> None:
    """Raises ModelError for weights in a format in which small updates are rounded away."""
    import torch

    if model.dtype != torch.float32:
        raise ModelError(
            f"{what} of {model.dtype} weights loses updates smaller than their precision.",
            remedy="Set train.dtype: fp32, or use a LoRA adapter.",
        )


def _draw(model: Any, seed: int) -> None:
    """Fresh weights as transformers draws them for this config (normal with the config's initializer_range, norms one).
    For a moment there are two models; gradients and optimizer will need more."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(model.config)
    model.load_state_dict(fresh.state_dict())
