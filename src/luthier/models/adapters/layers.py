"""Which layers a model has, and which of them were meant."""

from __future__ import annotations

from typing import Any

from luthier.core.errors import ModelError, did_you_mean


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
    known = linear_layers(model)
    for target in targets:
        if target.rpartition(".")[2] not in known:
            raise ModelError(f"the model has no linear layer {target!r}.", remedy=did_you_mean(target, known))


def last_blocks(model: Any, n: int | None) -> list[int] | None:
    """The numbers of the n topmost transformer blocks; None for all. Raises ModelError when there are fewer."""
    if n is None:
        return None
    blocks = model.config.num_hidden_layers
    if n > blocks:
        raise ModelError(
            f"train.adapter.last_layers is {n}, and the model has {blocks} transformer blocks.",
            remedy=f"Lower it to at most {blocks}, or leave it out for all of them.",
        )
    return list(range(blocks - n, blocks))


def requiring_gradients(model: Any) -> list[tuple[str, Any]]:
    """(name, parameter), a tied weight once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
