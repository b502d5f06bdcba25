"""The seam below the chain: what an engine must be able to do for itself, and nothing that all engines share.

    Engine (engine.py) ── PackageEngine: facts, labels, grammar, chain, vote, abstention, fallback ── Backend: tokens in, tokens out

A Backend holds one model and knows nothing of packages, instructions or labels' calibration. `PackageEngine` gives it token ids that
the model's own template has rendered, so that what is served was rendered as in training, whoever makes the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.core.artifact import digest_of
from luthier.models.grammar import Grammar
from luthier.models.said import Step
from luthier.outputs.answering import Sample
from luthier.outputs.spec import AnsweringSpec
from luthier.serving.engine import Health

Unwanted = Callable[[], bool]


@dataclass(frozen=True)
class Wish:
    """One text to write. `logprobs`: None where nobody needs any, else how many alternatives are told of each token beside its own.
    A temperature of 0 takes the likeliest token."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None
    cache_salt: str = ""
    """As in Request."""


class Backend(Protocol):
    """One model somewhere. As in Engine: methods may be called from any thread, and at most `slots` answers are asked at once.

    `write` and `score` stop, raising Cancelled, soon after `unwanted` says True; closing the generator of `write` frees its slot.
    A backend that lost its model raises Unavailable, and may find it again by itself.
    """

    name: str
    """In the plugin table, for messages."""
    slots: int
    draws_as_measured: bool
    """Whether the samples of a vote are the very ones that evaluation drew, and not others of the same distribution."""
    writes: bool
    """False: the model has a head of its own and gives a label or a number."""

    @property
    def template(self) -> Any:
        """luthier.models.template.Template of the model, once it is loaded; None before."""

    def load(self) -> None:
        """Does nothing the second time. Raises ModelError."""

    def close(self) -> None:
        """Does nothing the second time."""

    def health(self) -> Health:
        """Never blocks on an answer."""

    def write(self, wish: Wish, unwanted: Unwanted) -> Generator[Step, None, None]:
        """A step a token, the last with `finish`. Raises Refused where the wish asks for what it cannot do."""

    def samples(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        spec: AnsweringSpec,
        unwanted: Unwanted,
        cache_salt: str = "",
    ) -> tuple[Sample, ...]:
        """Of a vote (`spec.vote`), held to its grammar."""

    def score(
        self, prompt_ids: Sequence[int], labels: Sequence[str], unwanted: Unwanted, cache_salt: str = ""
    ) -> Sequence[float]:
        """ln p of each label among the labels, its end of turn included: exactly as models.choices.score_choices says it, but for
        rounding. Raises TooLong, ModelError for labels that are the same tokens."""

    def number(self, prompt_ids: Sequence[int], unwanted: Unwanted) -> float | None:
        """Of a model with a regression head; None: it has none."""


class LabelTokens:
    """Each label's tokens, its end of turn included, kept for the sets of labels that were asked lately, of each salt by itself: clients may
    bring their own."""

    MOST = 64

    def __init__(self) -> None:
        self._of: dict[tuple[str, ...], list[list[int]]] = {}

    def of(self, template: Any, labels: Sequence[str], cache_salt: str) -> list[list[int]]:
        """Raises ModelError for labels that are the same tokens."""
        found = self._of.get(key := (cache_salt, *labels))
        if found is None:
            from luthier.models.choices import answers_of

            found = answers_of(template, labels)
            if len(self._of) > self.MOST:
                self._of.clear()
            self._of[key] = found
        return found


def among(totals: Sequence[float]) -> list[float]:
    """ln p of each among these, of ln p among all that could be said.

    >>> [round(math.exp(one), 3) for one in among([-1000.0, -1000.0 + math.log(3)])]
    [0.25, 0.75]
    """
    highest = max(totals)
    whole = highest + math.log(math.fsum(math.exp(one - highest) for one in totals))
    return [one - whole for one in totals]


class Drawn:
    """`samples` of a backend that draws them one after the other, each by a seed that follows from the question."""

    def samples(
        self: Backend,
        prompt_ids: Sequence[int],
        max_tokens: int,
        spec: AnsweringSpec,
        unwanted: Unwanted,
        cache_salt: str = "",
    ) -> tuple[Sample, ...]:
        vote = spec.vote
        assert vote is not None
        found = []
        for n in range(vote.samples):
            seed = int(digest_of([vote.seed, n, list(prompt_ids)])[:8], 16)
            wish = Wish(
                tuple(prompt_ids),
                max_tokens,
                vote.temperature,
                seed=seed,
                logprobs=0,
                grammar=spec.grammar(),
                cache_salt=cache_salt,
            )
            with closing(self.write(wish, unwanted)) as steps:
                told = list(steps)
            sure = math.fsum(step.logprob for step in told) / len(told)
            finish = told[-1].finish or "length"
            found.append(Sample("".join(step.text_delta for step in told), sure, len(told), finish))
        return tuple(found)
