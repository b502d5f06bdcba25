"""Sequences become one packed line: no padding, each attends to itself only.

    sequences   [a a a a] [b b b]
    input_ids   [a a a b b]               a sequence's last token is never an input: it predicts nothing
    keep        positions *before* supervised tokens; the head runs on these S alone
    owner       which sequence each of the S belongs to

With `share`, sequences that begin with the same tokens have that beginning in the line once (prefixes.py); keep, targets,
weights and owner stand in the same order as without it. Losses and gradients are the same up to rounding. Every method
packs with this, so what makes packing faster makes all of them faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.models.attention import along
from luthier.models.line import Line, Segment

from .prefixes import Prefixes, apart
from .rows import Row, Tokens


@dataclass(frozen=True)
class Packed:
    """T input tokens and their S supervised targets. `inputs` are the keyword arguments of a forward pass; `tokens` are
    those of the rows, whatever they share."""

    inputs: Mapping[str, Any]
    keep: Tensor  # [S], positions whose logits are needed; no two are equal, and they need not ascend
    targets: Tensor  # [S], the tokens they must predict
    weights: Tensor  # [S], each token's row weight
    owner: Tensor  # [S], index of the sequence
    sequences: int
    tokens: int
    row_weights: Sequence[float]

    @property
    def supervised(self) -> int:
        return len(self.targets)

    @property
    def computed(self) -> int:
        """T: what the rows share is computed once."""
        return int(self.inputs["input_ids"].shape[1])

    def to(self, device: Any) -> Packed:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in self.inputs.items()}
        return replace(self, **moved, inputs=inputs)

    def per_sequence(self, values_S: Tensor) -> Tensor:
        """Sums over each sequence's supervised tokens, [sequences]."""
        return torch.zeros(self.sequences, dtype=values_S.dtype, device=values_S.device).index_add(
            0, self.owner, values_S
        )


def pack_rows(rows: Sequence[Row], *, share: bool = False) -> Packed:
    """All sequences of these rows, in order; a row weighs its supervised tokens times its weight."""
    weights = [row.weight for row in rows for _ in row.sequences]
    counts = [sum(s.supervised_count for s in row.sequences) for row in rows]
    return pack_sequences(
        [s for row in rows for s in row.sequences],
        weights,
        [row.weight * n for row, n in zip(rows, counts, strict=True)],
        share=share,
    )


def pack_sequences(
    sequences: Sequence[Tokens],
    weights: Sequence[float],
    row_weights: Sequence[float],
    *,
    share: bool = False,
) -> Packed:
    """`weights` are those of each sequence's tokens. `share` only where the model draws no dropout (line.steady)."""
    pieces, ends = Prefixes(sequences).pieces(range(len(sequences))) if share else apart(sequences)
    line = Line([Segment(one.tokens, one.above) for one in pieces])
    ids = np.concatenate([sequences[one.sequence].ids[one.first : one.last] for one in pieces])
    # Every position that is learnt lies in the piece that ends its sequence.
    moved = [line.starts[ends[i]] - pieces[ends[i]].first for i in range(len(sequences))]
    learnt = [np.flatnonzero(one.supervised[1:]) for one in sequences]
    owner = np.repeat(np.arange(len(sequences)), [len(one) for one in learnt])
    keep = np.concatenate([one + by for one, by in zip(learnt, moved, strict=True)]).astype(np.int64)
    targets = np.concatenate([one.ids[1:][at] for one, at in zip(sequences, learnt, strict=True)])
    return Packed(
        inputs={"input_ids": torch.from_numpy(ids.astype(np.int64))[None], **along(line)},
        keep=torch.from_numpy(keep),
        targets=torch.from_numpy(targets.astype(np.int64)),
        weights=torch.from_numpy(np.asarray(weights, np.float32)[owner]),
        owner=torch.from_numpy(owner),
        sequences=len(sequences),
        tokens=sum(len(one.ids) for one in sequences),
        row_weights=row_weights,
    )
