"""Attention without padding: `luthier_varlen`, registered with transformers' AttentionInterface.

Tokens of several documents lie one after another in one row, [1, T]; each attends only within its own document.
Legend: H query heads, K key/value heads, G = H/K, D head size, T tokens in the row, N tokens of one document.

Three ways in, told apart by keyword arguments that transformers' models hand through untouched:

    cu_seq_lens_q=[0, n1, n1+n2, ..]  packed documents, causal each, differentiable        (training, losses)
    layout=Layout                     an object that attends by itself                     (layouts.py: inference)
    neither                           plain scaled-dot-product attention with the model's mask

Not here: soft-capped scores, attention sinks, position biases. A model that asks for them is refused, because
leaving them out would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from luthier.core.errors import ModelError

from .families import FAMILIES

NAME = "luthier_varlen"
# Query rows whose scores are held at once in the backward pass: a block's scores should stay in the cache.
QUERY_BLOCK = 256
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


def packed(lengths: Sequence[int], device: Any = "cpu") -> dict[str, Tensor]:
    """The keyword arguments of a packed forward pass: `model(input_ids=[1, T], **packed(lengths))`.

    >>> packed([2, 3])["position_ids"].tolist(), packed([2, 3])["cu_seq_lens_q"].tolist()
    ([[0, 1, 0, 1, 2]], [0, 2, 5])
    """
    counts = torch.tensor(list(lengths), dtype=torch.int32)
    edges = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return {
        "position_ids": positions.to(device),
        "cu_seq_lens_q": edges.to(device),
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
    cu_seq_lens_q: Tensor | None = None,
    layout: Layout | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: returns ([B, T, H, D], no weights)."""
    if asked := [name for name in _BEYOND if other.get(name) is not None]:
        raise ModelError(
            f"this model's attention needs {asked[0]!r}, which is not supported.",
            remedy="Choose a model of another family: " + ", ".join(FAMILIES) + ".",
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if layout is not None:
        out = layout.attend(module.layer_idx, query[0], key[0], value[0], scale, sliding_window)
        return out.transpose(0, 1)[None], None
    if cu_seq_lens_q is not None:
        if query.shape[0] != 1 or key.shape[2] != query.shape[2]:
            raise ValueError("packed attention takes one row and no cache")
        # Under autocast rotary positions come back in fp32 while values are bf16.
        query, key = query.to(value.dtype), key.to(value.dtype)
        edges = cu_seq_lens_q.tolist()
        return _packed(query[0], key[0], value[0], edges, scale, dropout, sliding_window)[None], None
    return _plain(query, key, value, attention_mask, scale, dropout), None


def _packed(
    q_HTD: Tensor,
    k_KTD: Tensor,
    v_KTD: Tensor,
    edges: list[int],
    scale: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """[T, H, D]: each document by itself, so the work is the sum of N² and not T²."""
    lengths = [b - a for a, b in pairwise(edges) if b > a]
    if window is not None and max(lengths) <= window:
        window = None
    if q_HTD.device.type == "cpu" and window is None and not dropout and q_HTD.requires_grad:
        return Documents.apply(q_HTD, k_KTD, v_KTD, lengths, scale).transpose(0, 1)
    return documents_plainly(q_HTD, k_KTD, v_KTD, lengths, scale, dropout, window).transpose(0, 1)


def documents_plainly(
    q_HTD: Tensor,
    k_KTD: Tensor,
    v_KTD: Tensor,
    lengths: list[int],
    scale: float,
    dropout: float = 0.0,
    window: int | None = None,
) -> Tensor:
    """[H, T, D]: one call of torch's attention a document; what `Documents` must equal, gradients included."""
    # split, not slices: the gradient of a slice is a zero tensor as long as the whole row.
    parts = zip(q_HTD.split(lengths, 1), k_KTD.split(lengths, 1), v_KTD.split(lengths, 1), strict=True)
    return torch.cat([document(q, k, v, scale, dropout, window) for q, k, v in parts], 1)


class Documents(torch.autograd.Function):
    """Causal attention of packed documents whose backward pass is a few batched matrix products over query blocks.

    On CPU torch's own backward kernel took three times as long (docs/log.md). Nothing of size N² is kept between
    the passes: the probabilities of a block are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: list[int], scale: float
    ) -> Tensor:
        ctx.save_for_backward(q_HTD, k_KTD, v_KTD)
        ctx.lengths, ctx.scale = lengths, scale
        return documents_plainly(q_HTD, k_KTD, v_KTD, lengths, scale)

    @staticmethod
    def backward(ctx: Any, grad_HTD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_HTD, k_KTD, v_KTD = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_HTD, k_KTD, v_KTD)]
        at = 0
        for n in ctx.lengths:
            inside = slice(at, at + n)
            parts = [x[:, inside] for x in (q_HTD, k_KTD, v_KTD, grad_HTD, *grads)]
            _document_backward(*parts, scale=ctx.scale)
            at += n
        return grads[0], grads[1], grads[2], None, None


def _document_backward(
    q_HND: Tensor,
    k_KND: Tensor,
    v_KND: Tensor,
    out_grad_HND: Tensor,
    q_grad_HND: Tensor,
    k_grad_KND: Tensor,
    v_grad_KND: Tensor,
    *,
    scale: float,
) -> None:
    """Fill the three gradients of one document (Dao et al. 2022, appendix B.2, with whole rows of keys)."""
    (heads, n, size), kv_heads = q_HND.shape, k_KND.shape[0]
    exact = torch.promote_types(q_HND.dtype, torch.float32)
    groups = heads // kv_heads
    q_KGND, grad_KGND = (x.reshape(kv_heads, groups, n, size) for x in (q_HND, out_grad_HND))
    blocks = -(-n // QUERY_BLOCK)
    rows = -(-n // blocks)
    k_sum, v_sum = (
        (k_KND.new_zeros(k_KND.shape, dtype=exact) for _ in range(2)) if blocks > 1 else (None, None)
    )
    for a in range(0, n, rows):
        b = min(a + rows, n)
        q, grad = (x[:, :, a:b].reshape(kv_heads, groups * (b - a), size) for x in (q_KGND, grad_KGND))
        k, v = k_KND[:, :b], v_KND[:, :b]
        scores = torch.bmm(q, k.transpose(1, 2)).view(kv_heads, groups, b - a, b)
        scores += _future(a, b, scores)
        shares = torch.softmax(scores.mul_(scale), -1, dtype=exact).view(kv_heads, -1, b)
        shares_grad = torch.bmm(grad, v.transpose(1, 2)).to(exact)
        weighted = shares_grad.mul_(shares)
        scores_grad = (weighted - shares * weighted.sum(-1, keepdim=True)).mul_(scale).to(q.dtype)
        q_grad_HND.view(kv_heads, groups, n, size)[:, :, a:b] = torch.bmm(scores_grad, k).view(
            kv_heads, groups, b - a, size
        )
        k_grad = torch.bmm(scores_grad.transpose(1, 2), q)
        v_grad = torch.bmm(shares.to(q.dtype).transpose(1, 2), grad)
        if k_sum is None or v_sum is None:
            k_grad_KND.copy_(k_grad)
            v_grad_KND.copy_(v_grad)
        else:
            k_sum[:, :b] += k_grad
            v_sum[:, :b] += v_grad
    if k_sum is not None and v_sum is not None:
        k_grad_KND.copy_(k_sum)
        v_grad_KND.copy_(v_sum)


def _future(a: int, b: int, like: Tensor) -> Tensor:
    """[b - a, b]: minus infinity where a query a..b-1 would look at a later key, else 0."""
    return torch.full((b - a, b), float("-inf"), dtype=like.dtype, device=like.device).triu_(a + 1)


def document(
    q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, dropout: float = 0.0, window: int | None = None
) -> Tensor:
    """Causal attention of one document, [H, N, D]."""
    n = q_HND.shape[1]
    k_HND, v_HND = spread(k_KND, q_HND.shape[0]), spread(v_KND, q_HND.shape[0])
    mask = None
    if window is not None and n > window:
        mask = _window_mask(n, window, q_HND.device)
    return scaled_dot_product_attention(
        q_HND[None],
        k_HND[None],
        v_HND[None],
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scale,
    )[0]


def spread(x_KND: Tensor, heads: int) -> Tensor:
    """Repeat each key/value head for its group of query heads: [K, N, D] -> [H, N, D]."""
    kv_heads, n, d = x_KND.shape
    if kv_heads == heads:
        return x_KND
    return x_KND[:, None].expand(kv_heads, heads // kv_heads, n, d).reshape(heads, n, d)


def _window_mask(n: int, window: int, device: torch.device) -> Tensor:
    """[N, N], true where a query may look: itself and the `window - 1` tokens before it."""
    at = torch.arange(n, device=device)
    back = at[:, None] - at[None, :]
    return (back >= 0) & (back < window)


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
