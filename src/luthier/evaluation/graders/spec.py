"""Graders as a wire carries them, in OpenAI's form. What is not honoured here is refused with a reason; nothing is accepted and ignored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.core.errors import SpecError
from luthier.core.spec import Spec

from . import similarity, templates
from .formula import Formula

MOST_MESSAGES = 40
MOST_LABELS = 100
MOST_GRADERS = 20
MOST_TOKENS = 1024
Name = Annotated[str, Field(min_length=1, max_length=200)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class Wired(Spec):
    """Nothing is converted, so "5" is not 5."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


def _template(value: Any) -> Any:
    if isinstance(value, str):
        try:
            templates.check(value)
        except SpecError as error:
            raise PydanticCustomError(
                "template", "{told}", {"told": f"{error.message} {error.remedy}"}
            ) from None
    return value


def _content(value: Any) -> Any:
    """A text from OpenAI's parts of text, each on a line of its own."""
    parts = value if isinstance(value, list) else [value]
    texts = []
    for part in parts:
        if (
            isinstance(part, dict)
            and part.get("type") in ("input_text", "output_text")
            and set(part) == {"type", "text"}
        ):
            part = part["text"]
        if not isinstance(part, str):
            raise PydanticCustomError(
                "content",
                "only text can be graded here: a string, or parts of type input_text or output_text",
            )
        texts.append(part)
    return _template("\n".join(texts))


Template = Annotated[str, BeforeValidator(_template), Field(max_length=templates.LONGEST)]
Content = Annotated[str, BeforeValidator(_content), Field(max_length=templates.LONGEST)]


class MessageSpec(Wired):
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: Literal["message"] = "message"


Messages = Annotated[list[MessageSpec], Field(min_length=1, max_length=MOST_MESSAGES)]


class StringCheckSpec(Wired):
    type: Literal["string_check"]
    name: Name
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]
    """like: the input holds the reference; ilike: whatever the case of letters."""


class TextSimilaritySpec(Wired):
    type: Literal["text_similarity"]
    name: Name
    input: Template
    reference: Template
    evaluation_metric: similarity.Measure

    @model_validator(mode="after")
    def _can_be_computed(self) -> Self:
        try:
            similarity.check(self.evaluation_metric)
        except SpecError as error:
            raise PydanticCustomError(
                "evaluation_metric", "{told}", {"told": f"{error.message} {error.remedy}"}
            ) from None
        return self


class SamplingSpec(Wired):
    max_completions_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    reasoning_effort: None = None


Bound = Annotated[float, Field(strict=False)]


class ScoreModelSpec(Wired):
    type: Literal["score_model"]
    name: Name
    model: ModelName
    input: Messages
    range: Annotated[list[Bound], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.0, 1.0]
    )
    sampling_params: SamplingSpec = SamplingSpec()

    @model_validator(mode="after")
    def _low_to_high(self) -> Self:
        if not all(map(math.isfinite, self.range)) or self.range[0] >= self.range[1]:
            raise PydanticCustomError("range", "range is a lower and a higher number")
        return self


class LabelModelSpec(Wired):
    type: Literal["label_model"]
    name: Name
    model: ModelName
    input: Messages
    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=MOST_LABELS)
    ]
    passing_labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=MOST_LABELS)
    ]

    @model_validator(mode="after")
    def _among(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise PydanticCustomError("labels", "labels holds one label twice")
        if not set(self.passing_labels) <= set(self.labels):
            raise PydanticCustomError("passing_labels", "passing_labels holds what is not among labels")
        return self


def _no_code(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "python":
        raise PydanticCustomError(
            "python",
            "a grader of type python is code, and no code of clients is run here; string_check, text_similarity, score_model, "
            "label_model and multi say most of what it would",
        )
    return value


Plain = Annotated[
    StringCheckSpec | TextSimilaritySpec | ScoreModelSpec | LabelModelSpec, Field(discriminator="type")
]
OneGrader = Annotated[Plain, BeforeValidator(_no_code)]


def _named(value: Any) -> Any:
    """OpenAI's clients also type a single grader in place of names and graders."""
    if isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("name"), str):
        return {value["name"]: value}
    return value


class MultiSpec(Wired):
    type: Literal["multi"]
    name: Name
    graders: Annotated[
        dict[Variable, OneGrader], BeforeValidator(_named), Field(min_length=1, max_length=MOST_GRADERS)
    ]
    calculate_output: str

    @model_validator(mode="after")
    def _has_a_formula(self) -> Self:
        try:
            self.formula()
        except SpecError as error:
            raise PydanticCustomError(
                "calculate_output", "{told}", {"told": f"{error.message} {error.remedy}"}
            ) from None
        return self

    def formula(self) -> Formula:
        return Formula.read(self.calculate_output, set(self.graders))


Grader = StringCheckSpec | TextSimilaritySpec | ScoreModelSpec | LabelModelSpec | MultiSpec
AnyGrader = Annotated[Annotated[Grader, Field(discriminator="type")], BeforeValidator(_no_code)]
"""For a field of a request."""


# -- criteria of evals: the same, with what counts as a pass ------------------------------------------------------------------

Threshold = Annotated[float, Field(strict=False, ge=-1e12, le=1e12)]


class SimilarityCriterion(TextSimilaritySpec):
    pass_threshold: Threshold


class ScoreCriterion(ScoreModelSpec):
    pass_threshold: Threshold | None = None


Criterion = StringCheckSpec | SimilarityCriterion | ScoreCriterion | LabelModelSpec
AnyCriterion = Annotated[Annotated[Criterion, Field(discriminator="type")], BeforeValidator(_no_code)]


def passes(grader: Grader, score: float, label: str | None = None) -> bool:
    """Whether a score is a pass. A score_model without a threshold passes from the middle of its range on."""
    if isinstance(grader, SimilarityCriterion):
        return score >= grader.pass_threshold
    if isinstance(grader, ScoreModelSpec):
        asked = grader.pass_threshold if isinstance(grader, ScoreCriterion) else None
        return score >= (sum(grader.range) / 2 if asked is None else asked)
    if isinstance(grader, LabelModelSpec):
        return label in grader.passing_labels
    return score >= 1.0


def models_of(graders: Sequence[Grader]) -> Iterator[str]:
    """The models that these ask."""
    for one in graders:
        if isinstance(one, ScoreModelSpec | LabelModelSpec):
            yield one.model
        elif isinstance(one, MultiSpec):
            yield from models_of(list(one.graders.values()))
