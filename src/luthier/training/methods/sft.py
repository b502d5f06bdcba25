"""Supervised fine-tuning: learn to say the supervised tokens (Ouyang et al. 2022, section 3.5, first step).

Rows lie one after another in one line of T tokens, each attending to itself only; there is no padding.
The logits at position i predict token i + 1, so:
    a row's last token is never an input            (it predicts nothing)
    `keep` holds the positions *before* supervised tokens, and the head runs on those S positions alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from luthier.models.attention import packed
from luthier.training.method import Loss
from luthier.training.rows import Row


@dataclass(frozen=True)
class Packed:
    """[1, T] inputs of D documents and their S supervised targets."""

    input_ids: Tensor  # [1, T]
    layout: Mapping[
        str, Tensor
    ]  # what tells the model where documents begin and end (models.attention.packed)
    keep: Tensor  # [S], positions whose logits are needed
    targets: Tensor  # [S], the tokens they must predict
    weights: Tensor  # [S], each token's row weight
    tokens: int
    weight: float

    @property
    def supervised(self) -> int:
        return len(self.targets)

    def to(self, device: Any) -> Packed:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved, layout={k: v.to(device) for k, v in self.layout.items()})


class Sft:
    """Cross-entropy of supervised tokens, each times its row's weight."""

    def collate(self, rows: Sequence[Row]) -> Packed:
        counts = [len(row.ids) - 1 for row in rows]
        supervised = np.concatenate([row.supervised[1:] for row in rows])
        keep = np.flatnonzero(supervised)
        targets = np.concatenate([row.ids[1:] for row in rows])[keep]
        weights = np.repeat(np.array([row.weight for row in rows], np.float32), counts)[keep]
        return Packed(
            input_ids=torch.from_numpy(np.concatenate([row.ids[:-1] for row in rows]).astype(np.int64))[None],
            layout=packed(counts),
            keep=torch.from_numpy(keep),
            targets=torch.from_numpy(targets.astype(np.int64)),
            weights=torch.from_numpy(weights),
            tokens=sum(len(row.ids) for row in rows),
            weight=float(weights.astype(np.float64).sum()),
        )

    def loss(self, model: Any, batch: Packed) -> Loss:
        """Logits are [S, V] in the model's number format, the loss itself in fp32. Accuracy only outside training:
        there it would cost more than the loss does."""
        logits_SV = model(
            input_ids=batch.input_ids,
            **batch.layout,
            logits_to_keep=batch.keep,
            use_cache=False,
        ).logits[0]
        losses_S = cross_entropy(logits_SV.float(), batch.targets, reduction="none")
        total = (losses_S * batch.weights).sum()
        if model.training:
            return Loss(total)
        right_S = logits_SV.argmax(-1) == batch.targets
        return Loss(total, {"token_accuracy": float((right_S * batch.weights).sum())})
