"""Activation checkpointing (Chen et al. 2016): a block keeps only its input and is computed again in the backward pass.
The same losses and gradients, for about a third more computing.

Not here: when it is worth it (training/memory).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: Any, precision: Callable[[Any], AbstractContextManager[None]]) -> int:
    """Make every transformer block of `model` forget its activations while training; returns how many blocks.

    `precision(model)` is the context in which losses are computed: the backward pass runs outside of it, and what is
    computed again must be computed in the same number formats.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    blocks = whole.get_decoder().layers

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # Asked in the forward pass, which may for once be in fp32 (agreement).
        narrow = torch.is_autocast_enabled(next(whole.parameters()).device.type)
        return nullcontext(), precision(model) if narrow else nullcontext()

    for block in blocks:
        block.forward = _recomputed(block, block.forward, contexts)
    return len(blocks)


def _recomputed(block: Any, forward: Callable[..., Any], contexts: Callable[[], Any]) -> Callable[..., Any]:
    def inner(*inputs: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)

    return inner
