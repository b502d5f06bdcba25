"""One label per row. The model may say nothing but a label: every label is scored as the whole answer (its end
token included) and the likeliest is taken, so each answer carries a probability for each label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import baselines, compare, metrics, probabilities
from ..predictions import Answers
from ..questions import Asked, Question
from . import Answer, answer_from


@dataclass(frozen=True)
class ClassifyTask:
    labels: Sequence[str]
    max_tokens: int = 128

    def room(self, template: Any) -> int:
        """The longest label with its end token."""
        return max(len(template.answer(label)) for label in self.labels)

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool = True
    ) -> list[Answer]:
        from luthier.models.generate import score_freely
        from luthier.models.head import head_of

        rows = score_freely(model, template, [one.prompt_ids for one in sheet], self.labels)
        answers = [answer_from(np.exp(row - np.logaddexp.reduce(row)), self.labels) for row in rows]
        if not with_loss or head_of(model) is not None:  # a head's scores are no losses of tokens
            return answers
        place = {label: i for i, label in enumerate(self.labels)}
        tokens = [len(template.answer(label)) for label in self.labels]
        right = [place[one.question.reference] for one in sheet]
        return [
            replace(answer, loss=(-row[i], tokens[i]))
            for answer, row, i in zip(answers, rows, right, strict=True)
        ]

    def baseline(
        self, train: Sequence[Mapping[str, Any]], questions: Sequence[Question], seed: int
    ) -> list[Answer]:
        return baselines.tfidf(train, questions, self.labels, seed)

    def score(self, reference: str, prediction: str) -> float:
        return float(reference == prediction)

    def correct(self, reference: str, prediction: str) -> bool:
        return reference == prediction

    def each(self, answers: Answers) -> NDArray[np.float64]:
        return metrics.each(lambda a, b: a == b, answers.references, answers.predictions)

    def summarise(self, answers: Answers) -> dict[str, Any]:
        found = metrics.classification(answers.references, answers.predictions, self.labels)
        told: dict[str, float | None] = dict.fromkeys(probabilities.NAMES)
        if answers.probability_NK is not None:
            truth = metrics.positions(answers.references, self.labels)
            told = probabilities.values(truth, answers.probability_NK)
            found["reliability"] = [
                [rows, sure, right]
                for rows, sure, right, _ in probabilities.reliability(
                    *probabilities.answered(truth, answers.probability_NK)
                )
            ]
        found["metrics"] |= told
        found["metrics"]["exact_match"] = metrics.mean(
            metrics.each(metrics.same_text, answers.references, answers.predictions)
        )
        found["metrics"]["perplexity"] = metrics.perplexity(answers.loss_sum_N, answers.loss_tokens_N)
        return {"rows": len(answers), **found}

    def statistics(self, answers: Answers) -> compare.Statistics:
        labels = self.labels
        truth, said = (
            metrics.positions(answers.references, labels),
            metrics.said_positions(answers.predictions, labels),
        )
        exact = metrics.each(metrics.same_text, answers.references, answers.predictions)
        parts = [compare.of_labels(truth, said, len(labels)), compare.of_mean("exact_match", exact)]
        if answers.probability_NK is not None:
            parts.append(probabilities.statistics(truth, answers.probability_NK))
        if answers.loss_tokens_N.all():
            parts.append(compare.of_perplexity(answers.loss_sum_N, answers.loss_tokens_N))
        return compare.together(parts)
