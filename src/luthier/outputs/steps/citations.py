"""citations: a source that the model names was in what it was asked, or the citation goes.

    prompt: [1] Opening hours ... [2] Returns ...        answer: "Within 30 days [2][7]."  ──▶  "Within 30 days [2]."

A citation is a number or an id with a digit in brackets ([3], [doc-12], [1, 4]), and what `pattern` finds. It is known if it stands
in the messages: a number in brackets or before a line ("3." or "3:"), an id as a whole word. A link of Markdown is none.

Not here: whether the source says what the answer says of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from pydantic import field_validator

from luthier.core.spec import Spec
from luthier.data.private.pseudonyms import MASK

from ..step import About, Said, Step
from ..texts import edited
from .banned import safe_pattern

_ID = r"[A-Za-z0-9][A-Za-z0-9_.:/#-]{0,79}"
_CITED = re.compile(rf" ?[\[【]({_ID}(?:[,;] ?{_ID}){{0,19}})[\]】](?!\()")
_NUMBERED = re.compile(r"^[ \t]{0,8}\(?([0-9]{1,6})[.):]", re.MULTILINE)
_WORDS = re.compile(_ID)


class Citations(Spec):
    otherwise: Literal["remove", "refuse"] = "remove"
    """What happens to a citation of something that was not there: it goes, or the whole answer does."""
    pattern: str | None = None
    """What else is a source's id, wherever it stands, as in `DOC-[0-9]+` (Rust's regular expressions)."""

    @field_validator("pattern", mode="after")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return None if value is None else safe_pattern(value)


def _run(text: str, settings: Citations, about: About) -> Said:
    asked = "\n".join(content for _, content in about.messages)
    known = _known(asked)
    unknown: list[str] = []

    def brackets(match: re.Match[str]) -> str:
        if MASK.fullmatch(match[0].strip()):
            return match[0]
        ids = re.split(r"[,;] ?", match[1])
        if not any(c.isdigit() for c in match[1]):
            return match[0]
        kept = [one for one in ids if one in known or not any(c.isdigit() for c in one)]
        unknown.extend(one for one in ids if one not in kept)
        if len(kept) == len(ids):
            return match[0]
        if not kept:
            return ""
        begin, end = match[0].lstrip()[0], match[0][-1]
        space = " " if match[0].startswith(" ") else ""
        return f"{space}{begin}{', '.join(kept)}{end}"

    told = edited(text, lambda part: _CITED.sub(brackets, part))
    if settings.pattern is not None:
        told = edited(told, _named(settings.pattern, asked, unknown))
    if not unknown:
        return Said(text)
    if settings.otherwise == "refuse":
        return Said(text, "the answer cites a source that it was not given.", ("unknown source",))
    return Said(told, notes=("unknown source",))


def _known(asked: str) -> set[str]:
    found = {one for match in _CITED.finditer(asked) for one in re.split(r"[,;] ?", match[1])}
    found |= set(_NUMBERED.findall(asked))
    return found | {word.rstrip(".:/#-") for word in _WORDS.findall(asked) if not word.isdigit()}


def _named(pattern: str, asked: str, unknown: list[str]) -> Callable[[str], str]:
    import polars as pl

    def ids(text: str) -> list[str]:
        return list(pl.Series([text], dtype=pl.String).str.extract_all(pattern).item())

    known = set(ids(asked))

    def edit(text: str) -> str:
        for one in dict.fromkeys(found for found in ids(text) if found not in known):
            unknown.append(one)
            text = re.sub(rf" ?(?<!\w){re.escape(one)}(?!\w)", "", text)
        return text

    return edit


citations = Step("citations", 1, Citations, "Citations of sources that were not in the question go.", _run)
