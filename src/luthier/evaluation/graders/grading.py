"""A grader at work on one item and one sample: its score, whether that is a pass, and what went wrong, in OpenAI's words.

What goes wrong with a row or a model's verdict is an error of that grade and never an exception: its score is then 0 and no pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.core.errors import LuthierError, MissingPart, SpecError

from .asking import DEFAULT_TOKENS, Models, Sampling, graded_turns, label_in, score_in
from .formula import NoValue
from .similarity import similarity
from .spec import (
    Grader,
    LabelModelSpec,
    MultiSpec,
    ScoreModelSpec,
    StringCheckSpec,
    TextSimilaritySpec,
    passes,
)
from .templates import Missing, rendered

ERRORS: dict[str, bool | None] = {
    "formula_parse_error": False,
    "invalid_variable_error": False,
    "model_grader_parse_error": False,
    "model_grader_refusal_error": False,
    "model_grader_server_error": False,
    "model_grader_server_error_details": None,
    "other_error": False,
    "python_grader_runtime_error": False,
    "python_grader_runtime_error_details": None,
    "python_grader_server_error": False,
    "python_grader_server_error_type": None,
    "sample_parse_error": False,
    "truncated_observation_error": False,
    "unresponsive_reward_error": False,
}
"""OpenAI's, with what they are where nothing went wrong."""


@dataclass(frozen=True)
class Usage:
    """Tokens that one model read and wrote, and in how many requests."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )


@dataclass(frozen=True)
class Grade:
    """`errors`: those of ERRORS that are otherwise than there. `parts`: of a multi grader. `label`, `said`: of a model."""

    name: str
    type: str
    score: float
    passed: bool
    seconds: float
    errors: Mapping[str, bool | str] = field(default_factory=dict)
    parts: Mapping[str, Grade] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    model: str | None = None
    label: str | None = None
    said: str | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Of each grader in it, by its name."""
        return {name: one.score for name, one in self.parts.items()} or {self.name: self.score}


def sample_of(text: str | None, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The namespace `sample`: what was answered, its JSON where it is some, and what a row brings of its own."""
    from luthier.data import schema

    made = dict(given or {})
    if text is not None:
        made["output_text"] = text
    if isinstance(said := made.get("output_text"), str) and "output_json" not in made:
        try:
            made["output_json"] = schema.read(said)
        except (ValueError, RecursionError):
            made.pop("output_json", None)
    return made


def grade(
    grader: Grader,
    item: Mapping[str, Any],
    sample: Mapping[str, Any],
    models: Models,
    clock: Callable[[], float] = time.monotonic,
) -> Grade:
    """Raises MissingPart where this machine cannot compute it; nothing else."""
    began_s = clock()
    names = {"item": item, "sample": sample}
    found = _Found()
    try:
        _grade(grader, names, models, clock, found)
    except MissingPart:
        raise
    except Missing as error:
        found.errors["sample_parse_error" if error.not_json else "invalid_variable_error"] = True
    except NoValue:
        found.errors["other_error"] = True
    except SpecError as error:
        found.errors["other_error"] = True
        found.said = found.said or error.message
    except LuthierError as error:
        found.errors |= {
            "model_grader_server_error": True,
            "model_grader_server_error_details": error.message,
        }
    score = 0.0 if found.errors else found.score
    passed = not found.errors and passes(grader, score, found.label)
    return Grade(
        grader.name, grader.type, score, passed, clock() - began_s, found.errors, found.parts, found.usage,
        getattr(grader, "model", None), found.label, found.said,
    )  # fmt: skip


def comparing(grader: Grader, item: Mapping[str, Any], sample: Mapping[str, Any]) -> int:
    """How much there is to compare: characters times characters of every text_similarity. What cannot be rendered is not compared."""
    match grader:
        case TextSimilaritySpec():
            names = {"item": item, "sample": sample}
            try:
                return len(rendered(grader.input, names)) * len(rendered(grader.reference, names))
            except SpecError:
                return 0
        case MultiSpec():
            return sum(comparing(one, item, sample) for one in grader.graders.values())
    return 0


@dataclass
class _Found:
    score: float = 0.0
    label: str | None = None
    said: str | None = None
    errors: dict[str, bool | str] = field(default_factory=dict)
    parts: dict[str, Grade] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)

    def used(self, model: str, usage: Usage) -> None:
        self.usage[model] = self.usage.get(model, Usage()) + usage


def _grade(
    grader: Grader, names: Mapping[str, Any], models: Models, clock: Callable[[], float], found: _Found
) -> None:
    match grader:
        case StringCheckSpec():
            texts = rendered(grader.input, names), rendered(grader.reference, names)
            found.score = float(_holds(grader.operation, *texts))
        case TextSimilaritySpec():
            texts = rendered(grader.input, names), rendered(grader.reference, names)
            found.score = similarity(grader.evaluation_metric, *texts)
        case ScoreModelSpec() | LabelModelSpec():
            _ask(grader, names, models, found)
        case MultiSpec():
            for name, one in grader.graders.items():
                part = found.parts[name] = grade(one, names["item"], names["sample"], models, clock)
                for error, told in part.errors.items():
                    found.errors[error] = told
                for model, usage in part.usage.items():
                    found.used(model, usage)
            found.score = grader.formula().value({name: part.score for name, part in found.parts.items()})


def _holds(operation: str, said: str, reference: str) -> bool:
    """
    >>> [_holds(how, "Paris, France", "paris") for how in ("eq", "ne", "like", "ilike")]
    [False, True, False, True]
    """
    if operation in ("eq", "ne"):
        return (said == reference) == (operation == "eq")
    return reference in said if operation == "like" else reference.casefold() in said.casefold()


def _ask(
    grader: ScoreModelSpec | LabelModelSpec, names: Mapping[str, Any], models: Models, found: _Found
) -> None:
    """Once, and once more where there was no verdict."""
    for again in (False, True):
        answer = models.ask(grader.model, graded_turns(grader, names, again), _sampling(grader))
        found.used(grader.model, Usage(1, answer.tokens_in, answer.tokens_out))
        found.said = answer.text
        if answer.text is None:
            found.errors["model_grader_refusal_error"] = True
            found.said = answer.why
            return
        if isinstance(grader, ScoreModelSpec):
            verdict = score_in(answer.text, *grader.range)
        else:
            found.label = label_in(answer.text, grader.labels)
            verdict = None if found.label is None else float(found.label in grader.passing_labels)
        if verdict is not None:
            found.score = verdict
            return
    found.errors["model_grader_parse_error"] = True


def _sampling(grader: ScoreModelSpec | LabelModelSpec) -> Sampling:
    """A verdict is not drawn by chance, unless the grader asks for that."""
    if isinstance(grader, LabelModelSpec):
        return Sampling(temperature=0.0, labels=tuple(grader.labels))
    asked = grader.sampling_params
    return Sampling(
        asked.max_completions_tokens or DEFAULT_TOKENS,
        0.0 if asked.temperature is None else asked.temperature,
        1.0 if asked.top_p is None else asked.top_p,
        asked.seed,
    )
