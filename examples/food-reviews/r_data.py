"""Read what R wrote for itself: the tables of a package's lazy-load database. Standard library only.

    data/Rdata.rdx   where each object stands in the other file
    data/Rdata.rdb   the objects, one compressed piece after the other

R's serialisation (R Internals, "Serialization Formats") is a tree of items, each with a number for its type. Read are
the types that a data frame is made of; anything else is an error, not a guess.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

NULL, SYMBOL, PAIRS, LOGICAL, INTEGER, REAL, STRINGS, LIST, TEXT = 254, 1, 2, 10, 13, 14, 16, 19, 9
REFERENCE, ALTERNATIVE, ENVIRONMENTS, NAMESPACE = 255, 238, (242, 253), 249
HAS_ATTRIBUTES, HAS_TAG = 0x200, 0x400
MISSING = -(2**31)


class Vector(list):
    """Values with R's attributes: names, class, levels, ..."""

    attributes: dict[str, Any]

    def __init__(self, values: Any, attributes: dict[str, Any] | None = None) -> None:
        super().__init__(values)
        self.attributes = attributes or {}


class Reader:
    """One serialised object."""

    def __init__(self, told: bytes) -> None:
        if told[:2] != b"X\n":
            raise ValueError(f"not R's binary form: it begins with {told[:8]!r}")
        self._told, self._at, self._references = told, 2, []
        version, _, _ = (self._integer() for _ in range(3))
        if version == 3:
            self._bytes(self._integer())  # the encoding of that session
        elif version != 2:
            raise ValueError(f"version {version} of R's form is not known; 2 and 3 are")

    def _bytes(self, n: int) -> bytes:
        self._at += n
        return self._told[self._at - n : self._at]

    def _integer(self) -> int:
        return struct.unpack(">i", self._bytes(4))[0]

    def _numbers(self, form: str, size: int) -> Vector:
        n = self._integer()
        return Vector(struct.unpack(f">{n}{form}", self._bytes(size * n)))

    def item(self) -> Any:
        flags = self._integer()
        kind = flags & 0xFF
        if kind in (NULL, *ENVIRONMENTS):
            return None
        if kind == REFERENCE:
            return self._references[(flags >> 8 or self._integer()) - 1]
        if kind == SYMBOL:
            self._references.append(self.item())
            return self._references[-1]
        if kind == TEXT:
            n = self._integer()
            return None if n == -1 else self._bytes(n).decode("latin-1" if flags >> 12 & 4 else "utf-8")
        if kind == NAMESPACE:
            self._integer()
            self._references.append([self.item() for _ in range(self._integer())])
            return self._references[-1]
        if kind == PAIRS:
            return self._pairs(flags)
        if kind == ALTERNATIVE:
            return self._alternative()
        vectors: dict[int, Callable[[], Vector]] = {
            LOGICAL: lambda: self._numbers("i", 4),
            INTEGER: lambda: self._numbers("i", 4),
            REAL: lambda: self._numbers("d", 8),
            STRINGS: lambda: Vector(self.item() for _ in range(self._integer())),
            LIST: lambda: Vector(self.item() for _ in range(self._integer())),
        }
        if kind not in vectors:
            raise ValueError(f"an item of type {kind} at byte {self._at} is not known here")
        vector = vectors[kind]()
        if flags & HAS_ATTRIBUTES:
            vector.attributes = self.item()
        return vector

    def _pairs(self, flags: int) -> dict[str, Any]:
        """A linked list of values with tags."""
        found = {}
        while True:
            if flags & HAS_ATTRIBUTES:
                self.item()
            tag = self.item() if flags & HAS_TAG else str(len(found))
            found[tag] = self.item()
            flags = self._integer()
            if flags & 0xFF == NULL:
                return found
            if flags & 0xFF != PAIRS:
                raise ValueError("a list of pairs ends with something else than nothing")

    def _alternative(self) -> Any:
        """Vectors that R keeps in a shorter form."""
        about, state, _ = self.item(), self.item(), self.item()
        name = next(iter(about.values()))
        if name == "compact_intseq":
            n, first, step = (int(x) for x in state)
            return Vector(range(first, first + n * step, step))
        if str(name).startswith("wrap_"):
            return state[0] if isinstance(state, Vector) else next(iter(state.values()))
        raise ValueError(f"a vector of the kind {name!r} is not known here")


def _unpacked(told: bytes) -> bytes:
    """A piece of the database: four bytes with its length, then zlib; or, with a letter between, lzma."""
    if told[4:5] == b"Z":
        return lzma.decompress(told[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    return zlib.decompress(told[4:])


def names(folder: Path) -> list[str]:
    """The objects of the database."""
    return list(_places(folder))


def _places(folder: Path) -> dict[str, list[int]]:
    index = Reader(gzip.decompress((folder / "Rdata.rdx").read_bytes())).item()
    variables = index[index.attributes["names"].index("variables")]
    return dict(zip(variables.attributes["names"], variables, strict=True))


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """A data frame as rows; factors as their levels, missing values as None. Raises KeyError for an unknown name."""
    start, size = _places(folder)[name]
    with (folder / "Rdata.rdb").open("rb") as file:
        file.seek(start)
        frame = Reader(_unpacked(file.read(size))).item()
    columns = [_values(column) for column in frame]
    return [dict(zip(frame.attributes["names"], row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Vector) -> list[Any]:
    if levels := column.attributes.get("levels"):
        return [None if n == MISSING else levels[n - 1] for n in column]
    return [None if value == MISSING else value for value in column]
