"""From what was said, once or several times, to the one answer: the rule that evaluation and serving share.

    samples ─▶ chain, each ─▶ vote (or the only one) ─▶ confidence, calibrated ─▶ Settled ─▶ another model? ─▶ Settled

Pure but for `samples`, which asks the model. Not here: another model (other).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from luthier.data.draws import Draw

from .calibration import NOTHING_LEARNT, Belief
from .chain import Chain, Outcome, Passed
from .spec import AnsweringSpec, VoteSpec
from .step import About
from .texts import whole_characters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """What the model said once, and the mean of ln p over its tokens; None where that is not known. `finish`: how it ended."""

    text: str
    logprob: float | None = None
    tokens: int = 0
    finish: Literal["stop", "length"] = "stop"


@dataclass(frozen=True)
class Settled:
    """The answer, or why there is none.

    raw        what the model itself said, before the steps; of a vote the likeliest sample on the winning side
    raw_sure   the confidence before calibration: of a label its probability, of a vote its share, of a text the geometric mean of
               its tokens' probabilities
    sure       the same calibrated
    other      what another model said, where it was asked, and `asked_for`: "refused" or "below"
    """

    text: str
    refusal: str | None
    raw: str
    raw_sure: float | None
    sure: float | None
    passed: tuple[Passed, ...] = ()
    other: str | None = None
    asked_for: str | None = None
    tied: bool = False


@dataclass(frozen=True)
class Answering:
    """A bound wish, ready to be applied. Safe from any thread."""

    spec: AnsweringSpec
    chain: Chain
    belief: Belief = NOTHING_LEARNT

    @classmethod
    def of(cls, spec: AnsweringSpec, belief: Belief = NOTHING_LEARNT) -> Answering:
        return cls(spec, Chain(spec.answers), belief)

    @property
    def whole(self) -> bool:
        """Whether an answer must be whole before any of it may be shown."""
        return bool(self.chain) or self.spec.vote is not None or self.spec.fallback is not None

    def settle(self, samples: Sequence[Sample], about: About) -> Settled:
        """Of what the model wrote freely. One sample, or as many as are voted on."""
        if self.spec.vote is None or len(samples) == 1:
            [said] = samples
            sure = None if said.logprob is None else math.exp(said.logprob)
            return self._settled(said, self.chain.run(said.text, about), sure)
        winner, outcome, share, tied = vote(samples, [self.chain.run(one.text, about) for one in samples])
        return replace(self._settled(winner, outcome, share), tied=tied)

    def label(self, label: str, raw_sure: float | None, sure: float | None, about: About) -> Settled:
        """Of a label that was chosen among all, with its probability before and after calibration."""
        outcome = self.chain.run(label, about)
        return Settled(outcome.text, outcome.refusal, label, raw_sure, sure, outcome.passed)

    def _settled(self, said: Sample, outcome: Outcome, raw_sure: float | None) -> Settled:
        sure = None if raw_sure is None else self.belief.sure(raw_sure)
        return Settled(outcome.text, outcome.refusal, said.text, raw_sure, sure, outcome.passed)

    def asks_other(self, settled: Settled) -> str | None:
        """Why another model is to be asked: "refused" or "below"; None: it is not."""
        wish = self.spec.fallback
        if wish is None:
            return None
        if settled.refusal is not None:
            return "refused" if wish.refused else None
        if wish.below is not None and settled.sure is not None and settled.sure < wish.below:
            return "below"
        return None

    def with_other(self, settled: Settled, said: str | None, why: str, about: About) -> Settled:
        """What another model said, through the same steps; None: it said nothing, and this model's answer stands. Its answer has
        no confidence of this model's."""
        if said is None:
            return replace(settled, asked_for=why)
        outcome = self.chain.run(said, about)
        if outcome.refusal is not None and settled.refusal is None:
            return replace(
                settled, other=said, asked_for=why
            )  # this model's own, unsure as it is, may be given
        return replace(
            settled,
            text=outcome.text,
            refusal=outcome.refusal,
            passed=outcome.passed,
            sure=None,
            other=said,
            asked_for=why,
        )


def vote(samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> tuple[Sample, Outcome, float, bool]:
    """(the likeliest sample that says what most say, its outcome, the share of all that say so, whether others were as many).

    Texts are the same if only blanks differ. A refused sample votes for nothing; if all are refused, the likeliest one's reason is
    given. Of sides with as many votes the one with the likeliest sample wins, and of equal ones the first.
    """
    sides: dict[str, list[int]] = {}
    for i, outcome in enumerate(outcomes):
        if outcome.refusal is None:
            sides.setdefault(" ".join(outcome.text.split()), []).append(i)

    def likely(i: int) -> float:
        logprob = samples[i].logprob
        return -math.inf if logprob is None else logprob

    if not sides:
        best = max(range(len(samples)), key=lambda i: (likely(i), -i))
        return samples[best], outcomes[best], 1.0, False
    most = max(map(len, sides.values()))
    first = [side for side in sides.values() if len(side) == most]
    side = max(first, key=lambda one: max(map(likely, one)))
    best = max(side, key=lambda i: (likely(i), -i))
    return samples[best], outcomes[best], most / len(samples), len(first) > 1


def samples(
    model: Any, template: Any, prompts: Sequence[Sequence[int]], max_tokens: int, spec: AnsweringSpec
) -> list[tuple[Sample, ...]]:
    """What a model in this process writes to each prompt: one greedy answer, or the samples of a vote, held to the grammar."""
    import numpy as np

    from luthier.models.generate import write

    grammar, wish = spec.grammar(), spec.vote
    if not prompts:
        return []
    if wish is None:
        found = write(model, template, prompts, max_tokens, grammar=grammar)
    else:
        found = write(
            model,
            template,
            prompts,
            max_tokens,
            copies=wish.samples,
            temperature=wish.temperature,
            draws_PGN=np.array([draws(wish, ids, max_tokens) for ids in prompts]),
            grammar=grammar,
        )
    return [tuple(Sample(one.text, one.logprob, one.tokens, one.finish) for one in mine) for mine in found]


def draws(wish: VoteSpec, prompt_ids: Sequence[int], tokens: int) -> NDArray[np.float64]:
    """[samples, tokens] numbers in [0, 1), which follow from the seed and the prompt alone."""
    import numpy as np

    asked = hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()
    found = np.empty((wish.samples, tokens))
    for n in range(wish.samples):
        draw = Draw("vote", wish.seed, n, asked)
        found[n] = [draw.share() for _ in range(tokens)]
    return found


def about(messages: Sequence[Any], labels: Sequence[str] | None) -> About:
    """From turns as they are rendered: mappings of role and content."""
    told = tuple((str(turn["role"]), whole_characters(str(turn["content"] or ""))) for turn in messages)
    return About(told, None if labels is None else tuple(labels))
