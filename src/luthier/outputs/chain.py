"""Steps in the order in which they are written: the text that leaves one enters the next, and a refusal ends it.

>>> from luthier.outputs.spec import StepSpec
>>> chain = Chain([StepSpec.model_validate("json")])
>>> chain.run("Sure! {\\"queue\\": \\"billing\\"} Anything else?").text
'{"queue": "billing"}'
>>> chain.run("I cannot say.").refusal
'json: the answer holds no JSON.'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .step import NOTHING, About
from .texts import whole_characters

if TYPE_CHECKING:
    from .spec import StepSpec


@dataclass(frozen=True)
class Passed:
    """One step on one text. `after` is None where it refused."""

    step: str
    before: str
    after: str | None
    notes: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What is left: a text, or a refusal; with it the steps that were taken."""

    text: str
    refusal: str | None = None
    passed: tuple[Passed, ...] = ()


class Chain:
    """Immutable, and safe from any thread."""

    def __init__(self, steps: Sequence[StepSpec]) -> None:
        self._steps = tuple((one.name, one.load(), one.settings) for one in steps)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def run(self, text: str, about: About = NOTHING) -> Outcome:
        passed, text = [], whole_characters(text)
        for name, step, settings in self._steps:
            said = step.run(text, settings, about)
            if said.refusal is not None:
                why = self.hidden(said.refusal, about)  # it may quote the answer, and a client is told it
                passed.append(Passed(name, text, None, said.notes, why))
                return Outcome("", f"{name}: {why}", tuple(passed))
            passed.append(Passed(name, text, said.text, said.notes))
            text = said.text
        return Outcome(text, None, tuple(passed))

    def hidden(self, text: str, about: About = NOTHING) -> str:
        """What may be told of a text: without the private data that a step of the chain takes out, wherever that step stands."""
        for _, step, settings in self._steps:
            if step.hidden is not None:
                text = step.hidden(text, settings, about)
        return text
