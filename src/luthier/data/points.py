"""What Unicode says of characters, by code point: regular expressions for one character each, as bits of a table that is filled as
characters are met.

    points = Points({"letters": r"[\\p{L}\\p{M}]", "digits": r"\\p{Nd}"})
    points.of(rows, places)        which of these kinds each text has, as bits                     uint8 [n]
    points.bit("digits")           2

Not here: kinds of bytes, which tell enough of ASCII (opened.marks).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from . import compiled

if TYPE_CHECKING:
    from .opened import Opened

NOT_MET = 1 << 7
BLOCK = 256


class Points:
    """At most seven kinds by name; a kind is a bit, in this order."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        assert len(kinds) < 8
        self._kinds = dict(kinds)

    def bit(self, *names: str) -> int:
        return sum(1 << list(self._kinds).index(name) for name in names)

    @cached_property
    def table(self) -> np.ndarray:
        """Kinds by code point; NOT_MET where nobody has asked."""
        table = np.full(sys.maxunicode + 1, NOT_MET, np.uint8)
        self._meet(table, np.arange(128))
        return table

    def codes(self, texts: pl.Series) -> np.ndarray:
        """All characters of the texts one after the other, uint32; what they are is known after that."""
        codes = np.frombuffer("".join(texts.to_list()).encode("utf-32-le"), "<u4")
        if len(new := np.unique(codes[self.table[codes] == NOT_MET] // BLOCK)):
            near = (new[:, None] * BLOCK + np.arange(BLOCK)).ravel()  # characters of one script come together
            self._meet(self.table, near[(near < 0xD800) | (near > 0xDFFF)])
        return codes

    def of(self, rows: Opened, places: np.ndarray, *, ascii_too: bool = True) -> np.ndarray:
        """Which kinds the characters of these texts are of, as bits, uint8 [n]. Those of ASCII may be left out where `ascii_too` is False."""
        found = np.zeros(len(places), np.uint8)
        if not len(places):
            return found
        if (library := compiled.library()) is not None:
            told, edges = rows.bytes
            compiled.call(
                library.luthier_points,
                told,
                edges,
                places,
                len(places),
                self.table,
                int(not ascii_too),
                found,
            )
            if not len(again := np.flatnonzero(found & NOT_MET)):
                return found
        else:
            again = np.arange(len(places))
        texts = rows.some(places[again])
        codes = self.codes(texts)
        edges = np.concatenate([[0], np.cumsum(texts.str.len_chars().to_numpy(), dtype=np.int64)])
        full = np.flatnonzero(np.diff(edges))  # reduceat takes an empty stretch for its neighbour
        found[again] = 0
        if len(full):
            found[again[full]] = np.bitwise_or.reduceat(self.table[codes], edges[:-1][full])
        return found

    def _meet(self, table: np.ndarray, codes: np.ndarray) -> None:
        if len(codes):
            characters = pl.Series(list(map(chr, codes.tolist())), dtype=pl.String)
            found = [
                characters.str.contains(kind).to_numpy().astype(np.uint8) << k
                for k, kind in enumerate(self._kinds.values())
            ]
            table[codes] = np.bitwise_or.reduce(found)
