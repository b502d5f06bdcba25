"""Sequences become one packed line: no padding, each attends to itself only.

    sequences   [a a a a] [b b b]
    input_ids   [a a a b b]               a sequence's last token is never an input: it predicts nothing
    keep        positions *before* supervised tokens; the head runs on these S alone
    owner       which sequence each of the S belongs to

Every method packs with this, so what makes packing faster makes all of them faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.models.attention import packed

from .rows import Row, Tokens


@dataclass(frozen=True)
class Packed:
    """T input tokens and their S supervised targets. `inputs` are the keyword arguments of a forward pass."""

    inputs: Mapping[str, Any]
    keep: Tensor  # [S], positions whose logits are needed
    targets: Tensor  # [S], the tokens they must predict
    weights: Tensor  # [S], each token's row weight
    owner: Tensor  # [S], index of the sequence
    sequences: int
    tokens: int
    row_weights: Sequence[float]

    @property
    def supervised(self) -> int:
        return len(self.targets)

    def to(self, device: Any) -> Packed:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in self.inputs.items()}
        return replace(self, **moved, inputs=inputs)

    def per_sequence(self, values_S: Tensor) -> Tensor:
        """Sums over each sequence's supervised tokens, [sequences]."""
        return torch.zeros(self.sequences, dtype=values_S.dtype, device=values_S.device).index_add(
            0, self.owner, values_S
        )


def pack_rows(rows: Sequence[Row]) -> Packed:
    """All sequences of these rows, in order; a row weighs its supervised tokens times its weight."""
    weights = [row.weight for row in rows for _ in row.sequences]
    counts = [sum(s.supervised_count for s in row.sequences) for row in rows]
    return pack_sequences(
        [s for row in rows for s in row.sequences],
        weights,
        [row.weight * n for row, n in zip(rows, counts, strict=True)],
    )


def pack_sequences(
    sequences: Sequence[Tokens], weights: Sequence[float], row_weights: Sequence[float]
) -> Packed:
    """`weights` are those of each sequence's tokens."""
    counts = [len(one.ids) - 1 for one in sequences]
    keep = np.flatnonzero(np.concatenate([one.supervised[1:] for one in sequences]))
    owner = np.repeat(np.arange(len(sequences)), counts)[keep]
    ids = torch.from_numpy(np.concatenate([one.ids[:-1] for one in sequences]).astype(np.int64))[None]
    targets = np.concatenate([one.ids[1:] for one in sequences])[keep]
    return Packed(
        inputs={"input_ids": ids, **packed(counts)},
        keep=torch.from_numpy(keep),
        targets=torch.from_numpy(targets.astype(np.int64)),
        weights=torch.from_numpy(np.asarray(weights, np.float32)[owner]),
        owner=torch.from_numpy(owner),
        sequences=len(sequences),
        tokens=sum(len(one.ids) for one in sequences),
        row_weights=row_weights,
    )
