"""banned: words and patterns that no answer may hold.

Words are whole words in one Unicode form without case, as the rule `toxicity` reads them. Patterns are Rust's regular expressions,
which take time in proportion to the text whatever they are: no look-around, no back-reference.

Not here: what is meant. A list finds words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.spec import Spec
from luthier.data.rules.toxicity import INSULTS, folded, pattern

from ..step import About, Said, Step


def safe_pattern(value: str) -> str:
    """Compiled once to see. Raises ValueError for one that does not compile or matches nothing at all."""
    import polars as pl
    from polars.exceptions import ComputeError

    try:
        empty = bool(pl.Series([""], dtype=pl.String).str.contains(value).item())
    except ComputeError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{value[:60]!r} is no regular expression of Rust: {told[:160]}") from None
    if empty:
        raise ValueError(f"{value[:60]!r} matches the empty text, so it would be found in every answer")
    return value


class Banned(Spec):
    words: list[str] = Field(default=[])
    """Words or phrases."""
    patterns: list[str] = Field(default=[])
    """Regular expressions, in Rust's syntax: (?i) ignores case."""
    file: str | None = None
    """A text file with a word or a phrase on each line; lines that begin with # say nothing."""
    insults: bool = False
    """The lists of insults of the rule `toxicity` too."""
    do: Literal["refuse", "mask"] = "refuse"
    """`refuse` gives no answer, `mask` writes `mask` in its place."""
    mask: str = "[…]"
    """What is written there."""

    @field_validator("words", mode="after")
    @classmethod
    def _no_blank(cls, value: list[str]) -> list[str]:
        for n, word in enumerate(value):
            if not folded(word).strip():
                raise ValueError(
                    f"word {n + 1} of the list is blank; leave it out, or every answer would hold it"
                )
        return value

    @field_validator("patterns", mode="after")
    @classmethod
    def _compile(cls, value: list[str]) -> list[str]:
        return [safe_pattern(one) for one in value]

    @model_validator(mode="after")
    def _something(self) -> Banned:
        if not (self.words or self.patterns or self.file or self.insults):
            raise ValueError("nothing is banned; write words, patterns, file or insults")
        if self.do == "mask" and self._hit(self.mask):
            raise ValueError("the mask itself is banned; write another one")
        return self

    def _hit(self, text: str) -> bool:
        return any(_count(text, one) for one in self.all_patterns) or bool(
            self.word_pattern and _count(folded(text), self.word_pattern)
        )

    @property
    def word_pattern(self) -> str | None:
        words = (*self.words, *(INSULTS if self.insults else ()))
        return pattern(words) if words else None

    @property
    def all_patterns(self) -> tuple[str, ...]:
        return tuple(self.patterns)


def _count(text: str, expression: str) -> int:
    import polars as pl

    return int(pl.Series([text], dtype=pl.String).str.count_matches(expression).item() or 0)


@lru_cache(maxsize=64)
def _literal(mask: str) -> str:
    return mask.replace("$", "$$")


def _run(text: str, settings: Banned, _: About) -> Said:
    import polars as pl

    if not settings._hit(text):
        return Said(text)
    if settings.do == "mask":
        words = settings.word_pattern
        shown = pl.Series([text], dtype=pl.String)
        for one in (*settings.all_patterns, *([words] if words else [])):
            shown = shown.str.replace_all(one, _literal(settings.mask))
        masked = str(shown.item())
        if not settings._hit(masked):
            return Said(masked, notes=("banned",))
    # a word in another Unicode form has no place in the text as it is written, so it cannot be masked
    return Said(text, "the answer holds something that is banned.", ("banned",))


def _inlined(settings: Banned, read: Callable[[str], str]) -> Banned:
    if settings.file is None:
        return settings
    lines = [line.strip() for line in read(settings.file).splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    plain = {**settings.plain(), "words": [*settings.words, *words], "file": None}
    return Banned.model_validate(plain)


banned = Step(
    "banned",
    1,
    Banned,
    "Answers with words or patterns of a list are refused, or those masked.",
    _run,
    _inlined,
)
