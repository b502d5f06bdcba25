"""What a step or a validation measured: sums over its micro-batches, whichever process computed them. No torch here
but in the losses that are added; `plain` is how they cross from one process to another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .method import Batch, Loss
from .rows import Row

NAMED = 8  # rows named in an error


@dataclass
class Figures:
    """The loss, whatever else the method tells, the loss of each group of rows by itself, and what was no number."""

    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    by_group: dict[str, list[float]] = field(default_factory=dict)  # [loss, weight]
    tokens: int = 0
    supervised: int = 0
    trouble: list[str] = field(default_factory=list)  # rows of the first micro-batch whose loss is not finite

    def add(self, rows: Sequence[Row], batch: Batch, loss: Loss) -> None:
        total = float(loss.sum.detach())
        if not math.isfinite(total) and not self.trouble:
            self.trouble = [row.id for row in rows]
        self.weight += math.fsum(batch.row_weights)
        self.tokens += batch.tokens
        self.supervised += batch.supervised
        for name, amount in {"loss": total, **loss.metrics}.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount
        for row, part, weight in zip(rows, loss.by_row.tolist(), batch.row_weights, strict=True):
            group = self.by_group.setdefault(row.group, [0.0, 0.0])
            group[0] += part
            group[1] += weight

    @property
    def loss(self) -> float:
        return self.sums["loss"] / self.weight

    def values(self) -> dict[str, float]:
        """Every figure, divided by the weight."""
        return {name: amount / self.weight for name, amount in self.sums.items()}

    def shown(self) -> dict[str, Any]:
        """What is told beside the loss; groups only when there are several."""
        told: dict[str, Any] = {name: value for name, value in self.values().items() if name != "loss"}
        if len(self.by_group) > 1:
            told["groups"] = {name: loss / weight for name, (loss, weight) in sorted(self.by_group.items())}
        return told

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def merged(cls, parts: Sequence[Mapping[str, Any]]) -> Figures:
        """Those of all processes, in order. One process's are themselves, to the bit."""
        whole = cls(**parts[0])
        for part in parts[1:]:
            other = cls(**part)
            whole.weight += other.weight
            whole.tokens += other.tokens
            whole.supervised += other.supervised
            whole.trouble = whole.trouble or other.trouble
            for name, amount in other.sums.items():
                whole.sums[name] = whole.sums.get(name, 0.0) + amount
            for name, (loss, weight) in other.by_group.items():
                group = whole.by_group.setdefault(name, [0.0, 0.0])
                group[0] += loss
                group[1] += weight
        return whole
