"""normalize: one Unicode form, no invisible characters, plain whitespace. It edits and never removes a row.

Kept on purpose: zero-width joiners and non-joiners (U+200C, U+200D: Persian, Indic scripts and emoji need them).
Gone: other zero-width characters, control characters except tab and line breaks, and the bidirectional overrides
that can make a text read differently from what it is (Boucher and Anderson, "Trojan Source", 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from luthier.data.opened import Opened
    from luthier.data.points import Points

    Step = tuple[str, Callable[[pl.Expr], pl.Expr], Callable[[Opened], np.ndarray]]

INVISIBLE = "\u00ad\u180e\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069"
GONE = r"[\p{Cc}" + INVISIBLE + r"&&[^\t\n\r\x{85}]]"

# What NFC may change (UAX 15, NFC_Quick_Check): marks, parts of Hangul and Kirat Rai, what stands for other characters, and
# what is too new for the expression to know, but perhaps not for the normalization. Whole blocks, where a few characters of
# them do; a test holds this against the normalization itself.
COMPOSED = (
    r"[\p{M}\p{Cn}\x{374}\x{37e}\x{387}\x{958}-\x{95f}\x{9dc}-\x{9df}\x{a33}\x{a36}\x{a59}-\x{a5e}\x{b5c}\x{b5d}\x{f43}-\x{f69}"
    r"\x{1100}-\x{11ff}\x{1f00}-\x{1fff}\x{2000}\x{2001}\x{2126}\x{212a}\x{212b}\x{2329}\x{232a}\x{2adc}\x{f900}-\x{faff}"
    r"\x{fb1d}-\x{fb4e}\x{16d60}-\x{16d6f}\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1f}]"
)


class Normalize(Spec):
    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """The Unicode form: NFC keeps the look, NFKC also folds variants such as ligatures and full-width letters."""
    invisible: bool = True
    """Whether control and zero-width characters are taken out."""
    whitespace: Literal["collapse", "trim", "keep"] = "collapse"
    """`collapse` makes runs of blanks one space, `trim` only strips line ends (for code), `keep` leaves all as it is."""
    newlines: Literal["keep", "space"] = "keep"
    """Whether line breaks stay (at most one blank line in a row) or become spaces."""


def _run(rows: Opened, settings: Normalize) -> Said:
    """A step looks only at texts that have one of its kinds of bytes, which are few."""
    import numpy as np
    import polars as pl

    from luthier.data.opened import strings

    steps = _steps(settings)
    can = [can_change(rows) for _, _, can_change in steps]
    places = np.flatnonzero(np.logical_or.reduce([np.zeros(len(rows.text), bool), *can]))
    told = strings(rows.text, places)
    touched: set[int] = set()
    why = []
    for (what, step, _), mask in zip(steps, can, strict=True):
        # What an earlier step has changed may be work for this one.
        mine = [k for k, may in enumerate(mask[places].tolist()) if may or k in touched]
        after = _applied(step, pl.Series([told[k] for k in mine], dtype=pl.String)).to_list() if mine else []
        changed = [(k, text) for k, text in zip(mine, after, strict=True) if text != told[k]]
        if changed:
            why.append((what, places[[k for k, _ in changed]]))
            touched |= {k for k, _ in changed}
            for k, text in changed:
                told[k] = text
    edited = sorted(touched)
    texts = rows.text
    if edited:
        texts = texts.clone().scatter(places[edited], [told[k] for k in edited])
    label = rows.label
    cleaned = _clean(label, settings) if label.null_count() < len(label) else label
    if not edited and (cleaned is label or not label.ne_missing(cleaned).any()):
        return Said()
    said = cleaned.to_arrow().cast("string")
    return Said(text=texts, edited=places[edited], label=said, changed=rows.named(why))


def _clean(text: pl.Series, settings: Normalize) -> pl.Series:
    def all_of(told: pl.Expr) -> pl.Expr:
        for _, step, _ in _steps(settings):
            told = step(told)
        return told

    return _applied(all_of, text)


def _applied(step: Callable[[pl.Expr], pl.Expr], text: pl.Series) -> pl.Series:
    """All of a step's expressions at once: what Polars takes for a call is the same for one and for five."""
    import polars as pl

    return pl.DataFrame({"text": text}).select(step(pl.col("text"))).to_series()


def _steps(settings: Normalize) -> list[Step]:
    """(what, how, texts in which it can find something)"""
    from luthier.data import opened

    steps: list[Step] = []
    if settings.invisible:
        steps.append(("invisible characters", _invisible, _has_invisible))
    if (form := settings.form) != "none":
        can_change = _not_composed if form == "NFC" else lambda rows: rows.have(opened.NOT_ASCII)
        steps.append((f"Unicode {form}", lambda text: text.str.normalize(form), can_change))
    if settings.whitespace != "keep" or settings.newlines == "space":
        steps.append(
            (
                "whitespace",
                lambda text: _whitespace(text, settings),
                partial(_has_whitespace, settings=settings),
            )
        )
    return steps


@cache
def _points() -> Points:
    from luthier.data.points import Points

    return Points({"invisible": GONE, "composed": COMPOSED})


def _has_invisible(rows: Opened) -> np.ndarray:
    import numpy as np

    from luthier.data import opened

    control = rows.have(opened.CONTROL)
    found = control | rows.have(opened.NOT_ASCII)
    for some, ascii_too in ((control, True), (found & ~control, False)):
        places = np.flatnonzero(some)
        kinds = _points().of(rows, places, ascii_too=ascii_too)
        found[places] = (kinds & _points().bit("invisible")) != 0
    return found


def _not_composed(rows: Opened) -> np.ndarray:
    """Texts that have a character with which NFC may do something. Below U+0300 there is none."""
    import numpy as np

    from luthier.data import opened

    found = rows.have(opened.FROM_0300)
    places = np.flatnonzero(found)
    kinds = _points().of(rows, places, ascii_too=False)
    found[places] = (kinds & _points().bit("composed")) != 0
    return found


def _has_whitespace(rows: Opened, settings: Normalize) -> np.ndarray:
    """Texts that are not words with single blanks between, and line breaks where they may stay: no two blanks side by side, none at
    an end. It may take a text for one that is none."""
    import numpy as np

    from luthier.data import compiled, opened

    told, edges = rows.bytes
    special = rows.have(opened.TAB, opened.BREAK, opened.CONTROL, opened.NOT_ASCII)
    if (library := compiled.library()) is not None:
        found = np.zeros(len(special), np.uint8)
        compiled.call(library.luthier_untidy, told, edges, len(special), special.view(np.uint8), found)
        untidy = found != 0
        return untidy | rows.have(opened.BREAK) if settings.newlines == "space" else untidy
    if not len(told):
        return special
    blank = told == 32
    double = np.flatnonzero(blank[1:] & blank[:-1])
    special[np.searchsorted(edges, double, side="right") - 1] = True
    full = np.flatnonzero(np.diff(edges))
    special[full[blank[edges[:-1][full]] | blank[edges[1:][full] - 1]]] = True
    return special


def _invisible(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(GONE, "")


def _whitespace(text: pl.Expr, settings: Normalize) -> pl.Expr:
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


normalize = RowRule("normalize", 1, Normalize, "Puts text into one Unicode form and plain whitespace.", _run)
