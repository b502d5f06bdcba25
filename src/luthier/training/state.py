"""Where a run stands: plain values that a checkpoint stores, and what follows from them. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .stopping import Watch

Stopped = Literal["epochs", "max_steps", "early", "time", "tokens", "money", "diverged", "not_finite"]
BROKEN: tuple[Stopped, ...] = ("diverged", "not_finite")
"""Ends after which the last weights are worth nothing."""

FIXED = (
    "step",
    "loss",
    "learning_rate",
    "gradient_norm",
    "tokens",
    "supervised",
    "groups",
    "seconds",
    "tokens_per_s",
    "rss_bytes",
)
"""What is told of every step or validation, whatever the method; the last three in events alone."""


def own_figures(told: Mapping[str, Any]) -> dict[str, float]:
    """What a method tells of a step or a validation beside its loss.

    >>> own_figures({"step": 3, "loss": 0.1, "reward": 0.5, "tokens": 90, "groups": {"a": 0.1, "b": 0.2}})
    {'reward': 0.5}
    """
    return {name: value for name, value in told.items() if name not in FIXED}


@dataclass(frozen=True)
class Good:
    """A validated step: its value of the watched figure, its validation loss, and the checkpoint that holds its weights."""

    step: int
    value: float
    loss: float
    checkpoint: str


@dataclass(frozen=True)
class Kept:
    """Which weights became the model. Several steps: their average. The loss is None without validation."""

    how: Literal["best", "last", "average"]
    steps: tuple[int, ...]
    loss: float | None
    why: str | None = None  # where it is not what the recipe asked for


@dataclass
class State:
    """`steps` and `validation` are history.json's; the rest follows from them, counts, or points at checkpoints.

    `ranking` holds the best validated steps, the best first; `seconds` are those spent in steps and validations.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    ranking: list[Good] = field(default_factory=list)
    stopped: Stopped | None = None
    kept: Kept | None = None

    def plain(self) -> dict[str, Any]:
        """Without `kept`, which comes after the last checkpoint."""
        told = asdict(self)
        del told["kept"]
        return told

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> State:
        return cls(**{**plain, "ranking": [Good(**one) for one in plain["ranking"]]})

    @property
    def best(self) -> Good | None:
        return self.ranking[0] if self.ranking else None

    @property
    def validated(self) -> bool:
        """Whether the weights of this very step have been validated."""
        return bool(self.validation) and self.validation[-1]["step"] == self.step

    @property
    def ranked(self) -> bool:
        """Whether they are among the best."""
        return any(one.step == self.step for one in self.ranking)

    def rank(self, good: Good, watch: Watch, most: int) -> None:
        """Put a step among the best `most`. Of equals the earlier one is better."""
        place = sum(not watch.better(good.value, other.value) for other in self.ranking)
        self.ranking = [*self.ranking[:place], good, *self.ranking[place:]][:most]

    def history(self, watch: Watch) -> dict[str, Any]:
        """history.json. Without validation the last step's weights are the best known."""
        kept = asdict(self.kept) if self.kept else None
        return {
            "steps": self.steps,
            "validation": self.validation,
            "best_step": self.best.step if self.best else self.step,
            "stopped": self.stopped,
            "watched": asdict(watch),
            "kept": kept,
        }
