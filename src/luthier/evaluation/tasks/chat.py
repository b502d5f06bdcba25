"""A free answer per row, decoded greedily: exact match (whitespace aside), token F1, perplexity of the reference.

A plain text has no question, so it counts for perplexity alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import SpecError

from .. import compare, metrics, private_said, texts
from ..predictions import Answers
from ..questions import Asked, Question
from ..spec import METRICS
from . import Answer


@dataclass(frozen=True)
class ChatTask:
    labels: Sequence[str] | None = None
    max_tokens: int = 128

    def room(self, template: Any) -> int:
        return self.max_tokens

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool = True
    ) -> list[Answer]:
        from luthier.models.generate import answer, sequence_loss

        told = [with_text and one.question.prompt is not None for one in sheet]
        prompts = [one.prompt_ids for one, wanted in zip(sheet, told, strict=True) if wanted]
        texts = iter(answer(model, template, prompts, self.max_tokens))
        losses = sequence_loss(model, [one.encoded for one in sheet]) if with_loss else [None] * len(sheet)
        return [
            Answer(next(texts) if wanted else None, loss=loss)
            for wanted, loss in zip(told, losses, strict=True)
        ]

    def baseline(
        self, train: Sequence[Mapping[str, Any]], questions: Sequence[Question], seed: int
    ) -> list[Answer]:
        raise SpecError("word counts cannot answer freely.", remedy="Leave tfidf out of evaluate.against.")

    def score(self, reference: str, prediction: str) -> float:
        return metrics.token_f1(reference, prediction)

    def correct(self, reference: str, prediction: str) -> bool:
        return metrics.same_text(reference, prediction)

    def each(self, answers: Answers) -> NDArray[np.float64]:
        return metrics.each(metrics.token_f1, answers.references, answers.predictions)

    def summarise(self, answers: Answers) -> dict[str, Any]:
        found = compare.at_sample(self.statistics(answers), len(answers))
        return {
            "rows": len(answers),
            "metrics": {
                name: found[name] if np.isfinite(found.get(name, np.nan)) else None
                for name in METRICS
                if "chat" in METRICS[name].kinds
            },
            "per_label": None,
            "confusion": None,
        }

    def statistics(self, answers: Answers) -> compare.Statistics:
        parts = []
        if any(said is not None for said in answers.predictions):
            exact = metrics.each(metrics.same_text, answers.references, answers.predictions)
            parts = [
                compare.of_mean("exact_match", exact),
                compare.of_mean("token_f1", self.each(answers)),
                texts.statistics(answers.references, answers.predictions),
            ]
            if any(one is not None for one in answers.private):
                parts.append(private_said.statistics(answers))
        if answers.loss_tokens_N.all():
            parts.append(compare.of_perplexity(answers.loss_sum_N, answers.loss_tokens_N))
        return compare.together(parts)
