"""json: the JSON of an answer, and nothing around it.

    Sure! Here it is:  ```json {"a": 1} ```          {"a": 1}

Read strictly (RFC 8259; a key stands once, no NaN). What is found is taken as it is written; only a repair writes it anew. With
`repair` what cannot be read is mended by the library json-repair (quotes, commas, missing ends), and each repair is counted: it
is a guess. Of several values the longest is taken.

Not here: whether it is the right JSON (schema).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from luthier.core.errors import missing_part
from luthier.core.spec import Spec
from luthier.data import json_text

from ..step import About, Said, Step

MOST_TRIES = 200
"""Places at which a value is looked for."""
_DECODER = json.JSONDecoder(
    object_pairs_hook=json_text.once, parse_constant=json_text.no_constant, parse_float=json_text.finite
)


class Json(Spec):
    repair: bool = False
    """Mend what is nearly JSON, with the library json-repair (extra `answers`); each repair is counted in the report."""
    otherwise: Literal["refuse", "keep"] = "refuse"
    """What happens to an answer without JSON."""
    longest: int = Field(default=100_000, ge=1, le=1_000_000)
    """The most characters of an answer that is looked into."""

    @model_validator(mode="after")
    def _can_repair(self) -> Json:
        if self.repair:
            try:
                import json_repair  # noqa: F401
            except ImportError:
                raise missing_part("json-repair", "answers", "The step json with repair") from None
        return self


def _run(text: str, settings: Json, _: About) -> Said:
    if len(text) > settings.longest:
        return _none(text, settings, f"the answer has more than {settings.longest:,} characters.")
    whole = text.strip()
    if _is_json(whole):
        return Said(whole)
    for inside in _fenced(text):
        if _is_json(inside):
            return Said(inside, notes=("code fence",))
    if (found := _longest(text)) is not None:
        return Said(found, notes=("text around it",))
    if settings.repair and (mended := _repaired(text)) is not None:
        return Said(mended, notes=("repaired",))
    return _none(text, settings, "the answer holds no JSON.")


def _none(text: str, settings: Json, why: str) -> Said:
    return Said(text, why) if settings.otherwise == "refuse" else Said(text, notes=("no JSON",))


def _is_json(text: str) -> bool:
    try:
        json_text.loads(text)
    except ValueError:
        return False
    return True


def _fenced(text: str) -> Iterator[str]:
    """What stands within Markdown's fences, in order; a fence that is not closed ends with the text."""
    parts = text.split("```")
    for inside in parts[1::2][:MOST_TRIES]:
        head, line_break, rest = inside.partition("\n")
        yield (
            rest if line_break and head.strip()[:1] not in ("{", "[", '"') else _without_word(inside)
        ).strip()


def _without_word(inside: str) -> str:
    """A fence on one line: ```json {"a": 1}```."""
    return inside.lstrip().removeprefix("json")


def _longest(text: str) -> str | None:
    """The longest object or list that can be read, wherever it begins."""
    best: str | None = None
    at = tries = 0
    while tries < MOST_TRIES and (begins := _next(text, at)) is not None:
        tries += 1
        try:
            _, at = _DECODER.raw_decode(text, begins)
        except (ValueError, RecursionError):
            at = begins + 1
            continue
        found = text[begins:at]
        if (best is None or len(found) > len(best)) and _is_json(found):
            best = found
    return best


def _next(text: str, at: int) -> int | None:
    return min((place for c in "{[" if (place := text.find(c, at)) >= 0), default=None)


def _repaired(text: str) -> str | None:
    import json_repair

    fenced = next(_fenced(text), text)
    begins = _next(fenced, 0)
    if begins is None:
        return None
    try:
        value = json_repair.loads(fenced[begins:], skip_json_loads=True)
        told = json_text.dumps(value)
    except (ValueError, RecursionError, TypeError):
        return None
    return told if isinstance(value, dict | list) and value and _is_json(told) else None


json_ = Step(
    "json", 1, Json, "The JSON of an answer, without fences and chatter; repaired where that is asked.", _run
)
