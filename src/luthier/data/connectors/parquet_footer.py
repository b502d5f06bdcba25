"""What a Parquet file says of itself, read here before Arrow does: Arrow ends the whole process over some damaged footers (an
exception that nothing catches), and believes how large a page says it becomes.

Format: https://parquet.apache.org/docs/file-format/metadata (parquet.thrift), written in Thrift's compact protocol. Only the
figures that limits need are kept: of each row group its rows, and of each column chunk its name, sizes and where it starts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

MAGIC = b"PAR1"
LARGEST_FOOTER = 256_000_000
DEEPEST = 40
FIRST_BYTES = 4_096
"""A page's head is a few dozen bytes; with statistics of long texts it may be longer, and is then read again."""
LARGEST_HEAD = 16_000_000


@dataclass(frozen=True)
class Chunk:
    column: str
    stored_bytes: int
    unpacked_bytes: int
    start: int


@dataclass(frozen=True)
class RowGroup:
    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(stream: BinaryIO) -> list[RowGroup]:
    """Raises ValueError for a footer that is none."""
    end = stream.seek(0, 2)
    if end < 12:
        raise ValueError("the file is too short")
    stream.seek(end - 8)
    size, magic = struct.unpack("<I4s", stream.read(8))
    if magic != MAGIC:
        raise ValueError("it does not end as a Parquet file does: cut off, encrypted, or none")
    if size > min(end - 12, LARGEST_FOOTER):
        raise ValueError("its footer is damaged")
    stream.seek(end - 8 - size)
    try:
        told = _Thrift(stream.read(size)).record()
        found = [_row_group(group) for group in told.get(4, [])]
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error):
        raise ValueError("its footer is damaged") from None
    for group in found:
        for chunk in group.chunks:
            if (
                chunk.stored_bytes < 0
                or chunk.unpacked_bytes < 0
                or not 0 <= chunk.start <= end - chunk.stored_bytes
            ):
                raise ValueError(f"its column {chunk.column!r} reaches beyond the file")
    return found


def _row_group(told: dict[int, Any]) -> RowGroup:
    chunks = []
    for chunk in told[1]:
        facts = chunk.get(3)
        if facts is None:
            raise ValueError("its columns are encrypted or in other files")
        starts = [facts[9], *(at for at in [facts.get(11)] if at)]
        path = ".".join(name.decode() for name in facts[3])
        chunks.append(Chunk(path.partition(".")[0], int(facts[7]), int(facts[6]), min(starts)))
    return RowGroup(int(told[3]), tuple(chunks))


def pages_of(stream: BinaryIO, chunk: Chunk) -> list[tuple[int, int]]:
    """How many bytes each page of a chunk stores, and how many it says they become. Raises ValueError where it has no head."""
    at, end = chunk.start, chunk.start + chunk.stored_bytes
    found = []
    while at < end:
        size = FIRST_BYTES
        while True:
            stream.seek(at)
            reader = _Thrift(stream.read(min(size, end - at)))
            try:
                told = reader.record()
                unpacked, stored = int(told[2]), int(told[3])
                break
            except (IndexError, struct.error):
                if size >= min(end - at, LARGEST_HEAD):
                    raise ValueError(f"a page of its column {chunk.column!r} is damaged") from None
                size *= 16
            except (KeyError, TypeError):
                raise ValueError(f"a page of its column {chunk.column!r} is damaged") from None
        if unpacked < 0 or stored < 0:
            raise ValueError(f"a page of its column {chunk.column!r} is damaged")
        found.append((stored, unpacked))
        at += reader.at + stored
    return found


class _Thrift:
    """The compact protocol, as far as Parquet uses it: structs become dictionaries by field number."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self._depth = 0

    def record(self) -> dict[int, Any]:
        told: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._whole()
            told[field] = self._value(head & 15)
        return told

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 7:
            self._skip(8)
            return None
        if kind == 8:
            length = self._varint()
            self._skip(length)
            return self.data[self.at - length : self.at]
        if kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            if count > len(self.data):  # every element takes a byte at least
                raise IndexError
            inner = head & 15
            with self._deeper():
                return [self._byte() if inner in (1, 2) else self._value(inner) for _ in range(count)]
        if kind == 12:
            with self._deeper():
                return self.record()
        raise TypeError

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("its footer is nested too deeply")
        yield
        self._depth -= 1

    def _byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise TypeError

    def _whole(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise IndexError
        self.at += count
