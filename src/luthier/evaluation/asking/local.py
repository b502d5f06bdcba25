"""A base model in this process, asked in batches. What is drawn follows from the question alone (data/draws), and not from what
is asked beside it, up to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.data.draws import Draw
from luthier.data.rules.rule import Lent
from luthier.models.sample import sample
from luthier.models.template import TooLong
from luthier.store.answers import Answers

from .model import Model, model
from .purse import Purse
from .question import Answer, Question

AT_ONCE = 32  # questions between two looks whether to stop; their answers are kept together


class LocalAsker:
    """question.Asker."""

    def __init__(self, lent: Lent, answers: Answers, purse: Purse) -> None:
        self._lent, self._answers, self._purse = lent, answers, purse

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"model": self._lent.digests["model"], "dtype": self._lent.settings.dtype}

    def ask(self, questions: Sequence[tuple[str, Question]]) -> None:
        for start in range(0, len(questions), AT_ONCE):
            self._lent.check()
            self._lent.progress("ask the model", start, len(questions))
            piece = questions[start : start + AT_ONCE]
            for _, question in piece:
                self._purse.take(question)
            found = _answers(piece, model(self._lent, "generate"))
            for (_, question), answer in zip(piece, found, strict=True):
                self._purse.paid(question, answer)
            told = zip(piece, found, strict=True)
            self._answers.keep((key, question.about, answer.plain()) for (key, question), answer in told)


def _answers(piece: Sequence[tuple[str, Question]], asked: Model) -> list[Answer]:
    found: list[Answer | None] = [None] * len(piece)
    prompts: dict[int, list[int]] = {}
    for at, (_, question) in enumerate(piece):
        try:
            messages = [{"role": role, "content": content} for role, content in question.messages]
            prompts[at] = asked.template.prompt(messages)
        except TooLong as error:
            found[at] = Answer(None, f"{error.tokens:,} tokens, and the model reads {error.limit:,}")
        except ModelError as error:
            found[at] = Answer(None, error.message)
    if prompts:
        longest = max(piece[at][1].max_tokens for at in prompts)
        temperature = max(piece[at][1].temperature for at in prompts)  # one rule asks all of them alike
        draws = np.array([_draws(piece[at][0], longest) for at in prompts])[:, None, :]
        made = sample(
            asked.weights,
            asked.template,
            list(prompts.values()),
            1,
            longest,
            temperature=temperature,
            draws_PGN=draws,
        )
        for at, [one] in zip(prompts, made, strict=True):
            most = piece[at][1].max_tokens
            finished = one.finished and len(one.ids) <= most
            text = asked.template.decode(one.ids[:most])
            found[at] = Answer(text, "", finished, len(prompts[at]), len(one.ids))
    return [one for one in found if one is not None]


def _draws(key: str, n: int) -> list[float]:
    draw = Draw("answer", key)
    return [draw.share() for _ in range(n)]
