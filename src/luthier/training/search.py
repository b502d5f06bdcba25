"""What to try, and which of what was tried to keep. Pure: names of recipe fields, values, and figures of trials.

    over:
      train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}     a range
      train.adapter.rank: [4, 8, 16]                                  a choice

Who is best on the validation rows is partly lucky, the more so the more were tried. So of all trials that the best one does
not beat by more than one standard error of their difference, the cheapest is kept (the one-standard-error rule: Breiman et al.,
Classification and Regression Trees, 1984, section 3.4.3), and it is measured once on test rows that no trial has seen.

Not here: running trials (app/searching).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.spec import Spec
from luthier.core.units import MoneyField, Seconds

if TYPE_CHECKING:
    import optuna

SEARCHED = ("train", "base", "data.rules.quantity")
"""What may differ between trials: all else would change the rows they are compared on."""


class RangeSpec(Spec):
    """Numbers between two bounds."""

    low: float
    """The least value."""
    high: float
    """The largest value."""
    log: bool = False
    """Whether the logarithm is drawn evenly: for what matters by factors, such as a learning rate."""

    @model_validator(mode="after")
    def _a_range(self) -> RangeSpec:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; a range with log: true begins above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether both bounds are whole numbers, so that only these are tried."""
        return self.low.is_integer() and self.high.is_integer() and not (self.log and self.high <= 1)


class SearchSpec(Spec):
    """Try several settings and go on with the best."""

    over: dict[str, RangeSpec | list[Any]] = Field(min_length=1)
    """Fields of this recipe, by path, each with the values to choose from or {low, high}: `train...`, `base` and
    `data.rules.quantity` may differ between trials."""
    trials: int = Field(default=8, ge=2, le=1000)
    """How many settings are tried, the recipe as written among them."""
    time: Seconds | None = None
    """No trial is begun once so much time has gone, or is likely to be gone before it ends."""
    money: MoneyField | None = None
    """The same for money, by the price of `budget.machine`."""
    metric: str | None = None
    """What the best is best in, on the validation rows; without it macro_f1 for classify, mae for regress, field_f1
    for extract, perplexity for chat."""
    prune: bool = True
    """Whether a trial is given up that is far behind others at the same validation (successive halving); only where all trials
    have one base and one method, whose losses can be compared."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of what is tried in which order."""

    @field_validator("over")
    @classmethod
    def _may_differ(cls, value: dict[str, RangeSpec | list[Any]]) -> dict[str, RangeSpec | list[Any]]:
        for path, wish in value.items():
            if not any(path == root or path.startswith(f"{root}.") for root in SEARCHED):
                raise ValueError(
                    f"{path} cannot be searched: trials are compared on the same validation rows, so only {', '.join(SEARCHED)} may differ"
                )
            if isinstance(wish, list) and len(wish) < 2:
                raise ValueError(f"{path} has {len(wish)} value to choose from; give at least two")
        return value

    @property
    def comparable(self) -> bool:
        """Whether a trial's losses while it trains say something of another's."""
        return not any(path == "base" or path.startswith("train.method") for path in self.over)

    @property
    def grid(self) -> int | None:
        """How many settings there are in all; None where there is a range."""
        sizes = [len(wish) if isinstance(wish, list) else 0 for wish in self.over.values()]
        return math.prod(sizes) or None


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it. `value_R`: the metric on resamples of the validation rows, the same for every trial.
    `work`: tokens learnt times parameters that each passes, a measure of cost that no busy machine changes."""

    number: int
    setting: Mapping[str, Any]
    state: Literal["done", "pruned", "failed"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    work: float | None = None
    seconds: float = 0.0
    why: str | None = None
    model: str | None = None
    value_R: Sequence[float] = field(default=(), repr=False)


def suggest(trial: optuna.Trial, spec: SearchSpec) -> dict[str, Any]:
    """A value for each path. Choices are drawn by place, so that they may be of any kind."""
    found: dict[str, Any] = {}
    for path, wish in spec.over.items():
        if isinstance(wish, list):
            found[path] = wish[trial.suggest_categorical(path, list(range(len(wish))))]
        elif wish.whole:
            found[path] = trial.suggest_int(path, int(wish.low), int(wish.high), log=wish.log)
        else:
            # what a person would write, and what JSON gives back as it was
            found[path] = float(f"{trial.suggest_float(path, wish.low, wish.high, log=wish.log):.6g}")
    return found


def bounds(spec: SearchSpec) -> list[dict[str, Any]]:
    """Settings at which every value that can be refused early shows itself: each choice, and both ends of each range."""
    found = []
    for path, wish in spec.over.items():
        ends = wish if isinstance(wish, list) else [wish.low, wish.high]
        if isinstance(wish, RangeSpec) and wish.whole:
            ends = [int(end) for end in ends]
        found += [{path: end} for end in ends]
    return found


def choose(trials: Sequence[Trial], *, higher: bool) -> tuple[Trial, Trial] | None:
    """(the one to keep, the best): see above. None where no trial is done.

    >>> rows = lambda mean, spread: [mean - spread, mean + spread] * 50
    >>> cheap = Trial(0, {}, "done", 0.80, work=1.0, value_R=[0.79, 0.81, 0.81, 0.79])
    >>> best = Trial(1, {}, "done", 0.81, work=9.0, value_R=[0.83, 0.79, 0.83, 0.79])
    >>> [one.number for one in choose([cheap, best], higher=True)]  # they differ by 0.01, with a standard error of 0.024
    [0, 1]
    """
    import numpy as np

    done = [one for one in trials if one.state == "done" and one.value is not None]
    if not done:
        return None
    sign = 1.0 if higher else -1.0
    best = min(done, key=lambda one: (-sign * (one.value or 0.0), one.work or 0.0, one.number))

    def near(one: Trial) -> bool:
        apart_R = np.asarray(best.value_R) - np.asarray(one.value_R)
        apart_R = apart_R[np.isfinite(apart_R)]
        error = float(apart_R.std(ddof=1)) if len(apart_R) > 1 else 0.0
        return sign * ((best.value or 0.0) - (one.value or 0.0)) <= error

    kept = min((one for one in done if near(one)), key=lambda one: (one.work or 0.0, one.number))
    return kept, best
