"""The seam of a training method: rows become a batch, a batch becomes a summed loss. The loop knows no more.

A method is a class without arguments, named in core/plugin.py under "method" or by an entry point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .rows import Row


class Batch(Protocol):
    """A micro-batch. `weight` is the normaliser's part: it is known before anything is computed, because the loop
    divides by the sum over all micro-batches of the optimizer step, never by a micro-batch's own."""

    @property
    def tokens(self) -> int:
        """Tokens of its rows."""

    @property
    def supervised(self) -> int:
        """Tokens (or whatever the method counts) that carry loss."""

    @property
    def weight(self) -> float:
        """What the loss sum is divided by: supervised tokens, each times its row's weight."""

    def to(self, device: Any) -> Batch:
        """The same batch with its tensors there."""


@dataclass(frozen=True)
class Loss:
    """`sum` is a scalar tensor, not yet divided; `metrics` are sums too, and shown divided by `weight`."""

    sum: Any
    metrics: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """Must be a pure function of rows, weights and torch's random state: cutting a step into other micro-batches
    may change the result by rounding only."""

    def collate(self, rows: Sequence[Row]) -> Batch:
        """One micro-batch of these rows, on the CPU."""

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The summed loss, differentiable unless gradients are off."""
