"""Arrow IPC: Feather version 2 and files of record batches (.arrow, .feather), or a stream of them (.arrows). A row's place
is its number, counted from 1.

Every batch is checked before it is used: offsets that point outside its buffers are an error here, not a crash later.
A batch is held whole while its rows are handed on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from luthier.core.errors import DataError

from .opened import refuse_bomb
from .parquet_rows import ROWS, block_of, pieces
from .protocol import Block

MAGIC = b"ARROW1"
LARGEST_HEAD = 64_000_000
DICTIONARY, BATCH = 2, 3
"""Kinds of messages (Message.fbs, MessageHeader)."""


def read(stream: BinaryIO, place: str, columns: list[str] | None) -> Iterator[Block]:
    """Blocks of rows; `columns` None gives every column."""
    start = 1
    try:
        for batch in _batches(stream, place):
            batch.validate(full=True)
            wanted = [name for name in batch.schema.names if columns is None or name in columns]
            batch = batch.select(wanted)
            for at in range(0, batch.num_rows, ROWS):
                for piece in pieces(batch.slice(at, ROWS), f"{place}:{start}"):
                    yield block_of(piece, place, start)
                    start += piece.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise DataError(
            f"{place}: this is not a readable Arrow file: {str(error).splitlines()[0][:300].rstrip('.')}.",
            remedy="Write it again (pyarrow.feather.write_feather), or set `format:`.",
        ) from None


def _batches(stream: BinaryIO, place: str) -> Iterator[pa.RecordBatch]:
    """In the order they stand: a file of batches is a stream of them between its magic and its footer, which is not asked."""
    begin = 8 if stream.read(len(MAGIC)) == MAGIC else 0
    _refuse_bombs(stream, place, begin)
    stream.seek(begin)
    yield from pa.ipc.open_stream(stream)


def _refuse_bombs(stream: BinaryIO, place: str, at: int) -> None:
    """Look at every message's head before Arrow unpacks one: what it says its buffers unpack to, against what is stored.

    Format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format (flatbuffers Message.fbs)."""
    end = stream.seek(0, 2)
    unpacked = stored = 0
    while at + 8 <= end:
        stream.seek(at)
        first, second = struct.unpack("<Ii", stream.read(8))
        head, size = (at + 8, second) if first == 0xFFFFFFFF else (at + 4, first)
        if size == 0:
            return
        stream.seek(head)
        told = stream.read(size) if 0 < size <= LARGEST_HEAD else b""
        try:
            body_bytes, buffers = _packed_buffers(told)
        except (struct.error, IndexError):
            raise pa.ArrowInvalid("a message's head is damaged") from None
        body = head + size
        if body + body_bytes > end:
            raise pa.ArrowInvalid("the file ends within a message")
        for offset, length in buffers:
            if length >= 8 and 0 <= offset <= body_bytes - 8:
                stream.seek(body + offset)
                [whole] = struct.unpack("<q", stream.read(8))
                unpacked += whole if whole >= 0 else length
                stored += length
                refuse_bomb(unpacked, stored, place)
        at = body + body_bytes


def _packed_buffers(head: bytes) -> tuple[int, list[tuple[int, int]]]:
    """How long the message's body is, and where its packed buffers stand in it: none if it packs none."""
    message = _pointer(head, 0)
    kind, body_bytes = _field(head, message, 1), _field(head, message, 3)
    length = _read(head, "<q", body_bytes) if body_bytes else 0
    table = _field(head, message, 2)
    if length < 0 or kind is None or table is None:
        raise IndexError
    batch: int | None = _pointer(head, table)
    if head[kind] == DICTIONARY:
        inner = _field(head, _pointer(head, table), 1)
        batch = _pointer(head, inner) if inner else None
    elif head[kind] != BATCH:
        return length, []
    if batch is None or _field(head, batch, 3) is None:
        return length, []
    place = _field(head, batch, 2)
    if place is None:
        return length, []
    vector = _pointer(head, place)
    count = _read(head, "<I", vector)
    if count * 16 > len(head):
        raise IndexError
    return length, [
        (_read(head, "<q", vector + 4 + 16 * i), _read(head, "<q", vector + 12 + 16 * i))
        for i in range(count)
    ]


def _field(head: bytes, table: int, number: int) -> int | None:
    """Where a table's field stands; None when it is left out."""
    names = table - _read(head, "<i", table)
    slot = 4 + 2 * number
    if slot + 2 > _read(head, "<H", names):
        return None
    offset = _read(head, "<H", names + slot)
    return table + offset if offset else None


def _pointer(head: bytes, at: int) -> int:
    return at + _read(head, "<I", at)


def _read(head: bytes, form: str, at: int) -> int:
    if at < 0:
        raise IndexError
    value: int = struct.unpack_from(form, head, at)[0]
    return value
