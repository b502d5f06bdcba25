"""Where a run stands: plain values that a checkpoint stores, and what follows from them. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stopped = Literal["epochs", "max_steps", "early"]


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, and the checkpoint that holds its weights."""

    step: int
    loss: float
    checkpoint: str


@dataclass
class State:
    """`steps` and `validation` are history.json's; the rest follows from them or points at checkpoints."""

    step: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    stopped: Stopped | None = None

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> State:
        best = plain["best"]
        return cls(**{**plain, "best": Best(**best) if best else None})

    @property
    def validated(self) -> bool:
        """Whether the weights of this very step have been validated."""
        return bool(self.validation) and self.validation[-1]["step"] == self.step

    def history(self) -> dict[str, Any]:
        """history.json. Without validation the last step's weights are the best known."""
        return {
            "steps": self.steps,
            "validation": self.validation,
            "best_step": self.best.step if self.best else self.step,
            "stopped": self.stopped,
        }


def stale(losses: Sequence[float], min_delta: float) -> int:
    """How many validations in a row have brought no new low.

    >>> stale([3.0, 2.0, 2.0, 1.9], min_delta=0.0), stale([3.0, 2.0, 2.0, 1.9], min_delta=0.2)
    (0, 2)
    """
    low, count = math.inf, 0
    for loss in losses:
        if loss < low - min_delta:
            low, count = loss, 0
        else:
            count += 1
    return count
