"""Workbooks: the first row of a sheet that holds anything names the columns, each further one is a row. Without `sheet:`, all
sheets are read one after the other, and they must have the same columns: none is left out unasked.

A row's place is "book.xlsx#Sheet1:17". Times and dates read as in a Parquet file; see `workbook` for cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from luthier.core.errors import DataError

from .apart import rows_apart
from .faults import Fault
from .protocol import Block


def read(
    stream: BinaryIO, place: str, columns: list[str] | None, sheet: str | None = None
) -> Iterator[Block]:
    """Blocks of rows; `columns` None gives every column."""
    header: list[str] | None = None
    names: list[str] = []
    where = place
    first = ""
    try:
        for rows in rows_apart("workbook", stream, "excel", sheet=sheet):
            if rows[0] == "sheet":
                where, names = f"{place}#{rows[1]}", []
                continue
            if not names:
                names, rows = _header(rows[0], where), rows[1:]
                header, first = header or names, first or where
                if names != header:
                    raise DataError(
                        f"{where}: the columns are {', '.join(names)[:200]}, and those of {first} are {', '.join(header)[:200]}.",
                        remedy="Name the sheet to read, for example sheet: Tickets",
                    )
            yield _block(rows, names, where, columns)
    except Fault as fault:
        raise DataError(f"{place}: {fault.reason}.", remedy=f"{fault.remedy}.") from None


def _header(row: list[Any], where: str) -> list[str]:
    """The columns' names; a column without one is no column."""
    names = ["" if cell is None else str(cell) for cell in row[1:]]
    seen: set[str] = set()
    if twice := next((name for name in names if name and (name in seen or seen.add(name))), None):  # type: ignore[func-returns-value]
        raise DataError(
            f"{where}:{row[0]}: the column {twice[:60]!r} stands twice in the header.",
            remedy="Rename one of them.",
        )
    return names


def _block(rows: list[list[Any]], names: list[str], where: str, columns: list[str] | None) -> Block:
    wanted = [(name, i) for i, name in enumerate(names, 1) if name and (columns is None or name in columns)]
    cells = {name: [row[i] if i < len(row) else None for row in rows] for name, i in wanted}
    return Block(cells, where, [row[0] for row in rows])
