"""toxicity: rows with insults go. Whole words of short lists of our own, in four languages, and of the recipe's.

A list is blunt: it finds an insult that is quoted, and finds none that is written "1d10t" or that needs no such word. Words
with a harmless second meaning in any of the languages are left out. Compared are words in one Unicode form (NFKC) without case, so that
"ARSCHLÖCHER" and full-width letters are found. The rejected answer of a pair is not looked at: being bad is its purpose.

Not here: hate and threats without such words, which need a model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened

# Insults and slurs, as short as is useful. English, German, French, Spanish.
_LISTS = """
asshole, assholes, arsehole, bastard, bastards, bitch, bitches, bullshit, cocksucker, cunt, cunts,
dickhead, dipshit, douchebag, dumbass, faggot, faggots, fuck, fucked, fucker, fuckers, fucking,
fuckwit, idiot, idiots, imbecile, jackass, moron, morons, motherfucker, motherfuckers, nigger, niggers,
scumbag, shithead, shut up, slut, sluts, twat, wanker, wankers, whore, whores, arschloch, arschlöcher,
drecksack, dreckskerl, dumme sau, fick dich, fotze, halt die fresse, halt's maul, hurensohn,
hurensöhne, idioten, kanake, kanaken, miststück, missgeburt, schlampe, schlampen, schwachkopf,
schwuchtel, spast, spasti, vollidiot, vollidioten, vollpfosten, wichser, abruti, abrutie, bougnoule,
connard, connards, connasse, crétin, débile, enculé, enculés, fils de pute, ferme ta gueule, imbécile,
pédé, pétasse, pouffiasse, salaud, salauds, salope, salopes, ta gueule, trou du cul,
va te faire foutre, bastardo, cabrón, cabrones, cretino, gilipollas, hijo de puta, hijos de puta,
hijoputa, idiota, idiotas, imbécil, imbéciles, maricón, maricones, mierda, pendejo, pendejos,
vete a la mierda
"""
INSULTS = tuple(word.strip() for word in _LISTS.split(","))


class Toxicity(Spec):
    words: list[str] = Field(default_factory=list)
    """More words or phrases to look for, beside the lists of insults in English, German, French and Spanish."""
    at_least: int = Field(default=1, ge=1)
    """How many must be in a row before it goes; each time a word stands there counts."""
    on: Literal["user", "assistant", "all"] = "all"
    """Whose turns are read; a plain text counts as user, and `all` takes every turn but not the rejected answer of a pair."""

    @field_validator("words", mode="after")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        for n, word in enumerate(value):
            if not folded(word).strip():
                raise ValueError(
                    f"word {n + 1} of the list is blank; leave it out, or every row would hold it"
                )
        return value


def _run(rows: Opened, settings: Toxicity) -> Said:
    import numpy as np

    roles = {
        "user": ["user", "text"],
        "assistant": ["assistant"],
        "all": ["system", "user", "assistant", "text", "argument", "tool"],
    }
    read = np.flatnonzero(rows.says(*roles[settings.on]))
    found = np.zeros(len(rows.text), np.int64)
    found[read] = _counts(rows, read, pattern((*INSULTS, *settings.words)))
    counts = rows.per_row(found, "sum").astype(np.int64)
    most = settings.at_least
    why = {
        row: f"{counts[row]} words of the lists of insults, {most} or more"
        for row in np.flatnonzero(counts >= most).tolist()
    }
    told: dict[str, Any] = {"words": counts}
    return Said(removed=rows.reasons(why), counts=told)


def _counts(rows: Opened, places: np.ndarray, words: str) -> np.ndarray:
    """How often the words stand in each of these texts."""
    import numpy as np
    import polars as pl

    from luthier.data import opened

    texts = rows.text.gather(places)
    # The pattern is in small letters and ignores the case of ASCII; other texts are folded first.
    others = np.flatnonzero(rows.have(opened.NOT_ASCII)[places])
    if len(others):
        plain = pl.Series([folded(text) for text in texts.gather(others)], dtype=pl.String)
        texts = texts.clone().scatter(others.tolist(), plain)
    return texts.str.count_matches(words).to_numpy()


def folded(text: str) -> str:
    """One Unicode form, no case, no invisible characters.

    >>> folded("ＡRSCHLO\\u0308CHER"), folded("STRA\\u00dfE")
    ('arschlöcher', 'strasse')
    """
    text = unicodedata.normalize("NFKC", text)
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).casefold())


_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def pattern(words: Sequence[str]) -> str:
    """One regular expression, as Rust reads it; longer words first, blanks as any blanks."""
    return _pattern(tuple(sorted({" ".join(folded(word).split()) for word in words})))


@lru_cache(maxsize=16)
def _pattern(words: tuple[str, ...]) -> str:
    by_length = sorted(words, key=lambda word: (-len(word), word))
    return "(?i:" + "|".join(_whole(word) for word in by_length) + ")"


def _whole(word: str) -> str:
    """With the edges of a word where the script has them: between Chinese or Thai letters there are none."""
    written = r"\s+".join(re.escape(part) for part in word.split())
    left, right = (r"\b" if _has_edges(c) else "" for c in (word[0], word[-1]))
    return f"{left}{written}{right}"


def _has_edges(character: str) -> bool:
    return (character.isalnum() or character == "_") and not (
        "\u0e00" <= character <= "\u0eff"
        or "\u3040" <= character <= "\u9fff"
        or "\uac00" <= character <= "\ud7af"
    )


toxicity = RowRule("toxicity", 2, Toxicity, "Removes rows with insults.", _run)
