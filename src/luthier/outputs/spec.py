"""What a person may wish of the way from what a model says to an answer, and how that wish is tied to a task.

    written (recipe)  ──inlined──▶  without files  ──bound──▶  without `auto`: what is measured, packed and served

Light: imports core, data's specs and the steps, no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from luthier.core.errors import SpecError
from luthier.core.part import PartSpec
from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.data.egress import EgressSpec
from luthier.models.grammar import Grammar

from .price import PriceSpec
from .steps.schema import Schema, checked, from_file, from_task


class StepSpec(PartSpec):
    kind: ClassVar[str] = "answer_step"
    example: ClassVar[str] = "`json` or `{snap: {edits: 1}}`"


class HeldSpec(Spec):
    """What an answer is held to while it is written; one of the two. Needs the extra `answers`."""

    regex: str | None = None
    """A regular expression (Rust's) that the whole answer matches."""
    json_schema: Schema | None = None
    """A JSON schema that the answer meets: written out, a file's name, or `auto` for the task's."""

    _a_schema = field_validator("json_schema")(checked)

    @model_validator(mode="after")
    def _one(self) -> HeldSpec:
        if (self.regex is None) == (self.json_schema is None):
            raise ValueError("write either regex or json_schema")
        return self

    def grammar(self) -> Grammar:
        """Of a wish that is bound."""
        if self.regex is not None:
            return Grammar("regex", self.regex)
        return Grammar.of_schema(self.json_schema)


def _which(value: Any) -> str:
    return "tagged-held" if isinstance(value, Mapping | HeldSpec) else "tagged-word"


Constrain = Annotated[
    Annotated[Literal["auto", "labels"] | None, Tag("tagged-word")] | Annotated[HeldSpec, Tag("tagged-held")],
    Discriminator(_which),
]


class VoteSpec(Spec):
    """Several answers are drawn, and what most of them say is the answer (self-consistency, Wang et al., ICLR 2023)."""

    samples: int = Field(default=5, ge=2, le=64)
    """How many are drawn; each costs as much as an answer."""
    temperature: float = Field(default=0.7, gt=0, le=5)
    """How varied they are."""
    seed: int = Field(default=0, ge=0)
    """The same question and seed give the same samples."""


class EndpointModelSpec(EgressSpec):
    """A model behind a server that speaks OpenAI's protocol."""

    price: PriceSpec | None = Field(default=None, exclude=True)
    """What a million tokens cost there; with it the report says what asking has cost."""
    tries: int = Field(default=3, ge=1, le=10, exclude=True)
    """How often a question is sent that fails for a reason that may pass."""
    unredacted: bool = Field(default=False, exclude=True)
    """Whether questions may be sent to another machine as they are: those of the test rows, and then those of whoever asks the served
    model, out of which nothing takes private data."""


class FallbackSpec(Spec):
    """Another model is asked where this one is not sure enough, or gave no answer that may be given."""

    to: str | None = None
    """A release (a name, or name@version) or a base model, by what `recipe.base` takes."""
    endpoint: EndpointModelSpec | None = None
    """In the place of `to`: a model on a server."""
    below: Share | None = None
    """Ask it where this model's confidence is lower."""
    refused: bool = True
    """Ask it where the steps refused this model's answer."""

    @model_validator(mode="after")
    def _someone_for_something(self) -> FallbackSpec:
        if (self.to is None) == (self.endpoint is None):
            raise ValueError("write either `to` or `endpoint`: who is asked")
        if self.below is None and not self.refused:
            raise ValueError("it would never be asked; write below, or refused: true")
        return self

    @property
    def name(self) -> str:
        return self.to or (self.endpoint.model if self.endpoint else "")


class AnsweringSpec(Spec):
    """One wish for evaluation and serving alike."""

    answers: list[StepSpec] = Field(default=[])
    """Steps from what the model says to an answer, in order."""
    constrain: Annotated[Literal["labels"] | HeldSpec | None, Field()] = None
    """What the answer is held to while it is written."""
    vote: VoteSpec | None = None
    """Draw several answers and take what most say."""
    fallback: FallbackSpec | None = None
    """Ask another model where this one is not sure."""

    @property
    def plain_way(self) -> bool:
        """Whether what the model says is the answer, and nothing else is asked of it."""
        return not self.answers and self.vote is None and self.fallback is None and self.held is None

    @property
    def held(self) -> HeldSpec | None:
        return self.constrain if isinstance(self.constrain, HeldSpec) else None

    def grammar(self) -> Grammar | None:
        return None if self.held is None else self.held.grammar()

    def inlined(self, read: Callable[[str], str]) -> AnsweringSpec:
        """With the contents of files in it: `read` gives a file's text. Raises SpecError."""
        steps = [
            one.model_copy(update={"settings": one.load().inlined(one.settings, read)})
            for one in self.answers
        ]
        return self.model_copy(update={"answers": steps, "constrain": self._with_schema(from_file, read)})

    def bound(self, task: Mapping[str, Any]) -> AnsweringSpec:
        """With what the task says in it (as in dataset.json). Raises SpecError."""
        steps = [
            one.model_copy(update={"settings": one.load().bound(one.settings, task)}) for one in self.answers
        ]
        return self.model_copy(update={"answers": steps, "constrain": self._with_schema(from_task, task)})

    def _with_schema(self, put: Callable[..., Schema], what: Any) -> Any:
        if self.held is None or self.held.json_schema is None:
            return self.constrain
        told = put(self.held.json_schema, what, "postprocess.constrain: json_schema")
        return self.held.model_copy(update={"json_schema": told})

    def check(self) -> None:
        """Of a wish that is bound: raises SpecError for a grammar that nothing can be held to, MissingPart without a library."""
        if (grammar := self.grammar()) is not None:
            try:
                grammar.check()
            except SpecError as error:
                raise SpecError(f"postprocess.constrain: {error.message}", remedy=error.remedy) from None
