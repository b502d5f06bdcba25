"""A free answer per row, decoded greedily: exact match (whitespace aside), token F1, perplexity of the reference; of rows with
tools what is called, of pairs which answer is thought likelier, of rows with Python whether it parses.

A plain text has no question, so it counts for perplexity alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import SpecError

from .. import calls, compare, metrics, preferred, private_said, texts
from ..predictions import Answers
from ..python_text import fences, parses
from ..questions import Asked, Question
from . import Answer, applying


@dataclass(frozen=True)
class ChatTask:
    labels: Sequence[str] | None = None
    max_tokens: int = 128

    def room(self, template: Any) -> int:
        return self.max_tokens

    def ask(
        self, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool = True
    ) -> list[Answer]:
        return written(model, template, sheet, self.max_tokens, with_loss, with_text)

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
        return {
            "rows": len(answers),
            "metrics": applying("chat", compare.at_sample(self.statistics(answers), len(answers))),
            "per_label": None,
            "confusion": None,
        }

    def statistics(self, answers: Answers) -> compare.Statistics:
        parts = [preferred.statistics(answers)]
        if any(said is not None for said in answers.predictions):
            exact = metrics.each(metrics.same_text, answers.references, answers.predictions)
            parts += [
                compare.of_mean("exact_match", exact),
                compare.of_mean("token_f1", self.each(answers)),
                texts.statistics(answers.references, answers.predictions),
                compare.of_mean("similarity", answers.numbers("similarity")),
                compare.of_mean("code_parses", _code(answers)),
            ]
            if (called := calls.statistics(answers.of("calls"))) is not None:
                parts.append(called)
            if any(one is not None for one in answers.private):
                parts.append(private_said.statistics(answers))
        if answers.loss_tokens_N.all():
            parts.append(compare.of_perplexity(answers.loss_sum_N, answers.loss_tokens_N))
        return compare.together(parts)


def written(
    model: Any, template: Any, sheet: Sequence[Asked], max_tokens: int, with_loss: bool, with_text: bool
) -> list[Answer]:
    """What the model writes, greedily; a plain text is asked nothing."""
    from luthier.models.generate import answer, sequence_loss

    told = [with_text and one.question.prompt is not None for one in sheet]
    prompts = [one.prompt_ids for one, wanted in zip(sheet, told, strict=True) if wanted]
    texts = iter(answer(model, template, prompts, max_tokens))
    losses: list[Any] = [None] * len(sheet)
    worse: dict[int, tuple[float, int]] = {}
    if with_loss:
        losses = sequence_loss(model, [one.encoded for one in sheet])
        pairs = [i for i, one in enumerate(sheet) if one.rejected is not None]
        worse = dict(zip(pairs, sequence_loss(model, [sheet[i].rejected for i in pairs]), strict=True))
    return [
        Answer(next(texts) if wanted else None, loss=losses[i], rejected=worse.get(i))
        for i, wanted in enumerate(told)
    ]


def _code(answers: Answers) -> NDArray[np.float64]:
    """Of the rows whose reference holds Python: whether the answer holds some, and it parses [N]."""
    told = zip(answers.references, answers.predictions, strict=True)
    return np.array(
        [np.nan if said is None or not fences(truth) else float(parses(said)) for truth, said in told],
        np.float64,
    )
