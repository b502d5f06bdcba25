"""How a search goes, and which of what was tried to keep. Pure: a wish, and figures of trials.

Who is best on the validation rows is partly lucky, the more so the more were tried. So of all trials that the best one does
not beat by more than one standard error of their difference, the cheapest is kept (the one-standard-error rule: Breiman et al.,
Classification and Regression Trees, 1984, section 3.4.3), and it is measured once on test rows that no trial has seen.

With `folds` a setting is trained k times, each time with another part of the rows that are not for the test held out, and judged
by the mean (Stone 1974); the standard error is then of the k paired differences (Hastie et al., The Elements of Statistical
Learning, 2009, section 7.10), or that of the rows where it is larger.

Not here: what may differ (training/space), and running trials (app/searching).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.spec import Spec
from luthier.core.units import MoneyField, Seconds

from .space import ChoiceSpec as ChoiceSpec
from .space import Drawn, TechniqueSpec, check, grid
from .space import RangeSpec as RangeSpec
from .space import suggest as suggest

Rule = Literal["one_standard_error", "best"]
Prune = bool | Literal["auto", "asha", "hyperband"]


class SearchSpec(Spec):
    """Try several settings and go on with the best."""

    over: dict[str, Drawn] = Field(default={})
    """Fields of this recipe, by path, each with the values to choose from or {low, high}; `train...`, `base`, `data.rules...`,
    `data.sources.N.weight` and, of `postprocess`, answers, constrain and vote may differ between trials. `when` ties one to the
    value of another."""
    techniques: dict[str, TechniqueSpec] = Field(default={})
    """Ways to do it, by name, of which each trial takes one: {set: {path: value}, over: {path: ...}}. `luthier search --techniques`
    fills this in from what `luthier advise` finds possible."""
    trials: int = Field(default=8, ge=2, le=1000)
    """How many settings are tried, the recipe as written among them."""
    time: Seconds | None = None
    """No trial is begun once so much time has gone, or is likely to be gone before it ends: time of all trials together, those of
    other processes and of earlier runs included."""
    money: MoneyField | None = None
    """The same for money, by the price of `budget.machine`."""
    metric: str | None = None
    """What the best is best in, on the validation rows; without it macro_f1 for classify, mae for regress, field_f1
    for extract, perplexity for chat."""
    objectives: list[Literal["quality", "cost"]] = Field(default=["quality"])
    """What is looked for: quality alone, or `[quality, cost]`, where settings are proposed that nothing beats in both (cost:
    tokens learnt times parameters)."""
    keep: Rule = "one_standard_error"
    """Which trial is kept: the cheapest that the best does not beat by more than one standard error, or the best."""
    folds: int | None = Field(default=None, ge=2, le=20)
    """Train each setting so many times, each time with another part of the rows that are not for the test held out, and judge it by
    the mean; so many times the cost. Without it one validation split decides."""
    prune: Prune = "auto"
    """Whether a trial is given up that is far behind others at the same validation: asha (successive halving), hyperband, false,
    or auto: asha where trials can be compared while they train (one base, one method, no techniques, no folds, one objective)."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of what is tried in which order."""
    storage: str | None = None
    """Where the trials stand that several processes or hosts share: a SQLAlchemy URL, as in `${DATABASE_URL}` or
    postgresql://host/searches. Without it a file of this home."""
    study: str | None = Field(default=None, min_length=1, max_length=200)
    """What the search is called in that storage; without it the recipe's name. One name is one recipe."""

    @model_validator(mode="after")
    def _may_differ(self) -> SearchSpec:
        check(self.over)
        if not self.over and not self.techniques:
            raise ValueError(
                "nothing differs between trials; write at least 1 field under over, or techniques"
            )
        if len(self.techniques) == 1:
            raise ValueError(
                "one technique is nothing to choose from; write at least two, or put it into the recipe"
            )
        for wish in self.over.values():
            if wish.__class__ is not list and not self.techniques and "technique" in (wish.when or {}):  # type: ignore[union-attr]
                raise ValueError("when names a technique, and there is no section techniques")
        return self

    @model_validator(mode="after")
    def _prunes_what_it_can(self) -> SearchSpec:
        if self.prune not in ("auto", False) and (why := self.incomparable):
            raise ValueError(f"prune: {self.prune} cannot be: {why}; write prune: false, or leave it out")
        if self.study is not None and self.storage is None:
            raise ValueError(
                "study names a search in a storage, and there is none; write storage, or remove it"
            )
        return self

    @field_validator("objectives")
    @classmethod
    def _quality_first(cls, value: list[str]) -> list[str]:
        if value not in (["quality"], ["quality", "cost"]):
            raise ValueError("write [quality] or [quality, cost]")
        return value

    @property
    def incomparable(self) -> str | None:
        """Why a trial's figures while it trains say nothing of another's; None where they do."""
        paths = [*self.over]
        if any(path == "base" or path.startswith("train.method") for path in paths):
            return "losses of several bases or methods cannot be compared"
        if any(
            path.startswith("data.rules") and not path.startswith("data.rules.quantity") for path in paths
        ):
            return "losses on differently cleaned rows cannot be compared"
        if self.techniques:
            return "losses of several techniques cannot be compared"
        if self.folds is not None:
            return "with folds each setting is trained several times"
        if self.objectives != ["quality"]:
            return "with two objectives nobody can say who is behind"
        return None

    @property
    def pruner(self) -> Literal["asha", "hyperband"] | None:
        """How trials that are behind are given up; None: not at all."""
        if self.prune is False or (self.prune == "auto" and self.incomparable):
            return None
        return "hyperband" if self.prune == "hyperband" else "asha"

    @property
    def grid(self) -> int | None:
        """How many settings there are in all; None where that is not counted."""
        return grid(self.over, self.techniques)


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it. `value_R`: the metric on resamples of the validation rows, the same for every trial.
    `value_K`: the metric of each fold. `work`: tokens learnt times parameters that each passes, a measure of cost that no busy
    machine changes. `seconds` and `money` are those of every attempt; `home` names the home that has the model."""

    number: int
    setting: Mapping[str, Any]
    state: Literal["done", "pruned", "failed"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    work: float | None = None
    seconds: float = 0.0
    money: float | None = None
    why: str | None = None
    model: str | None = None
    technique: str | None = None
    home: str | None = field(default=None, repr=False)
    value_K: Sequence[float] = ()
    value_R: Sequence[float] = field(default=(), repr=False)


@dataclass(frozen=True)
class Chosen:
    """`front`: numbers of the trials that none beats in both quality and work. `why` says which was kept and for what."""

    kept: Trial
    best: Trial
    front: tuple[int, ...]
    why: str


def choose(trials: Sequence[Trial], *, higher: bool, rule: Rule = "one_standard_error") -> Chosen | None:
    """See above; who finishes, and in which order trials came, makes no difference. None where no trial is done.

    >>> cheap = Trial(0, {}, "done", 0.80, work=1.0, value_R=[0.79, 0.81, 0.81, 0.79])
    >>> best = Trial(1, {}, "done", 0.81, work=9.0, value_R=[0.83, 0.79, 0.83, 0.79])
    >>> found = choose([cheap, best], higher=True)  # they differ by 0.01, with a standard error of 0.024
    >>> found.kept.number, found.best.number, found.front
    (0, 1, (0, 1))
    """
    done = [one for one in trials if one.state == "done" and one.value is not None]
    if not done:
        return None
    sign = 1.0 if higher else -1.0
    best = min(done, key=lambda one: (-sign * (one.value or 0.0), one.work or 0.0, one.number))
    points = front(done, higher=higher)
    if rule == "best" or len(done) == 1:
        return Chosen(best, best, points, "the best on the validation rows")
    near = [one for one in done if gap(best, one, sign) <= standard_error(best, one)]
    # of those that cost the same, the better one: there is nothing to save
    kept = min(near, key=lambda one: (one.work or 0.0, -sign * (one.value or 0.0), one.number))
    if kept.number == best.number:
        return Chosen(best, best, points, "the best, and nothing cheaper is within one standard error of it")
    error = standard_error(best, kept)
    why = f"the cheapest within one standard error of the best: {abs(gap(best, kept, sign)):.3g} behind, standard error {error:.3g}"
    if kept.work and best.work:
        why += f", {100 * kept.work / best.work:.0f} % of its work"
    return Chosen(kept, best, points, why)


def gap(best: Trial, one: Trial, sign: float) -> float:
    return sign * ((best.value or 0.0) - (one.value or 0.0))


def standard_error(one: Trial, other: Trial) -> float:
    """Of the difference of two trials, paired by resample and by fold; the larger of the two where both are known."""
    return max(_spread(one.value_R, other.value_R, 1), _spread(one.value_K, other.value_K, len(one.value_K)))


def _spread(one: Sequence[float], other: Sequence[float], of: int) -> float:
    """The standard deviation of paired differences, divided by the root of `of`; 0 where there are too few."""
    if len(one) != len(other):
        return 0.0
    apart = [a - b for a, b in zip(one, other, strict=True) if math.isfinite(a - b)]
    if len(apart) < 2:
        return 0.0
    mean = math.fsum(apart) / len(apart)
    variance = math.fsum((x - mean) ** 2 for x in apart) / (len(apart) - 1)
    return math.sqrt(variance / max(1, of))


def front(trials: Sequence[Trial], *, higher: bool) -> tuple[int, ...]:
    """Numbers of those that no other is as good as and cheaper, or better and as cheap, the cheapest first.

    >>> some = [Trial(n, {}, "done", v, work=w) for n, v, w in ((0, 0.5, 1), (1, 0.7, 3), (2, 0.6, 4), (3, 0.7, 3))]
    >>> front(some, higher=True)
    (0, 1)
    """
    sign = 1.0 if higher else -1.0
    found, most = [], -math.inf
    for one in sorted(trials, key=lambda t: (t.work or 0.0, -sign * (t.value or 0.0), t.number)):
        if sign * (one.value or 0.0) > most:
            most = sign * (one.value or 0.0)
            found.append(one.number)
    return tuple(found)
