"""How good an answer is, as a number that can be computed: what reinforcement learns from. Named parts of the kind
"reward" in core/plugin.py; light to import, because recipes name them.

    reward(answer, expected, settings) -> float      `expected` is the row's own answer

Every reward here lies between 0 and 1. Not here: metrics of a whole report (metrics.py), whose functions these use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec


class Plain(Spec):
    """Of a reward that has no settings."""


class Regex(Spec):
    """Of `regex`."""

    pattern: str = Field(min_length=1, max_length=1000)
    """A regular expression (Python's); found anywhere in the answer unless `whole`."""
    whole: bool = False
    """The whole answer must match, surrounding blanks aside."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern


class Number(Spec):
    """Of `number`."""

    within: float = Field(default=0.0, ge=0)
    """By how much the number may be off, as a share of the expected one; 0: equal."""


class JsonValid(Spec):
    """Of `json_valid`."""

    keys: tuple[str, ...] = ()
    """Keys that the object must have; without any, every JSON value counts."""


class Length(Spec):
    """Of `length`."""

    max: int = Field(ge=1)
    """Most characters that earn the whole reward; from there it falls along a line to 0 at twice as many."""


@dataclass(frozen=True)
class Reward:
    """One named reward; call it."""

    name: str
    spec: type[Spec]
    about: str
    function: Callable[[str, str | None, Any], float]

    def __call__(self, answer: str, expected: str | None, settings: Spec) -> float:
        return self.function(answer, expected, settings)


def _exact(answer: str, expected: str | None, _settings: Plain) -> float:
    from .metrics import same_text

    return float(same_text(answer, _needed(expected, "exact_match")))


def _label(answer: str, expected: str | None, _settings: Plain) -> float:
    return float(_bare(answer) == _bare(_needed(expected, "label")))


def _bare(text: str) -> str:
    """
    >>> _bare(' "Billing".\\n')
    'billing'
    """
    return " ".join(text.split()).strip(" .,:;!?\"'`*").casefold()


def _regex(answer: str, _expected: str | None, settings: Regex) -> float:
    if settings.whole:
        return float(re.fullmatch(settings.pattern, answer.strip()) is not None)
    return float(re.search(settings.pattern, answer) is not None)


def _number(answer: str, expected: str | None, settings: Number) -> float:
    from .metrics import number_in

    text = _needed(expected, "number")
    wanted, found = number_in(text), number_in(answer)
    if wanted is None:
        raise DataError(
            f"the expected answer {text[:60]!r} has no number, and the reward `number` compares numbers.",
            remedy="Correct the row, or use another reward.",
        )
    return float(found is not None and abs(found - wanted) <= settings.within * abs(wanted))


def _json(answer: str, _expected: str | None, settings: JsonValid) -> float:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return 0.0
    return float(not settings.keys or (isinstance(value, dict) and set(settings.keys) <= set(value)))


def _fields(answer: str, expected: str | None, _settings: Plain) -> float:
    from .fields import compared

    return compared(_needed(expected, "fields"), answer).f1


def _length(answer: str, _expected: str | None, settings: Length) -> float:
    return min(1.0, max(0.0, 2 - len(answer) / settings.max))


def _needed(expected: str | None, reward: str) -> str:
    if expected is None:
        raise DataError(
            f"the reward `{reward}` compares with the row's own answer, and this row has none.",
            remedy="Map the answer's column, or use a reward that needs none: regex, json_valid, length.",
        )
    return expected


exact_match = Reward("exact_match", Plain, "1 where the answer is the row's own, whitespace aside.", _exact)
label = Reward(
    "label", Plain, "1 where the answer is the row's own, case and surrounding punctuation aside.", _label
)
regex = Reward("regex", Regex, "1 where a pattern is found in the answer.", _regex)
number = Reward("number", Number, "1 where the last number of the answer is that of the row's own.", _number)
json_valid = Reward("json_valid", JsonValid, "1 where the answer is JSON, with the keys wanted.", _json)
fields = Reward("fields", Plain, "F1 of the fields of a JSON answer against those of the row's own.", _fields)
length = Reward("length", Length, "1 for an answer that is short enough, less for a longer one.", _length)
