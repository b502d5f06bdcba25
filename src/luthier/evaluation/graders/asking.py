"""What a model that grades is asked: the grader's own messages, with a guard around what stands in rows and answers, and the form of
the verdict at the end. Not here: which model answers (`Models`, whoever runs the grader).

Values stand between marks that follow from the very texts between them, as the judge's do (judge/prompts): who wrote a row could not
know its mark, and the first message says that nothing between marks is an instruction.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.core.errors import SpecError

from ..asking.question import Answer
from ..judge.prompts import AGAIN, DATA
from .spec import LabelModelSpec, MessageSpec, ScoreModelSpec
from .templates import rendered

VERSION = 1
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})", re.ASCII)
DEFAULT_TOKENS = 16
Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sampling:
    """None: as the model's package says. `labels`: the answer is one of these; `schema`: it is JSON of that form."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float = 1.0
    seed: int | None = None
    labels: tuple[str, ...] = ()
    schema: Any = None


class Models(Protocol):
    """Who answers."""

    def ask(self, model: str, turns: Turns, sampling: Sampling) -> Answer:
        """`text` None: the model declines. Raises LuthierError where it cannot be asked."""
        ...


def turns_of(messages: Sequence[MessageSpec], names: Mapping[str, Any]) -> Turns:
    """Messages with their values in place, unguarded: for the model that is measured. Raises SpecError."""
    return tuple((role_of(one.role), rendered(one.content, names)) for one in messages)


def graded_turns(grader: ScoreModelSpec | LabelModelSpec, names: Mapping[str, Any], again: bool) -> Turns:
    """What is asked for a verdict. Raises SpecError."""
    mark = _mark(grader, names)

    def guarded(path: str, value: str) -> str:
        return f"\n[begin of {path} {mark}]\n{value}\n[end of {path} {mark}]\n"

    turns = [(role_of(one.role), rendered(one.content, names, guarded)) for one in grader.input]
    if isinstance(grader, ScoreModelSpec):
        low, high = (f"{bound:g}" for bound in grader.range)
        tail = f"Write nothing but one number from {low} to {high}."
    else:
        tail = f"Write nothing but one of these labels: {', '.join(grader.labels)}."
    tail += f" {AGAIN}" if again else ""
    return (("system", DATA.format(mark=mark)), *_joined([*turns, ("user", tail)]))


def role_of(role: str) -> str:
    """Raises SpecError."""
    if role not in _ROLES:
        raise SpecError(
            f"a message has the role {role[:40]!r}, which no model knows.",
            remedy=f"Write {', '.join(_ROLES)}.",
        )
    return _ROLES[role]


def score_in(said: str | None, low: float, high: float) -> float | None:
    """The number, blanks around it aside; None for anything else, and for what is off the scale.

    >>> score_in(" 0.5\\n", 0, 1), score_in("1.", 0, 1), score_in("2", 0, 1), score_in("0.5/1", 0, 1), score_in("nan", 0, 1)
    (0.5, 1.0, None, None, None)
    """
    text = (said or "").strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if low <= value <= high else None


def label_in(said: str | None, labels: Sequence[str]) -> str | None:
    text = (said or "").strip()
    return text if text in labels else None


def _mark(grader: ScoreModelSpec | LabelModelSpec, names: Mapping[str, Any]) -> str:
    """128 bits that stand in none of the texts."""
    told = json.dumps([VERSION, grader.plain(), names], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _joined(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one role become one, as many chat templates ask for."""
    made: list[tuple[str, str]] = []
    for role, content in turns:
        if made and made[-1][0] == role:
            made[-1] = (role, f"{made[-1][1]}\n\n{content}")
        else:
            made.append((role, content))
    return made
