"""redact: private data that the model says is masked, found as the rule of the same name finds it in rows (data/private).

With `keep_said` what the user has written in this conversation stays: a model that repeats a caller's own number tells nobody
anything. Not here: names and addresses, which have no form; rows (data/rules/redact).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.spec import Spec
from luthier.data.private import kinds_of, pseudonyms
from luthier.data.rules.redact import MOST_ROUNDS, Word

from ..step import About, Said, Step


class RedactAnswer(Spec):
    what: list[Word] = Field(default=["all"], min_length=1, validate_default=True)
    """Which kinds are looked for; `personal` (or `pii`) is all but keys and passwords, `secrets` is those."""
    do: Literal["mask", "refuse"] = "mask"
    """`mask` writes [EMAIL_1] in its place; `refuse` gives no answer."""
    keep_said: bool = False
    """Leave what the user wrote in the same conversation."""

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        """`redact: personal` and `redact: [email, card]` say what is looked for."""
        if isinstance(value, str):
            return {"what": [value]}
        return {"what": value} if isinstance(value, list) else value

    @field_validator("what", mode="after")
    @classmethod
    def _kinds(cls, value: list[str]) -> list[str]:
        return kinds_of(value)


def _run(text: str, settings: RedactAnswer, about: About) -> Said:
    from luthier.data.private.find import candidates
    from luthier.data.private.found import settle

    kinds = frozenset(settings.what)
    allowed = set()
    if settings.keep_said:
        said = (one for told in about.said_by("user") for one in settle(candidates(told, kinds)))
        allowed = {(one.kind, one.value) for one in said}
    masks = pseudonyms.Masks([text])
    notes: list[str] = []
    for _ in range(MOST_ROUNDS):  # a mask brings words together, so the text is searched again
        found = [one for one in settle(candidates(text, kinds)) if (one.kind, one.value) not in allowed]
        if not found:
            break
        notes += [one.kind for one in found]
        if settings.do == "refuse":
            return Said(text, "the answer holds private data.", tuple(sorted(set(notes))))
        pieces, at = [], 0
        for one in found:
            pieces += [text[at : one.start], masks.mask(one.kind, one.value)]
            at = one.end
        text = "".join([*pieces, text[at:]])
    return Said(text, notes=tuple(dict.fromkeys(notes)))


def _hidden(text: str, settings: RedactAnswer, about: About) -> str:
    return _run(text, settings.model_copy(update={"do": "mask"}), about).text


redact = Step(
    "redact", 1, RedactAnswer, "Private data and secrets in an answer are masked.", _run, hidden=_hidden
)
