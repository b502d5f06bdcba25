"""In which ways each of many texts may hold something private, by one compiled look at their bytes (scan.c), before any becomes a
string of Python:

    ways(texts, kinds)     bits of WAYS, and SURE, [T]
    names(bits)            the ways among them

A bit that is not there is a promise: the way finds nothing in the text. SURE promises less: where it is missing, a number in the
text counts only if it stands elsewhere in the record where it is sure. A bit that is there promises nothing. Where nothing is
compiled, the sieves of find.py do the same, all of them over every text, and let more through.

Not here: what is found (find.py). The tables are made of find.py's own, so that what is added there is looked for here too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import polars as pl
import pyarrow as pa

from luthier.data import compiled
from luthier.data.digests import bytes_of
from luthier.data.opened import some, strings
from luthier.data.phrases import machine

from . import checks, national, numbers, phones, secrets
from .find import VERSIONS, WAYS, sieves
from .readable import Readable, odd, table

BITS = {name: 1 << n for n, name in enumerate(WAYS)}
SURE = 1 << len(WAYS)
COUNTS = SURE | BITS["lettered"]
"""Where none of these is in a record, no number of it counts."""
ROUGH = np.uint8(BITS["lettered"] | BITS["key"])
"""Ways of which scan.c sees only that there may be something for the sieve."""
CARD, PHONE, FRENCH, STRONG, WEAK = 1, 2, 4, 8, 16
NOTHING, STRANGE = 1, 2
STRANGE_LETTERS = "\u0130\u0131\u017f\u212a"
"""Letters beyond ASCII that are equal to one of ASCII where case does not matter."""
LONGEST_GROUP = 19
SIGNS = " ().-/"
AROUND, MOST_DIGITS = 48 + 1 + 16, 20
COUNTED, NAMED = 1, 2
"""Of an open number, as scan.c says it: its layout has a row that counts without a name; a name may stand near."""
BEFORE_CAPITAL = 2
"""Of a hint that says something only before a capital or a digit."""


def names(bits: int) -> list[str]:
    return [name for name, bit in BITS.items() if bits & bit]


def ways(
    texts: pl.Series,
    kinds: Set[str],
    told: tuple[np.ndarray, np.ndarray] | None = None,
    wide: np.ndarray | None = None,
    digits: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 [T]; a text that is null holds nothing. `told` are their bytes as in Opened; `wide` are texts with characters beyond ASCII and
    `digits` those with digits, all where it is not said."""
    digits = np.ones(len(texts), bool) if digits is None else digits
    found = _compiled(*(told or bytes_of(texts.to_arrow())), kinds)
    if found is None:
        return _plainly(texts, kinds, np.ones(len(texts), bool) if wide is None else wide, digits)
    rough = np.flatnonzero(found & ROUGH)
    if len(rough):
        given = strings(texts, rough)
        plain = [Readable(text).plain for text in given]
        folded = np.array([one != text for one, text in zip(plain, given, strict=True)], bool)
        fine = _sieved(pl.Series(plain, dtype=pl.String), kinds, digits[rough] | folded, found[rough])
        found[rough] = (found[rough] & ~ROUGH) | (fine & ROUGH)
    return found


def _plainly(texts: pl.Series, kinds: Set[str], wide: np.ndarray, digits: np.ndarray) -> np.ndarray:
    every = np.full(len(texts), 0xFF, np.uint8)
    found = _sieved(texts, kinds, digits, every)
    places = np.flatnonzero(wide)
    places = places[some(texts, places).str.contains(odd()).fill_null(False).to_numpy()]
    if len(places):
        plain = pl.Series([Readable(text).plain for text in strings(texts, places)], dtype=pl.String)
        found[places] = _sieved(plain, kinds, np.ones(len(plain), bool), every[places])
    found[(found & BITS["numbers"]) != 0] |= SURE
    return found


def _sieved(texts: pl.Series, kinds: Set[str], digits: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The bits of those ways whose sieve lets a text through; it is not asked of texts without this bit."""
    found = np.zeros(len(texts), np.uint8)
    for name, way in sieves(kinds).items():
        where = (asked & BITS[name]) != 0
        places = np.flatnonzero(where & digits if way.digits else where)
        if len(places):
            few = texts if len(places) == len(texts) else some(texts, places)
            found[places[few.str.contains(way.sieve()).fill_null(False).to_numpy()]] |= BITS[name]
    return found


def _compiled(told: np.ndarray, edges: np.ndarray, kinds: Set[str]) -> np.ndarray | None:
    """As `ways`, but what is of ROUGH more than a sieve lets through. None where nothing is compiled."""
    if (library := compiled.library()) is None:
        return None
    told, edges = np.ascontiguousarray(told), np.ascontiguousarray(edges, np.int64)
    n = len(edges) - 1
    room = 2 * n + 64
    longest = int(np.diff(edges).max(initial=0))
    found = np.empty(n, np.uint8)
    open_ = _Open(np.empty((room, 4), np.int64), np.empty((room, MOST_DIGITS), np.uint8), np.empty(room * AROUND, np.uint8), np.empty(room + 1, np.int64))  # fmt: skip
    (letters, steps, ends), threes = _hints()
    trie, fits, rows = _trie(frozenset(kinds))
    said, said_edges = _words(tuple(word for word in phones.WORDS if word.isascii()))
    versions, version_edges = _words(VERSIONS)
    wanted = sum(BITS[name] for name in sieves(kinds))
    kept = compiled.call(
        library.luthier_private, told, edges, n, wanted, _forms(), letters, steps, ends, steps.shape[1], threes, trie, fits, _codes(),
        _ibans(), said, said_edges, len(said_edges) - 1, versions, version_edges, len(version_edges) - 1, np.empty(longest, np.uint8),
        open_.about, open_.digits, open_.around, open_.edges, room, found,
    )  # fmt: skip
    if kept:
        found[open_.counting(kept, rows)] |= SURE
    return found


@dataclass
class _Open:
    """Numbers whose checks are known here alone: as scan.c keeps them."""

    about: np.ndarray
    digits: np.ndarray
    around: np.ndarray
    edges: np.ndarray

    def counting(self, n: int, rows: Sequence[Sequence[numbers.Row]]) -> list[int]:
        """The texts of those that count by themselves, as far as digits and names tell."""
        buffers = [None, pa.py_buffer(self.edges[: n + 1]), pa.py_buffer(self.around)]
        near = pl.Series(pl.from_arrow(pa.Array.from_buffers(pa.large_string(), n, buffers)))
        text, node, flags, size = self.about[:n].T
        named = near.str.contains(_names()).to_numpy() | (flags & NAMED != 0)
        asked = np.flatnonzero((flags & COUNTED != 0) | named)
        digits = self.digits.tobytes().decode("ascii", "replace")
        some = zip(
            *(one[asked].tolist() for one in (text, node, flags & COUNTED, named, size)),
            asked.tolist(),
            strict=True,
        )
        return [
            text
            for text, node, counts, name, size, k in some
            if any(
                _holds(row, digits[k * MOST_DIGITS : k * MOST_DIGITS + size], counts, name)
                for row in rows[node]
            )
        ]


def _holds(row: numbers.Row, digits: str, counts: int, named: bool) -> bool:
    """`counts` is said of the layout, which may have rows of both sorts: one that is weak needs a name all the same."""
    if row.kind == "card":
        return counts != 0 and checks.card(digits)
    return (
        row.national is not None and (named or (counts != 0 and not row.weak)) and row.national.check(digits)
    )


@lru_cache(maxsize=1)
def _forms() -> np.ndarray:
    """By code point: the plain character, 0 for itself, NOTHING or STRANGE."""
    forms = np.zeros(sys.maxunicode + 1, np.uint8)
    for point, plain in table().items():
        forms[point] = NOTHING if plain is None else ord(plain)
    forms[[ord(letter) for letter in STRANGE_LETTERS]] = STRANGE
    return forms


@lru_cache(maxsize=1)
def _hints() -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Of what a text with a key has, in any case: (the machine, by the lowest five bits of three letters whether one begins so). Hints
    of two letters are found by what follows, a long word."""
    capital = {one.hint.lower() for one in secrets.SECRETS if one.rest.startswith("[A-Z0-9]{16}")}
    hints = {one.hint.lower() for one in secrets.SECRETS if len(one.hint) > 2}
    hints |= {"eyj", "private key", "://", *secrets.NAMED}
    threes = np.zeros(1 << 15, np.uint8)
    for a, b, c in (hint.encode()[:3] for hint in hints):
        threes[(a & 31) << 10 | (b & 31) << 5 | c & 31] = 1
    return machine({hint: BEFORE_CAPITAL if hint in capital else 1 for hint in sorted(hints)}), threes


@lru_cache(maxsize=1)
def _names() -> str:
    """Whatever an id with a layout is called, as Rust reads it: at least what each row asks for."""
    names = "|".join(sorted({one.names for one in national.NATIONAL if one.layouts}))
    return f"(?i:{names}|{national.ANY_NAME})"


@lru_cache(maxsize=2)
def _words(words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    told = [word.encode() for word in words]
    return np.frombuffer(b"".join(told), np.uint8), np.cumsum([0, *map(len, told)], dtype=np.int64)


@lru_cache(maxsize=1)
def _codes() -> np.ndarray:
    """By the first three digits: how many are the country's code, fewest and most that follow; zeros where there is none."""
    codes = np.zeros((1000, 3), np.uint8)
    for n in range(1000):
        if (code := phones.country_code(f"{n:03}")) is not None:
            codes[n] = len(code), *phones.lengths(code)
    return codes


@lru_cache(maxsize=1)
def _ibans() -> np.ndarray:
    lengths = np.zeros(26 * 26, np.uint8)
    for country, length in checks.IBAN_LENGTHS.items():
        first, second = country.encode()
        lengths[26 * (first - 65) + second - 65] = length
    return lengths


@lru_cache(maxsize=16)
def _trie(kinds: frozenset[str]) -> tuple[np.ndarray, np.ndarray, list[list[numbers.Row]]]:
    """(from a node by the size of a group or the sign between to the next one, what a layout that ends there is, its rows)."""
    width = LONGEST_GROUP + 1 + len(SIGNS)
    steps: list[list[int]] = [[0] * width]
    ended: list[list[numbers.Row]] = [[]]
    for layout, rows in numbers.layouts().items():
        node = 0
        signs = [[int(one)] if one.isdigit() else [LONGEST_GROUP + 1 + SIGNS.index(c) for c in one] for one in numbers.pieces_of(layout)]  # fmt: skip
        for sign in chain.from_iterable(signs):
            if not steps[node][sign]:
                steps[node][sign] = len(steps)
                steps.append([0] * width)
                ended.append([])
            node = steps[node][sign]
        ended[node] = [row for row in rows if row.kind in kinds]
    fits = [np.bitwise_or.reduce([0, *map(_fits, rows)]) for rows in ended]
    return np.array(steps, np.uint16), np.array(fits, np.uint8), ended


def _fits(row: numbers.Row) -> int:
    if row.kind == "card":
        return CARD
    if row.kind == "phone":
        return 0 if row.weak else FRENCH if row.french else PHONE
    return WEAK if row.weak else STRONG
