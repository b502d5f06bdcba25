"""Which layers a model has, and which of them were meant."""

from __future__ import annotations

from typing import Any

from luthier.models.shapes import need_blocks, need_names


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


def need_layers(model: Any, targets: list[str]) -> None:
    """Raises ModelError for a name that no linear layer has."""
    need_names(targets, linear_layers(model))


def last_blocks(model: Any, n: int | None) -> list[int] | None:
    """The numbers of the n topmost transformer blocks; None for all. Raises ModelError when there are fewer."""
    if n is None:
        return None
    blocks = model.config.num_hidden_layers
    need_blocks(n, blocks)
    return list(range(blocks - n, blocks))


def requiring_gradients(model: Any) -> list[tuple[str, Any]]:
    """(name, parameter), a tied weight once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
