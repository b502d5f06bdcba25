"""normalize: one Unicode form, no invisible characters, plain whitespace. It edits and never removes a row.

Kept on purpose: zero-width joiners and non-joiners (U+200C, U+200D: Persian, Indic scripts and emoji need them).
Gone: other zero-width characters, control characters except tab and line breaks, and the bidirectional overrides
that can make a text read differently from what it is (Boucher and Anderson, "Trojan Source", 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from luthier.core.spec import Spec

from .rule import Mapped, MapRule

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

INVISIBLE = "\u00ad\u180e\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069"


class Normalize(Spec):
    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """The Unicode form: NFC keeps the look, NFKC also folds variants such as ligatures and full-width letters."""
    invisible: bool = True
    """Whether control and zero-width characters are taken out."""
    whitespace: Literal["collapse", "trim", "keep"] = "collapse"
    """`collapse` makes runs of blanks one space, `trim` only strips line ends (for code), `keep` leaves all as it is."""
    newlines: Literal["keep", "space"] = "keep"
    """Whether line breaks stay (at most one blank line in a row) or become spaces."""


def _function(batch: pa.RecordBatch, settings: Normalize) -> Mapped:
    from luthier.data.records import contents, refill, why_rows

    before = contents(batch)
    text = before
    why: list[tuple[str, pl.Series]] = []
    for what, step in _steps(settings):
        after = step(text)
        why.append((what, after.ne_missing(text)))
        text = after
    return Mapped(
        refill(batch, text, label=lambda labels: _clean(labels, settings)), changed=why_rows(batch, why)
    )


def _clean(text: pl.Series, settings: Normalize) -> pl.Series:
    for _, step in _steps(settings):
        text = step(text)
    return text


def _steps(settings: Normalize) -> list[tuple[str, Callable[[pl.Series], pl.Series]]]:
    steps: list[tuple[str, Callable[[pl.Series], pl.Series]]] = []
    if settings.invisible:
        steps.append(("invisible characters", _invisible))
    if (form := settings.form) != "none":
        steps.append((f"Unicode {form}", lambda text: text.str.normalize(form)))
    if settings.whitespace != "keep" or settings.newlines == "space":
        steps.append(("whitespace", lambda text: _whitespace(text, settings)))
    return steps


def _invisible(text: pl.Series) -> pl.Series:
    return text.str.replace_all(r"[\p{Cc}" + INVISIBLE + r"&&[^\t\n\r\x{85}]]", "")


def _whitespace(text: pl.Series, settings: Normalize) -> pl.Series:
    text = text.str.replace_all(r"\r\n|[\r\x{85}\x{2028}\x{2029}]", "\n")
    if settings.newlines == "space":
        text = text.str.replace_all(r"\s*\n\s*", " ")
    if settings.whitespace == "collapse":
        # the alternatives skip single plain spaces, which are nearly all: four times faster than \s+
        text = text.str.replace_all(r"[\s--\n]{2,}|[\s--[\n ]]", " ").str.replace_all(r" ?\n ?", "\n")
    elif settings.whitespace == "trim":
        text = text.str.replace_all(r"[\s--\n]+\n", "\n")
    if settings.whitespace == "keep":
        return text
    text = text.str.replace_all(r"\n{3,}", "\n\n")
    return (
        text.str.strip_chars()
        if settings.whitespace == "collapse"
        else text.str.strip_chars("\n").str.strip_chars_end()
    )


normalize = MapRule(
    "normalize", 1, Normalize, "Puts text into one Unicode form and plain whitespace.", _function
)
