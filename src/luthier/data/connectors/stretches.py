"""A large file in stretches, so that several processes read one file: JSON Lines by bytes, Parquet by row groups. Every row is in
exactly one stretch and has the place that it has when the file is read whole, wherever it is cut.

    bytes      ....\\n......|....\\n......\\n...|....\\n
    begin in              ^      ^             begin <= place < end; the last line is read to its end, beyond it

Lines are numbered in two passes: `newlines` of each stretch are counted (by anyone, in any order), then added up.

Not cut, because only who has read all before knows where a row begins: CSV (a quoted field may hold line breaks), JSON arrays,
paragraphs of text, and whatever is compressed as a whole.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

from . import json_rows
from .parquet_footer import RowGroup
from .protocol import Count, Part

CHUNK_BYTES = 1 << 20


def divided(
    parts: Sequence[Part], about_bytes: int, count: Count, cut: Callable[[Part, int], list[Part]]
) -> list[Part]:
    """protocol.Divisible.divide, where `cut` gives the pieces of one part, not yet numbered."""
    pieces = [cut(part, about_bytes) if part.size_bytes > about_bytes else [part] for part in parts]
    counts = iter(count([piece for of_part in pieces for piece in of_part if "begin" in piece.at]))
    found: list[Part] = []
    for of_part in pieces:
        if "begin" in of_part[0].at:
            before = lines_before([next(counts) for _ in of_part])
            of_part = [
                replace(one, at={**one.at, "before": n}) for one, n in zip(of_part, before, strict=True)
            ]
        found += of_part
    return found


def pieces_of(part: Part, about_bytes: int, stream: BinaryIO, form: str) -> list[Part]:
    """Stretches of a file of JSON Lines or Parquet, all its bytes shared out among them."""
    if form == "jsonl":
        if json_rows.is_array(stream):
            return [part]
        edges = byte_stretches(part.size_bytes, about_bytes)
        return [Part({**part.at, "begin": begin, "end": end}, end - begin) for begin, end in edges]
    from .parquet_rows import footer

    groups = group_stretches(footer(stream, part.at["place"]), about_bytes)
    if len(groups) < 2:
        return [part]
    sizes = [stored for _, _, stored in groups[:-1]]
    sizes.append(part.size_bytes - sum(sizes))
    return [
        Part({**part.at, "groups": [first, end]}, size)
        for (first, end, _), size in zip(groups, sizes, strict=True)
    ]


def byte_stretches(size_bytes: int, about_bytes: int) -> list[tuple[int, int]]:
    """(begin, end) of pieces that differ by a byte at most.

    >>> byte_stretches(10, 4), byte_stretches(3, 4)
    ([(0, 3), (3, 6), (6, 10)], [(0, 3)])
    """
    n = max(1, -(-size_bytes // about_bytes))
    edges = [size_bytes * i // n for i in range(n + 1)]
    return list(pairwise(edges))


def group_stretches(groups: Sequence[RowGroup], about_bytes: int) -> list[tuple[int, int, int]]:
    """(first row group, the one after the last, stored bytes) of pieces that are no smaller, but for the last one."""
    found: list[tuple[int, int, int]] = []
    first = stored = 0
    for n, group in enumerate(groups):
        stored += sum(chunk.stored_bytes for chunk in group.chunks)
        if stored >= about_bytes or n + 1 == len(groups):
            found.append((first, n + 1, stored))
            first, stored = n + 1, 0
    return found


def newlines(raw: BinaryIO, begin: int, end: int) -> int:
    """How many come before the first line of the next stretch and not before that of this one, but for the one that ends it."""
    at = raw.seek(max(begin - 1, 0))
    found = 0
    while chunk := raw.read(min(CHUNK_BYTES, end - 1 - at)):
        found += chunk.count(b"\n")
        at += len(chunk)
    return found


def lines_before(counts: Sequence[int]) -> list[int]:
    """How many lines stand before the first of each stretch of a file, from the `newlines` of all.

    >>> lines_before([2, 0, 3])  # one more ends the line before it
    [0, 3, 3]
    """
    return [0, *(n + 1 for n in list(accumulate(counts))[:-1])]


class Stretch(io.RawIOBase):
    """The bytes of the lines that begin in a stretch of `raw`."""

    def __init__(self, raw: BinaryIO, begin: int, end: int) -> None:
        self._raw, self._begin, self._end = raw, begin, end
        self._at: int | None = None
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        if self._at is None:
            self._at = self._first()
        if self._over:
            return 0
        unseen = self._end - 1 - self._at  # before the last byte no line can be the last
        found = self._raw.read(min(len(into), unseen) if unseen > 0 else len(into))
        if unseen <= 0:
            at = found.find(b"\n")
            found = found if at < 0 else found[: at + 1]
            self._over = at >= 0
        self._over |= not found
        self._at += len(found)
        into[: len(found)] = found
        return len(found)

    def _first(self) -> int:
        """Where the first line begins; a stretch without any is over."""
        if not self._begin:
            return self._raw.seek(0)
        at = self._raw.seek(self._begin - 1)
        while at < self._end - 1 and (chunk := self._raw.read(min(CHUNK_BYTES, self._end - 1 - at))):
            found = chunk.find(b"\n")
            if found >= 0:
                return self._raw.seek(at + found + 1)
            at += len(chunk)
        self._over = True
        return at
