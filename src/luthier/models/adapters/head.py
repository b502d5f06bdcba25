"""Only the last norm and the output head move (linear probing where a method brings its own head). A whole folder results.

No transformer block keeps anything for a backward pass, so a step costs little more than reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.models.spec import HeadSpec

from .files import save_whole
from .full import need_fp32
from .layers import requiring_gradients


class Head:
    """A head that is tied to the embeddings is given weights of its own, since moving it must not move them."""

    def attach(self, model: Any, spec: HeadSpec, seed: int) -> Any:
        need_fp32(model, "training the output head")
        model.requires_grad_(False)
        _untie(model)
        model.get_decoder().norm.requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
        return model

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        """With a method's own head on the model, that one moves and the language model's stays as it was."""
        from luthier.models.head import head_of

        if head_of(model) is not None:
            model.get_output_embeddings().requires_grad_(False)
            _tie_again(model)
        return requiring_gradients(model)

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        save_whole(model, folder)


def _untie(model: Any) -> None:
    import torch

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
        model.config.tie_word_embeddings = False
        head.was_tied = True


def _tie_again(model: Any) -> None:
    head = model.get_output_embeddings()
    if getattr(head, "was_tied", False):
        head.weight = model.get_input_embeddings().weight
        model.config.tie_word_embeddings = True
        head.was_tied = False
