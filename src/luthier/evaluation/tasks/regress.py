"""One number per row: how far off, on average and in squares, and how much of the spread is explained.

A model with a number head gives its number in one pass; any other model writes it, and the last number in what it
wrote counts. An answer without a number is no answer: it lowers `answered` and is left out of the errors, and
a comparison is over the rows that both systems answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.units import plain_number

from .. import baselines, compare, metrics
from ..predictions import Answers
from ..questions import Asked, Question
from . import Answer

NOTHING = 1e-9
"""Of the mean: a spread of numbers that rounding explains."""


@dataclass(frozen=True)
class RegressTask:
    labels: Sequence[str] | None = None
    max_tokens: int = 128

    def room(self, template: Any) -> int:
        return min(self.max_tokens, 16)  # a number is short

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool = True
    ) -> list[Answer]:
        from luthier.models.generate import answer
        from luthier.models.head import head_of, numbers

        prompts = [one.prompt_ids for one in sheet]
        if head_of(model) is not None:
            return [Answer(plain_number(value)) for value in numbers(model, template, prompts)]
        return [Answer(text) for text in answer(model, template, prompts, self.room(template))]

    def baseline(
        self, train: Sequence[Mapping[str, Any]], questions: Sequence[Question], seed: int
    ) -> list[Answer]:
        return baselines.tfidf_number(train, questions)

    def score(self, reference: str, prediction: str) -> float:
        """1 for the right number, falling with the distance."""
        said, truth = metrics.number_in(prediction), metrics.number_in(reference)
        return 0.0 if said is None or truth is None else 1 / (1 + abs(said - truth))

    def correct(self, reference: str, prediction: str) -> bool:
        return metrics.number_in(prediction) == metrics.number_in(reference)

    def each(self, answers: Answers) -> NDArray[np.float64]:
        truth_N, said_N = _numbers(answers)
        return np.abs(said_N - truth_N)

    def summarise(self, answers: Answers) -> dict[str, Any]:
        truth_N, said_N = _numbers(answers)
        at = np.arange(len(answers))[None, :]
        found = {name: float(value[0]) for name, value in _statistics(truth_N, said_N)(at).items()}
        shown = {name: value if np.isfinite(value) else None for name, value in found.items()}
        return {"rows": len(answers), "metrics": shown, "per_label": None, "confusion": None}

    def statistics(self, answers: Answers) -> compare.Statistics:
        return _statistics(*_numbers(answers))


def _numbers(answers: Answers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reference and said, [N]; NaN where nothing was said that is a number."""

    def of(text: str | None) -> float:
        found = None if text is None else metrics.number_in(text)
        return np.nan if found is None else found

    return (
        np.array([of(t) for t in answers.references], np.float64),
        np.array([of(t) for t in answers.predictions], np.float64),
    )


def _statistics(truth_N: NDArray[np.float64], said_N: NDArray[np.float64]) -> compare.Statistics:
    """mae = mean |e|; rmse = sqrt(mean e²); r2 = 1 - Σe² / Σ(truth - mean truth)², over the rows with a number."""
    has_N = np.isfinite(said_N)
    error_N = np.where(has_N, said_N - truth_N, 0.0)

    def statistics(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        has_RN, error_RN, truth_RN = has_N[index_RN], error_N[index_RN], truth_N[index_RN]
        count_R = has_RN.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            squares_R = (error_RN**2).sum(1)
            mean_R = np.where(has_RN, truth_RN, 0.0).sum(1) / count_R
            spread_R = np.where(has_RN, (truth_RN - mean_R[:, None]) ** 2, 0.0).sum(1)
            # What rounding leaves of equal numbers is no spread.
            spread_R[spread_R <= (NOTHING * np.maximum(1, np.abs(mean_R))) ** 2 * count_R] = np.nan
            return {
                "mae": np.abs(error_RN).sum(1) / count_R,
                "rmse": np.sqrt(squares_R / count_R),
                "r2": 1 - squares_R / spread_R,
                "answered": has_RN.mean(1),
            }

    return statistics
