"""A packed line: segments of tokens one after another in one row, of which some continue others.

    documents        [a a a][b b]                   each attends to itself only
    shared prefix    [p p p][a a][b b b]            a and b continue p: they see it, and not each other
    of two levels    [i i][p p][a][b][q q][c]       instruction, prompts, answers

Tokens of a segment see all of the segments above it and those of its own that are not later. Positions count from the
beginning of what a segment continues, so a line gives the states, losses and gradients of its sequences one by one:
what they share is computed once, and its keys and values gather the gradients of all that continue it.

`Line.attend` chooses: blocks of matrix products on the CPU (blocked.py), torch's own kernel for unequal lengths on CUDA,
and `Line.plainly` where dropout or a number format leaves no other; all must equal `plainly`. No mask of T² anywhere.

Legend: H query heads, K key/value heads, D head size, T tokens of the line, N of a segment, P of what is above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .blocked import Blocks, LineAttention, blocks_of

Run = tuple[int, int]  # (place of the first token in the line, how many)
_VARLEN_FORMATS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Segment:
    """`above` is the index of the segment it continues, which stands earlier; None begins at position 0."""

    tokens: int
    above: int | None = None


class Line:
    """What attention needs to know of a packed row. Whole numbers only: nothing is fetched from a device."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Raises ValueError when a segment continues one that does not stand before it."""
        self.segments = tuple(segments)
        self.starts: list[int] = []
        """Place of each segment's first token in the line."""
        self.firsts: list[int] = []
        """Position of each segment's first token in its sequence."""
        self.tokens = 0
        for k, one in enumerate(self.segments):
            if one.above is not None and not 0 <= one.above < k:
                raise ValueError(f"segment {k} continues {one.above}, which does not stand before it")
            above = 0 if one.above is None else self.firsts[one.above] + self.segments[one.above].tokens
            self.starts.append(self.tokens)
            self.firsts.append(above)
            self.tokens += one.tokens
        self._blocks: dict[int | None, Blocks] = {}
        self._edges: dict[Any, tuple[Tensor, Tensor, Tensor | None]] = {}

    @property
    def shared(self) -> bool:
        """Whether any segment continues another."""
        return any(one.above is not None for one in self.segments)

    @cached_property
    def longest(self) -> int:
        """The most tokens that any token can see."""
        return max((f + one.tokens for f, one in zip(self.firsts, self.segments, strict=True)), default=0)

    def position_ids(self) -> Tensor:
        """[1, T]"""
        parts = [torch.arange(f, f + s.tokens) for f, s in zip(self.firsts, self.segments, strict=True)]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *parts])[None]

    def above(self, k: int) -> list[Run]:
        """What stands above a segment, from position 0 on; neighbours in the line are one run."""
        chain: list[Run] = []
        at = self.segments[k].above
        while at is not None:
            start, tokens = self.starts[at], self.segments[at].tokens
            if chain and start + tokens == chain[-1][0]:
                chain[-1] = start, tokens + chain[-1][1]
            else:
                chain.append((start, tokens))
            at = self.segments[at].above
        return [run for run in reversed(chain) if run[1]]

    def walk(self) -> Iterator[tuple[int, int, list[Run]]]:
        """(start, tokens, runs above) of each segment that has tokens."""
        for k, one in enumerate(self.segments):
            if one.tokens:
                yield self.starts[k], one.tokens, self.above(k)

    # -- attention ----------------------------------------------------------------------------------------------------

    def attend(
        self,
        layer: int,
        q_HTD: Tensor,
        k_KTD: Tensor,
        v_KTD: Tensor,
        scale: float,
        window: int | None,
        dropout: float = 0.0,
    ) -> Tensor:
        """[H, T, D] of one layer. Raises ValueError where dropout would make equal beginnings differ, and where the row
        is not this line."""
        if not q_HTD.shape[1] == k_KTD.shape[1] == self.tokens:
            raise ValueError(
                f"{q_HTD.shape[1]} queries, {k_KTD.shape[1]} keys, and the line has {self.tokens} tokens"
            )
        if dropout and self.shared:
            raise ValueError("attention dropout, and the line shares prefixes")
        # Under autocast rotary positions come back in fp32 while values are bf16.
        q_HTD, k_KTD = q_HTD.to(v_KTD.dtype), k_KTD.to(v_KTD.dtype)
        if window is not None and self.longest <= window:
            window = None
        if dropout:
            return self.plainly(q_HTD, k_KTD, v_KTD, scale, window, dropout)
        if v_KTD.device.type == "cpu":
            return LineAttention.apply(q_HTD, k_KTD, v_KTD, self.blocks(window), scale)
        if v_KTD.device.type == "cuda" and v_KTD.dtype in _VARLEN_FORMATS and _has_varlen(v_KTD.device):
            return self.by_varlen(q_HTD, k_KTD, v_KTD, scale, window)
        return self.plainly(q_HTD, k_KTD, v_KTD, scale, window)

    def blocks(self, window: int | None) -> Blocks:
        """The blocks of the CPU form; made once for all layers."""
        if window not in self._blocks:
            self._blocks[window] = blocks_of(self.walk(), window)
        return self._blocks[window]

    def plainly(
        self,
        q_HTD: Tensor,
        k_KTD: Tensor,
        v_KTD: Tensor,
        scale: float,
        window: int | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """[H, T, D]: one call of torch's attention a segment, keys and values from the beginning of its sequence."""
        lengths = [one.tokens for one in self.segments]
        # split, not slices: the gradient of a slice is a zero tensor as long as the whole row.
        q, k, v = (x.split(lengths, 1) for x in (q_HTD, k_KTD, v_KTD))
        out = []
        for at, one in enumerate(self.segments):
            chain = [at]
            while (above := self.segments[chain[-1]].above) is not None:
                chain.append(above)
            whole_k, whole_v = (torch.cat([x[i] for i in reversed(chain)], 1) for x in (k, v))
            out.append(document(q[at], whole_k, whole_v, scale, dropout, window) if one.tokens else q[at])
        return torch.cat(out, 1)

    def by_varlen(
        self, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """[H, T, D] by torch's kernel for sequences of unequal lengths (FlashAttention, Dao 2023). Keys and values of
        what is shared are repeated for each segment that continues it, this one layer's; autograd adds them up again.
        Not measured."""
        from torch.nn.attention.varlen import varlen_attn

        edges_q, edges_k, index = self._lay_out(q_HTD.device)
        q_THD, k_SKD, v_SKD = (x.transpose(0, 1) for x in (q_HTD, k_KTD, v_KTD))
        if index is not None:
            k_SKD, v_SKD = k_SKD[index], v_SKD[index]
        walked = list(self.walk())
        out_THD = varlen_attn(
            q_THD,
            k_SKD,
            v_SKD,
            edges_q,
            edges_k,
            max(n for _, n, _ in walked),
            self.longest,
            scale=scale,
            # The last query sees the last key: with fewer queries than keys, both ends are aligned.
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=q_HTD.shape[0] != k_KTD.shape[0],
        )
        assert isinstance(out_THD, Tensor)
        return out_THD.transpose(0, 1)

    def _lay_out(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """(edges of queries, edges of keys, places of the keys or None where they lie as they are), kept by device."""
        if device not in self._edges:
            queries, keys, places = [0], [0], []
            for start, tokens, above in self.walk():
                queries.append(queries[-1] + tokens)
                keys.append(keys[-1] + tokens + sum(n for _, n in above))
                places += [place for a, n in (*above, (start, tokens)) for place in range(a, a + n)]
            index = torch.tensor(places, device=device) if self.shared else None
            q, k = (torch.tensor(x, dtype=torch.int32, device=device) for x in (queries, keys))
            self._edges[device] = q, k, index
        return self._edges[device]


@cache
def _has_varlen(device: torch.device) -> bool:
    """FlashAttention wants capability 8.0."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def document(
    q_HND: Tensor, k_KSD: Tensor, v_KSD: Tensor, scale: float, dropout: float = 0.0, window: int | None = None
) -> Tensor:
    """Causal attention of the last N of S tokens, [H, N, D]."""
    n, seen = q_HND.shape[1], k_KSD.shape[1]
    k_HSD, v_HSD = spread(k_KSD, q_HND.shape[0]), spread(v_KSD, q_HND.shape[0])
    mask = None
    if n < seen or (window is not None and n > window):
        mask = _mask(n, seen, window, q_HND.device)
    return scaled_dot_product_attention(
        q_HND[None],
        k_HSD[None],
        v_HSD[None],
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


def _mask(n: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """[N, S], true where a query may look: itself and what is before it, of which `window - 1` tokens."""
    back = torch.arange(seen - n, seen, device=device)[:, None] - torch.arange(seen, device=device)[None, :]
    return (back >= 0) if window is None else (back >= 0) & (back < window)


def steady(model: torch.nn.Module) -> bool:
    """Whether equal tokens after equal tokens get equal states while training: no part of the model draws dropout.
    Only then may sequences share what they begin with."""
    return not any(
        (isinstance(module, torch.nn.Dropout) and module.p > 0)
        or (isinstance(rate := getattr(module, "attention_dropout", 0.0), float) and rate > 0)
        for module in model.modules()
    )
