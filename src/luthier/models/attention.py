"""Attention without padding: `luthier_varlen`, registered with transformers' AttentionInterface.

Tokens of several documents lie one after another in one row, [1, T]; who sees whom is an object that transformers'
models hand through untouched, as a keyword argument:

    layout=Line        packed documents, causal each, shared prefixes; differentiable       (line.py: training, losses)
    layout=Rows, ..    after a stored prefix, through a tree, one new token a row           (layouts.py: inference)
    none               plain scaled-dot-product attention with the model's mask

Legend: B rows, H query heads, K key/value heads, D head size, T tokens in the row, S keys.
Not here: soft-capped scores, attention sinks, position biases. A model that asks for them is refused, because
leaving them out would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from luthier.core.errors import ModelError

from .families import FAMILIES
from .line import Line, Segment

NAME = "luthier_varlen"
# Given to the attention function by families that need more than causal attention.
_BEYOND = ("softcap", "s_aux", "sinks", "position_bias")


class Layout(Protocol):
    def attend(
        self, layer: int, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention output [H, T, D] of one layer."""


def register() -> str:
    """Make `attn_implementation="luthier_varlen"` known to transformers; safe to repeat. Returns the name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, varlen)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def packed(lengths: Sequence[int], device: Any = "cpu") -> dict[str, Any]:
    """The keyword arguments of a forward pass over documents: `model(input_ids=[1, T], **packed(lengths))`.

    >>> packed([2, 3])["position_ids"].tolist()
    [[0, 1, 0, 1, 2]]
    """
    return along(Line([Segment(n) for n in lengths]), device)


def along(line: Line, device: Any = "cpu") -> dict[str, Any]:
    """The same for any packed line."""
    return {
        "position_ids": line.position_ids().to(device),
        "layout": line,
        "attention_mask": no_mask(device),
    }


def no_mask(device: Any = "cpu") -> Tensor:
    """[1, 1, 1, 1]: keeps transformers from building a mask of T² for a row whose attention does not need one.

    A four-dimensional mask is handed through as it is, and packed attention and layouts do not look at it.
    """
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def varlen(
    module: torch.nn.Module,
    query: Tensor,  # [B, H, T, D]
    key: Tensor,  # [B, K, S, D]
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: returns ([B, T, H, D], no weights)."""
    if asked := [name for name in _BEYOND if other.get(name) is not None]:
        raise ModelError(
            f"this model's attention needs {asked[0]!r}, which is not supported.",
            remedy="Choose a model of another family: " + ", ".join(FAMILIES) + ".",
        )
    if getattr(module, "is_causal", True) is False:
        raise ModelError(
            "this model's attention looks at later tokens, so it is no causal language model.",
            remedy="Choose a model of another family: " + ", ".join(FAMILIES) + ".",
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if layout is not None:
        if query.shape[0] != 1:
            raise ValueError("a layout takes one row")
        given = module.layer_idx, query[0], key[0], value[0], scale, sliding_window
        out_HTD = layout.attend(*given, dropout) if isinstance(layout, Line) else layout.attend(*given)
        return out_HTD.transpose(0, 1)[None], None
    return _plain(query, key, value, attention_mask, scale, dropout), None


def _plain(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    heads = query.shape[1]
    groups = heads // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    causal = mask is None and query.shape[2] > 1
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale
    )
    return out.transpose(1, 2).contiguous()
