"""Small edits of a text that leave its meaning nearly always alone. `share` is how many of the words are touched, at least
one; blanks and line breaks stay where they are.

    swap      two neighbouring words change places       (Wei and Zou 2019, "EDA", random swap)
    delete    words are left out                         (the same, random deletion)
    synonym   words become another from a given list     (the same, with the user's own words for WordNet's)
    typo      a letter is doubled, lost, swapped with the next or hit beside on the keyboard   (Belinkov and Bisk 2018)
    case      words in capitals, small letters, or with a capital first
    counterpart  words of given pairs change for each other, everywhere in the text     (Zhao et al. 2018, gender swapping)

Each gives None where it finds nothing to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from luthier.data.draws import Draw

_WORD = re.compile(r"\S+")
_LETTERS = re.compile(r"[^\W\d_]{3,}")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    letter: "".join(row[max(0, i - 1) : i] + row[i + 1 : i + 2])
    for row in _ROWS
    for i, letter in enumerate(row)
}


def swap(text: str, draw: Draw, share: float) -> str | None:
    """
    >>> sorted(swap("a b", Draw("x"), 0.1).split()), swap("alone", Draw("x"), 0.1)
    (['a', 'b'], None)
    """
    words = list(_WORD.finditer(text))
    if len(words) < 2:
        return None
    told = [word.group() for word in words]
    for at in draw.places(len(told) - 1, _some(len(told) - 1, share)):
        told[at], told[at + 1] = told[at + 1], told[at]
    return _filled(text, words, told)


def delete(text: str, draw: Draw, share: float) -> str | None:
    """Never all of them.

    >>> len(delete("a b c d e f g h i j", Draw("x"), 0.2).split())
    8
    """
    words = list(_WORD.finditer(text))
    n = min(_some(len(words), share), len(words) - 1)
    if n < 1:
        return None
    gone = set(draw.places(len(words), n))
    kept = "".join(
        text[(words[i - 1].end() if i else 0) : word.end()] for i, word in enumerate(words) if i not in gone
    )
    return kept.strip(" ") + text[words[-1].end() :]


def synonym(text: str, draw: Draw, share: float, others: Mapping[str, Sequence[str]]) -> str | None:
    """Capitals at the front of a word stay.

    >>> synonym("Big dogs", Draw("x"), 1.0, {"big": ["large"]})
    'Large dogs'
    """
    words = [word for word in _LETTERS.finditer(text) if word.group().casefold() in others]
    if not words:
        return None
    chosen = [words[i] for i in draw.places(len(words), _some(len(words), share))]
    told = [_like(word.group(), draw.one_of(others[word.group().casefold()])) for word in chosen]
    return _filled(text, chosen, told)


def typo(text: str, draw: Draw, share: float) -> str | None:
    """
    >>> typo("hello", Draw("x"), 0.1) != "hello", typo("1 2", Draw("x"), 1.0)
    (True, None)
    """
    words = list(_LETTERS.finditer(text))
    if not words:
        return None
    chosen = [words[i] for i in draw.places(len(words), _some(len(words), share))]
    return _filled(text, chosen, [_mistyped(word.group(), draw) for word in chosen])


def case(text: str, draw: Draw, share: float) -> str | None:
    words = list(_LETTERS.finditer(text))
    chosen = [words[i] for i in draw.places(len(words), _some(len(words), share))] if words else []
    told = [draw.one_of((str.upper, str.lower, str.capitalize))(word.group()) for word in chosen]
    changed = _filled(text, chosen, told)
    return None if changed == text else changed


def counterpart(text: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Whole words, whatever their case; all of them, so that a text stays of one piece.

    >>> counterpart("He said his name.", [("he", "she"), ("his", "her")])
    'She said her name.'
    """
    other = {a.casefold(): b for a, b in pairs} | {b.casefold(): a for a, b in pairs}
    found = re.compile(
        r"(?<!\w)(" + "|".join(sorted(map(re.escape, other), key=len, reverse=True)) + r")(?!\w)", re.I
    )
    changed = found.sub(lambda word: _like(word.group(), other[word.group().casefold()]), text)
    return None if changed == text else changed


def _some(n: int, share: float) -> int:
    """At least one, at most all."""
    return max(1, min(n, round(n * share)))


def _filled(text: str, places: Sequence[re.Match[str]], told: Sequence[str]) -> str:
    out, at = [], 0
    for place, word in zip(places, told, strict=True):
        out += [text[at : place.start()], word]
        at = place.end()
    return "".join([*out, text[at:]])


def _like(word: str, other: str) -> str:
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def _mistyped(word: str, draw: Draw) -> str:
    at = draw.below(len(word) - 1)
    a, b = word[at], word[at + 1]
    ways = [word[:at] + a + word[at:], word[:at] + word[at + 1 :]]
    if a != b:
        ways.append(word[:at] + b + a + word[at + 2 :])
    if beside := _BESIDE.get(a.lower()):
        hit = draw.one_of(beside)
        ways.append(word[:at] + (hit.upper() if a.isupper() else hit) + word[at + 1 :])
    return draw.one_of(ways)
