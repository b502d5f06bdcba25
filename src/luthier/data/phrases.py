"""Which texts have one of some phrases near their beginning, whatever the case: one pass over the bytes for all phrases (Aho and
Corasick, 1975), where there is a compiled function, and Polars elsewhere.

Not here: what phrases a rule looks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import polars as pl

from . import compiled
from .opened import Opened

LATIN_ENDS = "\u0180"


class Phrases:
    """`phrases` are in lower case, of letters before LATIN_ENDS; `as_ascii` says what else a character may stand for, such as a curly apostrophe for a plain one."""

    def __init__(self, phrases: Sequence[str], most: int, as_ascii: tuple[str, str] = ("’", "'")) -> None:
        self._phrases, self._most, self._as_ascii = list(phrases), most, as_ascii

    def within(self, rows: Opened, places: np.ndarray) -> np.ndarray:
        """Whether one stands in the first `most` characters of each of these texts, bool [n]."""
        if (library := compiled.library()) is None or not len(places):
            return self._plainly(rows.some(places))
        told, edges = rows.bytes
        letters, steps, ends = self._machine
        found = np.zeros(len(places), np.uint8)
        as_ascii, also = map(ord, self._as_ascii), self._wide
        compiled.call(
            library.luthier_phrases, told, edges, places, len(places), self._most, steps.shape[1], letters, steps, ends, *as_ascii,
            also, len(also), found,
        )  # fmt: skip
        out = found == 1
        if len(wide := np.flatnonzero(found == 2)):
            out[wide] = self._plainly(rows.some(places[wide]))
        return out

    def _plainly(self, texts: pl.Series) -> np.ndarray:
        if not len(texts):
            return np.zeros(0, bool)
        start = pl.col("text").str.slice(0, self._most).str.to_lowercase()
        found = start.str.replace_all(*self._as_ascii, literal=True).str.contains_any(self._phrases)
        return pl.DataFrame({"text": texts}).select(found).to_series().to_numpy()

    @cached_property
    def _wide(self) -> np.ndarray:
        """Characters that the machine does not know and that may be a part of a phrase, uint32: in lower case they are several, or they
        stand far from it. None above U+2200 has such a small letter."""
        letters = set("".join(self._phrases))
        assert max(letters) < LATIN_ENDS
        known = self._machine[0]
        points = (p for p in range(0x80, 0x2200) if p >= len(known) or not known[p])
        wide = [p for p in points if any(c.isascii() or c in letters for c in chr(p).lower())]
        return np.array(wide, np.uint32)

    @cached_property
    def _machine(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return machine(dict.fromkeys(self._phrases, 1))


def machine(phrases: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the number of each letter before LATIN_ENDS, of both cases; from a state by a letter's number to the next; the marks of phrases
    that have ended in a state), of phrases in lower case and their marks, bits."""
    letters = np.zeros(ord(LATIN_ENDS), np.uint8)
    number_of = {letter: number for number, letter in enumerate(sorted(set("".join(phrases))), 1)}
    for point in range(len(letters)):
        letters[point] = number_of.get(chr(point).lower(), 0)
    width = int(letters.max()) + 1
    steps, ends = [[0] * width], [0]
    for phrase, mark in phrases.items():
        state = 0
        for letter in phrase:
            number = int(letters[ord(letter)])
            if not steps[state][number]:
                steps[state][number] = len(steps)
                steps.append([0] * width)
                ends.append(0)
            state = steps[state][number]
        ends[state] |= mark
    assert len(steps) < 1 << 16
    back = [0] * len(steps)
    waiting = deque(filter(None, steps[0]))
    while waiting:
        state = waiting.popleft()
        ends[state] |= ends[back[state]]
        for number in range(width):
            other = steps[back[state]][number]
            if following := steps[state][number]:
                back[following] = other
                waiting.append(following)
            else:
                steps[state][number] = other
    return letters, np.array(steps, np.uint16), np.array(ends, np.uint8)
