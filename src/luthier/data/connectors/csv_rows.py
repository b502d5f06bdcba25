"""CSV and TSV by RFC 4180, strictly: every row has as many fields as the header; quotes close. An empty field is a
missing value. The first row names the columns.

The separator of a .csv file is the comma, or the semicolon when the header has semicolons and no comma (as
spreadsheets write it where the comma is the decimal sign).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from luthier.core.errors import DataError

from .protocol import Block

ROWS = 2_000
LONGEST_FIELD = 16_000_000


def read(stream: BinaryIO, place: str, columns: list[str] | None, tabs: bool) -> Iterator[Block]:
    """Blocks of rows; `columns` None gives every column."""
    csv.field_size_limit(LONGEST_FIELD)  # the module's own limit of 131,072 is shorter than some documents
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        header_line = lines.readline()
        separator = "\t" if tabs else ";" if ";" in header_line and "," not in header_line else ","
        reader = csv.reader(_after(header_line, lines), delimiter=separator, strict=True)
        header = next(reader, None)
        if header is None:
            return
        _check_header(header, place)
        names = columns if columns is not None else header
        wanted = [(name, header.index(name)) for name in names if name in header]
        before = reader.line_num
        while rows := list(islice(reader, ROWS)):
            numbers = _numbers(rows, before, reader.line_num)
            before = reader.line_num
            rows, numbers = _whole(rows, numbers, header, place)
            cells = list(zip(*rows, strict=True)) or [()] * len(header)
            yield Block({name: [cell or None for cell in cells[i]] for name, i in wanted}, place, numbers)
    except csv.Error as error:
        raise DataError(
            f"{place}:{reader.line_num}: this is not valid CSV: {error}.",
            remedy='Fields with separators, quotes or line breaks stand in "..."; a quote inside is written "".',
        ) from None
    finally:
        lines.detach()


def _after(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _numbers(rows: list[list[str]], before: int, after: int) -> Sequence[int]:
    """The line each row starts on. Usually rows are lines; a quoted line break makes a row longer."""
    if after - before == len(rows):
        return range(before + 1, after + 1)
    numbers = []
    line = before + 1
    for row in rows:
        numbers.append(line)
        line += 1 + sum(cell.count("\n") or cell.count("\r") for cell in row)
    return numbers


def _whole(
    rows: list[list[str]], numbers: Sequence[int], header: list[str], place: str
) -> tuple[list[list[str]], Sequence[int]]:
    """Without blank lines; refuses a row with too few or too many fields."""
    if set(map(len, rows)) == {len(header)}:
        return rows, numbers
    kept = [(row, line) for row, line in zip(rows, numbers, strict=True) if row]
    for row, line in kept:
        if len(row) != len(header):
            shown: Any = ", ".join(row)[:80]
            raise DataError(
                f"{place}:{line}: this row has {len(row)} fields, and the header has {len(header)} ({', '.join(header)[:80]}).\n  {shown}",
                remedy='Is a separator inside a field? Such a field must stand in "...".',
            )
    return [row for row, _ in kept], [line for _, line in kept]


def _check_header(header: list[str], place: str) -> None:
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise DataError(
            f"{place}:1: the column {twice!r} stands twice in the header.", remedy="Rename one of them."
        )
