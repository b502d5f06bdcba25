"""How tokens attend when a model answers: after a shared prefix, through a tree of choices, or one new token a row.

A layout is given to a forward pass as `layout=`; `attention.varlen` hands it each layer's heads. No padding, no
cache class of transformers: keys and values are kept here, by layer.

    prompts  = Rows([n1, n2], prefix=shared)      row r sees the prefix, then itself, causally
    choices  = Rows([n1, n2], prefix=shared, tree=Tree(..))     the last tokens of each row are nodes of a tree
    decoding = Decoding(prompts, room)            one token per row and pass, rows of different lengths

Legend: H query heads, K key/value heads, G = H/K, D head size, R rows, P prefix tokens, N new tokens of one row,
M tree nodes, S tokens seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .line import document, spread

KeysValues = tuple[Tensor, Tensor]  # each [K, S, D]


@dataclass(frozen=True)
class Tree:
    """Nodes in an order where parents come first; `parents[i]` is None for a child of the prompt."""

    tokens: tuple[int, ...]
    parents: tuple[int | None, ...]

    def depths(self) -> list[int]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent is None else depths[parent] + 1)
        return depths

    def sees(self) -> Tensor:
        """[M, M], true where a node may look at another: itself and its ancestors."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent is not None:
                seen[node] |= seen[parent]
        return seen


class Rows:
    """`counts[r]` new tokens of row r, packed; with a `tree`, the last M of each row are its nodes.

    `keep` stores every row's keys and values, for a prefix or for decoding.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        prefix: list[KeysValues] | None = None,
        tree: Tree | None = None,
        keep: bool = False,
    ) -> None:
        self.counts = list(counts)
        self.prefix = prefix
        self.prefix_tokens = prefix[0][0].shape[1] if prefix else 0
        self.tree = tree if tree and tree.tokens else None
        self.kept: list[list[KeysValues]] | None = [[] for _ in counts] if keep else None
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def position_ids(self) -> Tensor:
        """[1, T]; a node stands as deep below the prompt as in its tree."""
        return torch.cat([self._row_positions(n) for n in self.counts])[None]

    def attend(
        self, layer: int, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        out, at = [], 0
        for row, n in enumerate(self.counts):
            q, k, v = q_HTD[:, at : at + n], k_KTD[:, at : at + n], v_KTD[:, at : at + n]
            at += n
            if self.kept is not None:
                self.kept[row].append((k, v))
            if self.prefix is None and self.tree is None:
                out.append(document(q, k, v, scale, window=window))
                continue
            if self.prefix is not None:
                shared_k, shared_v = self.prefix[layer]
                k, v = torch.cat([shared_k, k], 1), torch.cat([shared_v, v], 1)
            heads, mask = q.shape[0], self._mask(n, window, q.device)
            out.append(
                scaled_dot_product_attention(
                    q[None], spread(k, heads)[None], spread(v, heads)[None], attn_mask=mask, scale=scale
                )[0]
            )
        return torch.cat(out, 1)

    def _row_positions(self, n: int) -> Tensor:
        nodes = self.tree.depths() if self.tree else []
        begin, plain = self.prefix_tokens, n - len(nodes)
        return torch.tensor([*range(begin, begin + plain), *(begin + plain + depth for depth in nodes)])

    def _mask(self, n: int, window: int | None, device: torch.device) -> Tensor:
        """[N, P + N], true where a new token may look."""
        if (n, window) not in self._masks:
            own = torch.ones(n, n, dtype=torch.bool).tril()
            if self.tree:
                nodes = len(self.tree.tokens)
                own[-nodes:, -nodes:] = self.tree.sees()
            mask = torch.cat([torch.ones(n, self.prefix_tokens, dtype=torch.bool), own], 1)
            if window is not None:
                to = self._row_positions(n)
                seen = torch.cat([torch.arange(self.prefix_tokens), to])
                mask &= to[:, None] - seen[None, :] < window
            self._masks[n, window] = mask.to(device)
        return self._masks[n, window]


class Decoding:
    """One new token per row and pass, after what `rows` kept; `room` more tokens fit.

    Rows have different lengths: each writes at its own end, and a mask hides what lies beyond.
    """

    def __init__(self, rows: Rows, room: int) -> None:
        if rows.kept is None:
            raise ValueError("the rows were computed without keep=True")
        device = rows.kept[0][0][0].device
        self.lengths = torch.tensor([rows.prefix_tokens + n for n in rows.counts], device=device)
        capacity = int(self.lengths.max()) + room
        layers = len(rows.kept[0])
        self._keys, self._values = (
            [self._lay_out(rows, layer, side, capacity) for layer in range(layers)] for side in (0, 1)
        )

    @staticmethod
    def _lay_out(rows: Rows, layer: int, side: int, capacity: int) -> Tensor:
        """[R, K, capacity, D]"""
        assert rows.kept is not None
        first = rows.kept[0][layer][side]
        store = first.new_zeros(len(rows.counts), first.shape[0], capacity, first.shape[2])
        for row, n in enumerate(rows.counts):
            if rows.prefix is not None:
                store[row, :, : rows.prefix_tokens] = rows.prefix[layer][side]
            store[row, :, rows.prefix_tokens : rows.prefix_tokens + n] = rows.kept[row][layer][side]
        return store

    def position_ids(self) -> Tensor:
        """[1, R]: where the next token of each row stands."""
        return self.lengths[None]

    def attend(
        self, layer: int, q_HRD: Tensor, k_KRD: Tensor, v_KRD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        keys, values = self._keys[layer], self._values[layer]
        rows = torch.arange(len(self.lengths), device=keys.device)
        keys[rows, :, self.lengths] = k_KRD.transpose(0, 1)
        values[rows, :, self.lengths] = v_KRD.transpose(0, 1)
        seen = int(self.lengths.max()) + 1
        at = torch.arange(seen, device=keys.device)
        mask = at[None, :] <= self.lengths[:, None]
        if window is not None:
            mask &= at[None, :] > self.lengths[:, None] - window
        heads, count, size = q_HRD.shape
        # A group's query heads share its keys, so they stand where a longer query would.
        q_RKGD = q_HRD.reshape(keys.shape[1], -1, count, size).permute(2, 0, 1, 3)
        out = scaled_dot_product_attention(
            q_RKGD, keys[:, :, :seen], values[:, :, :seen], attn_mask=mask[:, None, None, :], scale=scale
        )
        return out.permute(1, 2, 0, 3).reshape(heads, count, -1)

    def advance(self) -> None:
        """Every row has its new token."""
        self.lengths = self.lengths + 1

    def keep_rows(self, rows: list[int]) -> None:
        """Go on with these rows only, given in ascending order."""
        if len(rows) == len(self.lengths):
            return
        index = torch.tensor(rows, device=self.lengths.device)
        self.lengths = self.lengths[index]
        self._keys = [keys[index] for keys in self._keys]
        self._values = [values[index] for values in self._values]
