"""Attention of a packed line on the CPU, forward and backward: batches of query blocks, a few matrix products each.

A block holds queries of one or several segments that are padded to the same length and have as many keys before them,
so one batched product serves all of them and all their heads. Nothing of size N² is kept between the passes: shares are
computed again. Softmax and its gradient are the compiled ones of fast/kernels.py where those are in use, else torch's.

Not here: dropout (line.py, `plainly`), and which segments there are (line.py).

Legend: H query heads, K key/value heads, G = H/K, D head size, T tokens of the line, B parts of a block, N padded queries
of a part, S its padded keys: those before its first query, and N.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

QUERIES = 256
"""Most queries of a part: with more, most of a block's scores would belong to later keys."""
MULTIPLE = 16
"""Queries of a part are padded to a multiple: fewer shapes, for each of which oneDNN prepares a product by itself."""
SCORES = 1 << 19
"""Most scores of one head and block: they should stay in the cache."""


@dataclass(frozen=True)
class Part:
    """A run of queries, and the runs of keys that they may see, in order; the last one ends with the queries."""

    start: int
    queries: int
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Block:
    """`before` keys stand before each part's first query; a query sees itself and, with a window, `window - 1` keys more."""

    parts: tuple[Part, ...]
    queries: int
    before: int
    window: int | None

    @property
    def keys(self) -> int:
        return self.before + self.queries


@dataclass(frozen=True)
class Blocks:
    """All blocks of a line. `apart`: no key belongs to two parts, so that gradients of keys need not be added up."""

    blocks: tuple[Block, ...]
    apart: bool

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)


def blocks_of(segments: Iterable[tuple[int, int, list[tuple[int, int]]]], window: int | None) -> Blocks:
    """`segments`: (start, tokens, runs of keys above) of each."""
    found: dict[tuple[int, int], list[Part]] = {}
    apart = True
    for start, tokens, above in segments:
        seen = sum(n for _, n in above)
        pieces = -(-tokens // QUERIES)
        rows = -(-tokens // pieces)
        apart = apart and pieces == 1 and not above
        for a in range(0, tokens, rows):
            b = min(a + rows, tokens)
            hidden = 0 if window is None else max(0, seen + a - window + 1)
            part = Part(start + a, b - a, _without_first([*above, (start, b)], hidden))
            found.setdefault((-(-(b - a) // MULTIPLE) * MULTIPLE, seen + a - hidden), []).append(part)
    blocks = [
        Block(some, queries, before, window)
        for (queries, before), parts in found.items()
        for some in _evenly(parts, max(1, SCORES // (queries * (before + queries))))
    ]
    return Blocks(tuple(blocks), apart)


def _without_first(runs: list[tuple[int, int]], hidden: int) -> tuple[tuple[int, int], ...]:
    """The runs without their first tokens, neighbours joined."""
    left: list[tuple[int, int]] = []
    for start, n in runs:
        gone = min(hidden, n)
        hidden -= gone
        if left and sum(left[-1]) == start + gone:
            left[-1] = left[-1][0], left[-1][1] + n - gone
        elif n > gone:
            left.append((start + gone, n - gone))
    return tuple(left)


def _evenly(parts: list[Part], most: int) -> list[tuple[Part, ...]]:
    """As few groups of at most `most` as there can be, none much smaller than the others."""
    size = -(-len(parts) // -(-len(parts) // most))
    return [tuple(parts[a : a + size]) for a in range(0, len(parts), size)]


class LineAttention(torch.autograd.Function):
    """Causal attention of a packed line (Dao et al. 2022, appendix B.2, with whole rows of keys)."""

    @staticmethod
    def forward(
        ctx: Any, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, blocks: Blocks, scale: float
    ) -> Tensor:
        ctx.save_for_backward(q_HTD, k_KTD, v_KTD)
        ctx.blocks, ctx.scale = blocks, scale
        heads, tokens, size = q_HTD.shape
        kv_heads = k_KTD.shape[0]
        out_THD = q_HTD.new_empty(tokens, heads, size)
        for block in blocks:
            q, k, v = _queries(q_HTD, block, kv_heads), _keys(k_KTD, block), _keys(v_KTD, block)
            shares = _shares(torch.bmm(q, k.transpose(1, 2)), block, scale)
            _put_queries(torch.bmm(shares, v), out_THD, block)
        return out_THD.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_HTD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_HTD, k_KTD, v_KTD = ctx.saved_tensors
        kv_heads, tokens, size = k_KTD.shape
        q_grad_THD = q_HTD.new_empty(tokens, q_HTD.shape[0], size)
        # What many parts add to one key is gathered in fp32: a sum in bf16 would lose digits.
        exact = torch.promote_types(k_KTD.dtype, torch.float32)
        empty = k_KTD.new_empty if ctx.blocks.apart else functools.partial(k_KTD.new_zeros, dtype=exact)
        k_grad_TKD, v_grad_TKD = empty(tokens, kv_heads, size), empty(tokens, kv_heads, size)
        for block in ctx.blocks:
            q, k, v = _queries(q_HTD, block, kv_heads), _keys(k_KTD, block), _keys(v_KTD, block)
            out_grad = _queries(grad_HTD, block, kv_heads)
            shares = _shares(torch.bmm(q, k.transpose(1, 2)), block, ctx.scale)
            scores_grad = _scores_grad(torch.bmm(out_grad, v.transpose(1, 2)), shares, block, ctx.scale)
            _put_queries(torch.bmm(scores_grad, k), q_grad_THD, block)
            _put_keys(torch.bmm(scores_grad.transpose(1, 2), q), k_grad_TKD, block, add=not ctx.blocks.apart)
            _put_keys(
                torch.bmm(shares.transpose(1, 2), out_grad), v_grad_TKD, block, add=not ctx.blocks.apart
            )
        grads = (x.transpose(0, 1) for x in (q_grad_THD, k_grad_TKD.to(k.dtype), v_grad_TKD.to(v.dtype)))
        return *grads, None, None


# -- in and out of blocks ---------------------------------------------------------------------------------------------


def _queries(x_HTD: Tensor, block: Block, kv_heads: int) -> Tensor:
    """[B·K, G·N, D], zero where padded: what is there must not be NaN."""
    heads, _, size = x_HTD.shape
    groups = heads // kv_heads
    out = x_HTD.new_zeros(len(block.parts), kv_heads, groups, block.queries, size)
    x_KGTD = x_HTD.unflatten(0, (kv_heads, groups))
    for one, part in zip(out, block.parts, strict=True):
        one[:, :, : part.queries] = x_KGTD[:, :, part.start : part.start + part.queries]
    return out.view(-1, groups * block.queries, size)


def _keys(x_KTD: Tensor, block: Block) -> Tensor:
    """[B·K, S, D], zero where padded."""
    kv_heads, _, size = x_KTD.shape
    out = x_KTD.new_zeros(len(block.parts), kv_heads, block.keys, size)
    for one, part in zip(out, block.parts, strict=True):
        at = 0
        for start, n in part.keys:
            one[:, at : at + n] = x_KTD[:, start : start + n]
            at += n
    return out.view(-1, block.keys, size)


def _put_queries(x: Tensor, out_THD: Tensor, block: Block) -> None:
    """From [B·K, G·N, D]."""
    x_BHND = x.view(len(block.parts), out_THD.shape[1], block.queries, -1)
    for one, part in zip(x_BHND, block.parts, strict=True):
        out_THD[part.start : part.start + part.queries] = one[:, : part.queries].transpose(0, 1)


def _put_keys(x: Tensor, out_TKD: Tensor, block: Block, *, add: bool) -> None:
    """From [B·K, S, D]."""
    x_BKSD = x.view(len(block.parts), out_TKD.shape[1], block.keys, -1)
    for one, part in zip(x_BKSD, block.parts, strict=True):
        at = 0
        for start, n in part.keys:
            found = one[:, at : at + n].transpose(0, 1)
            at += n
            if add:
                out_TKD[start : start + n] += found
            else:
                out_TKD[start : start + n] = found


# -- softmax of blocks ------------------------------------------------------------------------------------------------


def _shares(scores: Tensor, block: Block, scale: float) -> Tensor:
    """[B·K, G·N, S], may be written over `scores`; zero for keys that a query does not see."""
    from .fast import kernels

    if _compiled(scores, block):
        return kernels.causal_softmax_(scores, block.queries, block.before, scale)
    scores_QNS = scores.view(-1, block.queries, block.keys).mul_(scale)
    hidden = torch.full((block.queries, block.keys), float("-inf"), dtype=scores.dtype)
    if block.window is None:
        # Keys before the first query are seen by all of them.
        scores_QNS[..., block.before :] += hidden[:, block.before :].triu_(1)
    else:
        scores_QNS += hidden.triu(block.before + 1) + hidden.tril_(block.before - block.window)
    return torch.softmax(scores, -1)


def _scores_grad(shares_grad: Tensor, shares: Tensor, block: Block, scale: float) -> Tensor:
    """P·(dP - Σ P·dP)·scale, may be written over `shares_grad` (Dao et al. 2022, appendix B.2)."""
    from .fast import kernels

    if _compiled(shares_grad, block):
        return kernels.causal_softmax_back_(shares_grad, shares, block.queries, block.before, scale)
    return torch.ops.aten._softmax_backward_data(shares_grad, shares, -1, shares.dtype).mul_(scale)


def _compiled(x: Tensor, block: Block) -> bool:
    """The compiled softmax knows no window, and two number formats."""
    from .fast import kernels

    return kernels.compiled() and block.window is None and x.dtype in (torch.float32, torch.bfloat16)
