"""When training is over, and which of its weights are the best. Pure functions of figures a run has written down.

    all steps done · no better for too long · time or tokens spent · the loss has run away

Not here: what is then done about it (training/loop), and which weights are kept (training/keeping).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import SpecError, did_you_mean
from luthier.core.units import Money

from .spec import DivergenceSpec, EarlyStoppingSpec, StopAtSpec, TrainSpec

if TYPE_CHECKING:
    from .method import Method

Mode = Literal["min", "max"]
_LESS = ("loss", "error", "perplexity", "kl")
_MORE = ("accuracy", "reward", "margin", "f1", "score", "right")


@dataclass(frozen=True)
class Watch:
    """A validation figure, and whether less or more of it is better."""

    metric: str
    mode: Mode

    def better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Whether `value` beats `than` by more than `by`.

        >>> Watch("loss", "min").better(1.0, 1.5, by=0.4), Watch("accuracy", "max").better(0.5, 0.5)
        (True, False)
        """
        return value < than - by if self.mode == "min" else value > than + by

    def measured(self, figures: Mapping[str, Any]) -> float:
        """Its value among a validation's figures. Raises SpecError naming those there are."""
        known = sorted(name for name, value in figures.items() if isinstance(value, float))
        if self.metric not in known:
            raise _unmeasured(self.metric, known)
        return float(figures[self.metric])


def watch_of(early: EarlyStoppingSpec | None, own: tuple[str, Mode]) -> Watch:
    """What decides which weights are best: the figure that early stopping names, else the method's `own`. Raises
    SpecError when nobody says whether less or more of it is better.

    >>> watch_of(EarlyStoppingSpec(metric="token_accuracy"), ("loss", "min"))
    Watch(metric='token_accuracy', mode='max')
    """
    if early is None or early.metric is None:
        return Watch(own[0], early.mode if early and early.mode != "auto" else own[1])
    if early.mode != "auto":
        return Watch(early.metric, early.mode)
    if early.metric == own[0]:
        return Watch(*own)
    for words, mode in ((_LESS, "min"), (_MORE, "max")):
        if any(word in early.metric.split("_") for word in words):
            return Watch(early.metric, mode)  # type: ignore[arg-type]
    raise SpecError(
        f"train.early_stopping watches {early.metric!r}, and its name does not say whether less or more is better.",
        remedy="Set train.early_stopping.mode: min or max.",
    )


def refuse_unwatched(early: EarlyStoppingSpec | None, method: Method) -> None:
    """A figure that validation does not measure, or of which nobody says whether less or more is better. Raises SpecError."""
    known = sorted({method.watch[0], *method.figures})
    if early and early.metric is not None and early.metric not in known:
        raise _unmeasured(early.metric, known)
    watch_of(early, method.watch)


def _unmeasured(metric: str, known: list[str]) -> SpecError:
    return SpecError(
        f"train.early_stopping.metric is {metric!r}, and validation here measures no such figure.",
        remedy=f"Choose one of: {', '.join(known)}; {did_you_mean(metric, known)}",
    )


def stale(values: Sequence[float], watch: Watch, min_delta: float) -> int:
    """How many validations in a row have brought no new best.

    >>> loss = Watch("loss", "min")
    >>> stale([3.0, 2.0, 2.0, 1.9], loss, min_delta=0.0), stale([3.0, 2.0, 2.0, 1.9], loss, min_delta=0.2)
    (0, 2)
    """
    best, count = None, 0
    for value in values:
        if best is None or watch.better(value, best, min_delta):
            best, count = value, 0
        else:
            count += 1
    return count


def diverged(losses: Sequence[float], spec: DivergenceSpec | None) -> bool:
    """Whether each of the last `patience` step losses is more than `factor` times the median of the up to `window`
    before them, and more than what training began with (the median of its first `patience` losses).

    The second condition spares small losses, whose noise is many times themselves. A median that is not positive says
    nothing about ratios, so losses around zero are never judged.

    >>> diverged([3, 1, 1, 1, 7, 8], DivergenceSpec(factor=2, patience=2, window=4))
    True
    >>> diverged([3, 1, 1, 1, 2.5, 2.6], DivergenceSpec(factor=2, patience=2, window=4))  # began at 2
    True
    >>> diverged([3, 1, 1, 1, 1.9, 8], DivergenceSpec(factor=2, patience=2, window=4))  # only the last one
    False
    """
    if spec is None or len(losses) < 2 * spec.patience:
        return False
    last, before = losses[-spec.patience :], losses[-spec.patience - spec.window : -spec.patience]
    usual, start = median(before), median(losses[: spec.patience])
    return usual > 0 and min(last) > max(spec.factor * usual, start)


def spent(
    limit: StopAtSpec, seconds: float, tokens: int, hourly: Money | None = None
) -> Literal["time", "tokens", "money"] | None:
    """Which limit is reached, if any. `hourly`: what an hour costs, in the currency of the limit.

    >>> spent(StopAtSpec(time="1 min", tokens="1k"), 59.0, 1000), spent(StopAtSpec(), 1e9, 10**12)
    ('tokens', None)
    >>> spent(StopAtSpec(money="2 USD"), 1800.0, 0, Money(4, "USD"))
    'money'
    """
    if limit.time is not None and seconds >= limit.time:
        return "time"
    if (
        limit.money is not None
        and hourly is not None
        and seconds / 3600 * hourly.amount >= limit.money.amount
    ):
        return "money"
    return "tokens" if limit.tokens is not None and tokens >= limit.tokens else None


def refuse_unpriced(limit: Money | None, hourly: Money | None, section: str = "train.stop_at") -> None:
    """A limit of money that nothing could be held against. Raises SpecError."""
    if limit is None:
        return
    if hourly is None:
        raise SpecError(
            f"{section}.money is {limit}, and what an hour of this run costs is not known.",
            remedy=f"Name a machine of the price table in budget.machine, or limit {section}.time.",
        )
    if hourly.currency != limit.currency:
        raise SpecError(
            f"{section}.money is {limit}, and an hour of this run costs {hourly}: they cannot be compared.",
            remedy=f"Write the limit in {hourly.currency}, or the machine's price in {limit.currency} in "
            "LUTHIER_HOME/prices.yaml.",
        )


def refuse_without_validation(spec: TrainSpec, n_validation: int) -> None:
    """What needs a validation split. Raises SpecError."""
    if spec.early_stopping and n_validation == 0:
        raise SpecError(
            "train.early_stopping watches validation, and the validation split has no rows.",
            remedy="Set data.split.validation (0.1, say), or leave early_stopping out.",
        )
    if spec.keep == "average" and n_validation == 0:
        raise SpecError(
            "train.keep: average takes the weights that validate best, and the validation split has no rows.",
            remedy="Set data.split.validation (0.1, say), or train.keep: last.",
        )
