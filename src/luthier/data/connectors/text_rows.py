"""Plain text: one row per paragraph; blank lines divide. The one column is called `text`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from luthier.core.errors import DataError

from .json_rows import LONGEST_ROW_BYTES, not_utf8
from .protocol import Block

COLUMN = "text"
BLOCK_BYTES = 2_000_000


def read(stream: BinaryIO, place: str, columns: list[str] | None) -> Iterator[Block]:
    wanted = columns is None or COLUMN in columns
    texts: list[str] = []
    numbers: list[int] = []
    size = 0
    for number, text in _paragraphs(stream, place):
        texts.append(text)
        numbers.append(number)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield Block({COLUMN: texts} if wanted else {}, place, numbers)
            texts, numbers, size = [], [], 0
    if texts:
        yield Block({COLUMN: texts} if wanted else {}, place, numbers)


def _paragraphs(stream: BinaryIO, place: str) -> Iterator[tuple[int, str]]:
    lines: list[str] = []
    size = start = 0
    for number, raw in enumerate(stream, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise not_utf8(raw, f"{place}:{number}", error) from None
        if line.strip():
            start = start or number
            lines.append(line)
            size += len(raw)
            if size > LONGEST_ROW_BYTES:
                raise DataError(
                    f"{place}:{start}: a paragraph is longer than {LONGEST_ROW_BYTES:,} bytes.",
                    remedy="Blank lines divide paragraphs.",
                )
        elif lines:
            yield start, "\n".join(lines)
            lines, size, start = [], 0, 0
    if lines:
        yield start, "\n".join(lines)
