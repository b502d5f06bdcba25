"""One JSON value per row, by a schema: written freely, and judged field by field (evaluation/fields).

Whatever text comes is judged as it stands: what is no JSON has no fields. Answers that are repaired, or that could be nothing
else, come so from who asks (outputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import SpecError

from .. import compare, fields, metrics
from ..predictions import Answers
from ..questions import Asked, Question
from . import Answer, applying
from .chat import written


@dataclass(frozen=True)
class ExtractTask:
    labels: Sequence[str] | None = None
    max_tokens: int = 128
    schema: Mapping[str, Any] = field(default_factory=dict)

    def room(self, template: Any) -> int:
        return self.max_tokens

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool = True
    ) -> list[Answer]:
        return written(model, template, sheet, self.max_tokens, with_loss, with_text)

    def baseline(
        self, train: Sequence[Mapping[str, Any]], questions: Sequence[Question], seed: int
    ) -> list[Answer]:
        raise SpecError("word counts cannot write JSON.", remedy="Leave tfidf out of evaluate.against.")

    def score(self, reference: str, prediction: str) -> float:
        return fields.compared(reference, prediction).f1

    def correct(self, reference: str, prediction: str) -> bool:
        return fields.compared(reference, prediction).exact

    def each(self, answers: Answers) -> NDArray[np.float64]:
        return metrics.each(self.score, answers.references, answers.predictions)

    def summarise(self, answers: Answers) -> dict[str, Any]:
        told = answers.references, answers.predictions
        return {
            "rows": len(answers),
            "metrics": applying("extract", compare.at_sample(self.statistics(answers), len(answers))),
            "per_label": None,
            "confusion": None,
            "per_field": fields.per_field(*told),
            "wrong_fields": fields.wrong_fields(answers.ids, *told),
        }

    def statistics(self, answers: Answers) -> compare.Statistics:
        parts = []
        if any(said is not None for said in answers.predictions):
            parts.append(fields.statistics(answers.references, answers.predictions, self.schema))
        if answers.loss_tokens_N.all():
            parts.append(compare.of_perplexity(answers.loss_sum_N, answers.loss_tokens_N))
        return compare.together(parts)
