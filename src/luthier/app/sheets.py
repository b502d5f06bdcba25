"""Rows of plain values as a file for people: CSV, or a workbook with the extra `xlsx`.

Whoever opens such a file has a spreadsheet run what begins like a formula, and names in it come from strangers: so a text that begins
with = + - @, a tabulator or a line break is written as text, with an apostrophe before it. Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import SpecError, missing_part

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
LONGEST_CELL = 32_000
"""A workbook's cells hold 32,767 characters."""
CSV_TYPE = "text/csv; charset=utf-8"
XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def cell(value: Any) -> str | int | float:
    """What may stand in a cell.

    >>> cell("=1+1"), cell("-x"), cell(-1.5), cell(None), cell("a=b")
    ("'=1+1", "'-x", -1.5, '', 'a=b')
    """
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = "".join(c for c in str(value)[:LONGEST_CELL] if c >= " " or c in "\t\r\n")
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """With a line of names; UTF-8."""
    into = io.StringIO()
    writer = csv.writer(into, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([cell(row[name]) for name in columns] for row in rows)
    return into.getvalue().encode("utf-8", "replace")


def as_xlsx(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> bytes:
    """One sheet: the names in bold and in sight, a filter, no formula, no link. Raises MissingPart."""
    try:
        import xlsxwriter
    except ModuleNotFoundError:
        raise missing_part("XlsxWriter", "xlsx", "a workbook") from None
    into = io.BytesIO()
    with xlsxwriter.Workbook(
        into, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    ) as book:
        sheet, bold = book.add_worksheet(title[:31]), book.add_format({"bold": True})
        for column, name in enumerate(columns):
            sheet.write_string(0, column, name, bold)
            sheet.set_column(column, column, max(12, min(40, len(name) + 4)))
        for at, row in enumerate(rows, start=1):
            for column, name in enumerate(columns):
                value = cell(row[name])
                if isinstance(value, str):
                    sheet.write_string(at, column, value)
                else:
                    sheet.write_number(at, column, value)
        sheet.freeze_panes(1, 0)
        sheet.autofilter(0, 0, max(len(rows), 1), max(len(columns) - 1, 0))
    return into.getvalue()


def write_new(file: Path, content: bytes) -> None:
    """Raises SpecError where it is there already, or cannot be written."""
    try:
        with open(file, "xb") as into:
            into.write(content)
    except FileExistsError:
        raise SpecError(f"{file} is there already.", remedy="Name another file, or remove it.") from None
    except OSError as error:
        raise SpecError(
            f"{file} cannot be written: {error.strerror}.", remedy="Name another place."
        ) from None
