"""The form of a text that is searched: digits, letters and signs of every width as the plain ones, invisible characters
gone, so that "４１１１" and an address with a zero-width blank inside are found as what a reader sees.

Not here: letters of other scripts that only look alike, and words for signs ("name at example dot com").
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

INVISIBLE = (
    (0xAD, 0xAD),
    (0x34F, 0x34F),
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180E),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),
    (0xE0100, 0xE01EF),
)
"""Ranges of characters that take no room on a page."""
SIGNS = {
    "-": (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D),
    " ": (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000),
    ".": (0x3002, 0xFE52, 0xFF0E, 0xFF61),
}
_STYLED = ((0xFE50, 0xFE6F), (0xFF01, 0xFF5E), (0x1D400, 0x1D7FF))
"""Small, wide and mathematical forms of plain characters."""

FEW = 32


@lru_cache(maxsize=1)
def table() -> dict[int, str | None]:
    """From code point to the plain character, None for what is left out. One character never becomes two."""
    found: dict[int, str | None] = {}
    for point in range(0x80, 0x1FC00):
        character = chr(point)
        if unicodedata.category(character) == "Nd":
            found[point] = str(unicodedata.decimal(character))
    for first, last in _STYLED:
        for point in range(first, last + 1):
            plain = unicodedata.normalize("NFKC", chr(point))
            if len(plain) == 1 and plain.isascii():
                found[point] = plain
    for sign, points in SIGNS.items():
        found |= dict.fromkeys(points, sign)
    for first, last in INVISIBLE:
        found |= dict.fromkeys(range(first, last + 1))
    return found


@lru_cache(maxsize=1)
def odd() -> str:
    """A regular expression for one character that `table` knows, as Rust reads it."""
    points = sorted(table())
    starts = [p for p in points if p - 1 not in table()]
    ends = [p for p in points if p + 1 not in table()]
    return "[" + "".join(f"\\x{{{a:x}}}-\\x{{{b:x}}}" for a, b in zip(starts, ends, strict=True)) + "]"


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return frozenset(map(chr, table()))


def _plain(text: str) -> str:
    """`text.translate(table())`. What is put in is ASCII, so it does not matter which character goes first."""
    known = table()
    found = _known().intersection(text)
    if len(found) > FEW:
        return text.translate(known)
    for character in found:  # a pass each: translate takes every character of the text for a possible error
        text = text.replace(character, known[ord(character)] or "")
    return text


class Readable:
    """`plain` is what is searched; `place` leads from a span in it to the span in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.plain = text if text.isascii() else _plain(text)
        self._places: list[int] | None = None

    def place(self, start: int, end: int) -> tuple[int, int]:
        """
        >>> Readable("a\\u200bb７").plain, Readable("a\\u200bb７").place(1, 3)
        ('ab7', (2, 4))
        """
        if len(self.plain) == len(self.text):
            return start, end
        if self._places is None:
            known = table()
            self._places = [at for at, c in enumerate(self.text) if known.get(ord(c), c) is not None]
        return self._places[start], self._places[end - 1] + 1
