"""A task says how a row is asked, scored and summarised. One file here and one line in the plugin table each.

`Task` is the seam. It is made from the task's description and loads nothing by that, so an auditor who has only
predictions.parquet and report.json calls the same `summarise` and `statistics` as the suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..compare import Statistics
    from ..predictions import Answers
    from ..questions import Asked, Question


@dataclass(frozen=True)
class Answer:
    """What a system said. `probabilities` is in label order, `probability` belongs to `text`; None: not known.

    `loss`: what the system makes of the reference answer, as (sum in nats, tokens); `rejected`: the same of the answer that the
    row rejects. `seconds`: how long it took, alone; `tokens_in`, `tokens_out`: what was read and written.
    """

    text: str | None
    probability: float | None = None
    probabilities: tuple[float, ...] | None = None
    loss: tuple[float, int] | None = None
    rejected: tuple[float, int] | None = None
    seconds: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    kept: Mapping[str, Any] | None = None
    """Further columns of its line of predictions (refining): what was said before the steps, and the like."""


class Task(Protocol):
    def __init__(self, labels: Sequence[str] | None, max_tokens: int = ...) -> None:
        """`labels` is None for a task that has none; `max_tokens` bounds a free answer."""

    @property
    def labels(self) -> Sequence[str] | None:
        """What it may answer; None: anything, so that it may say what nobody asked for."""

    def room(self, template: Any) -> int:
        """Tokens to keep free after a prompt."""

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool = True
    ) -> list[Answer]:
        """One answer per question, with its loss if that is wanted; a task that writes answers may leave the text out where it
        is not."""

    def baseline(
        self, train: Sequence[Mapping[str, Any]], questions: Sequence[Question], seed: int
    ) -> list[Answer]:
        """What word counts make of it (system `tfidf`), for a task that can be asked of them."""

    def score(self, reference: str, prediction: str) -> float:
        """How right one answer is, 0 to 1: chooses the report's examples."""

    def correct(self, reference: str, prediction: str) -> bool:
        """Right or not."""

    def each(self, answers: Answers) -> NDArray[np.float64]:
        """What every row has of the metric that parts are judged by (spec.SLICED) [N]; NaN: none."""

    def summarise(self, answers: Answers) -> dict[str, Any]:
        """{"rows", "metrics": {name: value or None}, "per_label", "confusion"} of one system."""

    def statistics(self, answers: Answers) -> Statistics:
        """The same metrics, computed on resamples of the rows."""


def of(task: Mapping[str, Any], max_tokens: int = 128) -> Task:
    """The task that a description names, as in dataset.json and report.json: {"kind", "instruction", "labels"}, and "schema" of
    those that have one."""
    from luthier.core import plugin

    more = {"schema": task["schema"]} if "schema" in task else {}
    return plugin.load("task", task["kind"])(task["labels"], max_tokens, **more)


def applying(kind: str, found: Mapping[str, float]) -> dict[str, float | None]:
    """Every metric of a kind of task, in the table's order; None for what is no number here."""
    from math import isfinite

    from ..spec import METRICS

    names = [name for name, metric in METRICS.items() if kind in metric.kinds]
    return {name: found[name] if isfinite(found.get(name, float("nan"))) else None for name in names}


def answer_from(probabilities: Any, labels: Sequence[str]) -> Answer:
    """The likeliest label; of equals, the first.

    >>> answer_from([0.2, 0.4, 0.4], ["a", "b", "c"]).text
    'b'
    """
    best = int(max(range(len(labels)), key=probabilities.__getitem__))
    return Answer(labels[best], float(probabilities[best]), tuple(float(p) for p in probabilities))
