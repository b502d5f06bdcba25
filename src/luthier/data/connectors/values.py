"""Cells that come as Python objects (from a database, a workbook) become plain values, in the words that a Parquet file of the
same table gives, so that the same row is the same record whichever way it came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from typing import Any


def plain(cell: Any) -> Any:
    """A cell as a plain value: text, number, truth, bytes, or lists and objects of these.

    >>> plain(Decimal("1E+2")), plain(datetime(2026, 1, 2, 3, 4, 5)), plain(date(2026, 1, 2))
    ('100', '2026-01-02 03:04:05.000000', '2026-01-02')
    """
    if cell is None or isinstance(cell, str | bool | int | float | bytes):
        return cell
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, datetime):
        if cell.tzinfo is not None:
            return cell.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds") + "Z"
        return cell.isoformat(" ", "microseconds")
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, clock):
        return cell.isoformat("microseconds")
    if isinstance(cell, list | tuple):
        return [plain(inner) for inner in cell]
    if isinstance(cell, Mapping):
        return {str(key): plain(inner) for key, inner in cell.items()}
    if isinstance(cell, memoryview | bytearray):
        return bytes(cell)
    return str(cell)


def typed(column: list[Any]) -> Any:
    """Bytes go as an Arrow array, which `cells` reads as text or refuses, as it does for Parquet."""
    if any(isinstance(cell, bytes) for cell in column):
        import pyarrow as pa

        return pa.array([cell.encode() if isinstance(cell, str) else cell for cell in column], pa.binary())
    return column


def not_text(column: list[Any]) -> Iterator[int]:
    """The rows whose text was not UTF-8 (SQLite keeps whatever it is given)."""
    try:
        "".join(cell for cell in column if isinstance(cell, str)).encode()
    except UnicodeEncodeError:
        for row, cell in enumerate(column):
            if isinstance(cell, str) and any("\ud800" <= sign <= "\udfff" for sign in cell):
                yield row


def size_of(row: Sequence[Any]) -> int:
    return sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in map(plain, row))
