"""Plain text: one row per paragraph; blank lines divide. The one column is called `text`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from .faults import LONGEST_ROW_BYTES, Fault, not_utf8, too_long
from .protocol import BadRow, Block

COLUMN = "text"
BLOCK_BYTES = 2_000_000


def read(stream: BinaryIO, place: str, columns: list[str] | None, aside: bool = False) -> Iterator[Block]:
    wanted = columns is None or COLUMN in columns
    texts: list[str] = []
    numbers: list[int] = []
    bad: list[BadRow] = []
    size = 0
    for number, text in _paragraphs(stream, place, aside):
        if isinstance(text, BadRow):
            bad.append(text)
            size += len(text.preview)
        else:
            texts.append(text)
            numbers.append(number)
            size += len(text)
        if size >= BLOCK_BYTES:
            yield Block({COLUMN: texts} if wanted else {}, place, numbers, None, bad)
            texts, numbers, bad, size = [], [], [], 0
    if texts or bad:
        yield Block({COLUMN: texts} if wanted else {}, place, numbers, None, bad)


def _paragraphs(stream: BinaryIO, place: str, aside: bool) -> Iterator[tuple[int, str | BadRow]]:
    lines: list[str] = []
    size = start = number = 0
    fault: Fault | None = None
    while raw := stream.readline(LONGEST_ROW_BYTES + 1):
        number += 1
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            fault = fault or not_utf8(raw, error)
            if not aside:
                raise fault.stop(f"{place}:{number}") from None
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.strip():
            start = start or number
            lines.append(line)
            size += len(raw)
            if size > LONGEST_ROW_BYTES:
                raise too_long(f"{place}:{start}", "a paragraph (blank lines divide them)")
        elif lines:
            yield start, _whole(lines, start, fault)
            lines, size, start, fault = [], 0, 0, None
    if lines:
        yield start, _whole(lines, start, fault)


def _whole(lines: list[str], start: int, fault: Fault | None) -> str | BadRow:
    text = "\n".join(lines)
    return fault.aside(start, text[:1000]) if fault else text
