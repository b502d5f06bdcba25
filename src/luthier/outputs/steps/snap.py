"""snap: a free answer becomes the label that it means, or is refused.

    "Billing."        billing       the same once case, punctuation and spaces are set aside
    "biling"          billing       within the edits that are allowed, and nearer than any other label
    "bill"            (refused)     too far
    "Mailing"         (refused)     as near to "mailings" as to "mailing 1"

Not here: choosing among labels by the model's own probabilities (postprocess.constrain: labels), which never needs this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.core.errors import SpecError
from luthier.core.spec import Spec
from luthier.data.rules.toxicity import folded

from ..step import About, Said, Step
from ..texts import shortened

LONGEST = 500
SHARE = 3
"""No more edits than a third of the label's characters, so that a short label is not any other word."""


class Snap(Spec):
    labels: Literal["auto"] | list[str] = "auto"
    """The labels; `auto`: those of the task."""
    edits: int = Field(default=2, ge=0, le=10)
    """How many characters may be missing, added or changed, and never more than a third of a label's; 0: none."""
    inside: bool = False
    """Take the label that stands in a longer answer as whole words, if it is the only one that does."""
    otherwise: Literal["refuse", "keep"] = "refuse"
    """What happens to an answer that is no label."""

    @field_validator("labels", mode="after")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value != "auto" and (
            len(value) < 2 or len(set(value)) != len(value) or not all(one.strip() for one in value)
        ):
            raise ValueError("write at least two labels, each once and none blank")
        return value


_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_NO_WORD = re.compile(r"\W+")
_BETWEEN = re.compile(r"[\s_-]+")


def plain(text: str) -> str:
    """
    >>> plain(' **Over-due_Bills**. ')
    'over due bills'
    """
    return _BETWEEN.sub(" ", _EDGES.sub("", folded(text)))


@lru_cache(maxsize=64)
def _plain_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(plain(label) or label for label in labels)


def _run(text: str, settings: Snap, about: About) -> Said:
    labels = about.labels or () if settings.labels == "auto" else tuple(settings.labels)
    if text in labels:
        return Said(text)
    found: Sequence[str] = ()
    if len(text) <= LONGEST:
        forms, said = _plain_labels(labels), plain(text)
        found = [label for label, form in zip(labels, forms, strict=True) if form == said]
        note = "written otherwise"
        if not found and settings.edits:
            found, note = _nearest(said, labels, forms, settings.edits), "misspelt"
        if not found and settings.inside:
            found, note = _standing(said, labels, forms), "within a text"
    if len(found) == 1:
        return Said(found[0], notes=(note,))
    if settings.otherwise == "keep":
        return Said(text, notes=("no label",))
    if found:
        return Said(
            text,
            f"the answer may be {' or '.join(repr(shortened(one)) for one in found[:3])}.",
            ("ambiguous",),
        )
    return Said(text, "the answer is none of the labels.")


def _nearest(said: str, labels: Sequence[str], forms: Sequence[str], most: int) -> list[str]:
    """All labels at the smallest distance that is allowed."""
    far = [distance(said, form, min(most, len(form) // SHARE)) for form in forms]
    best = min((one for one in far if one is not None), default=None)
    return [label for label, one in zip(labels, far, strict=True) if one is not None and one == best]


def _standing(said: str, labels: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Labels that stand in it, without those that stand only within a longer one."""
    words = _NO_WORD.sub(" ", said)
    padded = f" {words} "
    hits = [(label, form) for label, form in zip(labels, forms, strict=True) if f" {form} " in padded]
    return [label for label, form in hits if not any(form != other and form in other for _, other in hits)]


def distance(one: str, other: str, most: int) -> int | None:
    """Levenshtein's, if it is at most `most`; in O(most · length).

    >>> distance("biling", "billing", 2), distance("login", "billing", 2), distance("a", "a", 0)
    (1, None, 0)
    """
    if abs(len(one) - len(other)) > most:
        return None
    far = most + 1
    row = [j if j <= most else far for j in range(len(other) + 1)]
    for i, a in enumerate(one, 1):
        low, high = max(1, i - most), min(len(other), i + most)
        new = [far] * (len(other) + 1)
        new[0] = min(i, far)
        for j in range(low, high + 1):
            new[j] = min(row[j - 1] + (a != other[j - 1]), row[j] + 1, new[j - 1] + 1, far)
        row = new
    return row[-1] if row[-1] <= most else None


def _bound(settings: Snap, task: Mapping[str, Any]) -> Snap:
    if settings.labels == "auto" and not task.get("labels"):
        raise SpecError(
            f"postprocess.answers: snap takes the labels of the task, and this {task['kind']} task has none.",
            remedy="Write labels: [...] under snap.",
        )
    return settings


snap = Step(
    "snap",
    1,
    Snap,
    "A free answer becomes the nearest label; an ambiguous one is refused.",
    _run,
    bound=_bound,
)
