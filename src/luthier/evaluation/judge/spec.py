"""What a person may wish of a judge. Light: loads no heavy library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator

from luthier.core.spec import Spec
from luthier.core.units import Share

from ..systems import SentSpec

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class CriterionSpec(Spec):
    """One thing that an answer is graded by."""

    name: str
    """What the report calls it."""
    asks: str = Field(min_length=1, max_length=2_000)
    """What is looked at, as it is put to the judge."""
    scale: tuple[int, int] = (1, 5)
    """The lowest and the highest grade, whole numbers."""
    lowest: str | None = Field(default=None, max_length=500)
    """What the lowest grade means."""
    highest: str | None = Field(default=None, max_length=500)
    """What the highest grade means."""

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"{value[:60]!r} cannot be a name; use lower-case letters, digits and '_'")
        return value

    @field_validator("scale")
    @classmethod
    def _rises(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not -1000 <= value[0] < value[1] <= 1000:
            raise ValueError(f"the scale {list(value)} does not rise; write [lowest, highest], as in [1, 5]")
        return value


class JudgeEndpoint(SentSpec):
    """A judge behind a server: rows and answers are sent there."""


def _tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    return "endpoint" if isinstance(value, Mapping | JudgeEndpoint) else None


QUALITY = CriterionSpec(
    name="quality",
    asks="How well does the answer serve whoever asked: is it right, complete and to the point?",
    lowest="wrong or of no use",
    highest="right, complete and to the point",
)


class JudgeSpec(Spec):
    """Who judges free answers, by what, and what is done to know how far it may be believed."""

    model: Annotated[
        Annotated[str, Tag("name")] | Annotated[JudgeEndpoint, Tag("endpoint")],
        Discriminator(
            _tag,
            custom_error_type="no_judge",
            custom_error_message="a judge is a base model's name, a release (NAME@VERSION), or {endpoint: URL, model: NAME}",
        ),
    ]
    """A base model as in `base`, a release as NAME@VERSION, or a server: {endpoint: URL, model: NAME}."""
    rubric: str | list[CriterionSpec] = Field(default_factory=lambda: [QUALITY])
    """What is graded: a list of criteria, or a YAML file that holds one; without it one criterion, quality, from 1 to 5. Each
    criterion is a request of its own."""
    pairs: bool = True
    """Whether the tuned model's answer is also compared with that of each other system, twice, with the places swapped."""
    reference: bool = True
    """Whether the judge is shown the reference answer when it grades."""
    rows: int | None = Field(default=None, ge=1)
    """At most so many of the test rows are judged, the first by id."""
    human: str | None = None
    """A file of what people have said (JSON Lines or CSV): `id` of a row and `verdict`, a whole number, or win, tie or loss of the
    tuned model; beside them `answer`, the text that they judged (without it the tuned model's), and `against`, the other system."""
    agreement_at_least: float = Field(default=0.4, ge=-1, le=1)
    """The agreement with people (Cohen's kappa, Spearman's rho) below which the report warns."""
    probes: int = Field(default=10, ge=2, le=1000)
    """How many answers with planted instructions the judge is given."""
    captured_at_most: Share = 0.1
    """The largest share of them that the judge may obey; beyond that it is not to be trusted."""
    max_tokens: int = Field(default=8, ge=1, le=32_768)
    """Longest verdict, in tokens; a model that thinks aloud first needs many more."""

    @field_validator("rubric")
    @classmethod
    def _criteria(cls, value: str | list[CriterionSpec]) -> str | list[CriterionSpec]:
        if isinstance(value, list):
            names = [one.name for one in value]
            if not names:
                raise ValueError("a rubric needs a criterion: [{name: helpful, asks: ...}]")
            if len(set(names)) < len(names):
                raise ValueError("the same criterion stands twice")
        return value

    @property
    def criteria(self) -> list[CriterionSpec]:
        """Those of the rubric, which must have been read where it is a file."""
        assert not isinstance(self.rubric, str), "the rubric's file has not been read"
        return self.rubric

    @property
    def called(self) -> str:
        """Who judges, in words."""
        return (
            f"{self.model.model} at {self.model.host}"
            if isinstance(self.model, JudgeEndpoint)
            else self.model
        )


class Rubric(Spec):
    """A file of criteria."""

    criteria: list[CriterionSpec] = Field(min_length=1)
    """What is graded, each with a name, a question and a scale."""
