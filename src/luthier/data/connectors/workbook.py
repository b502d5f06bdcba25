"""The cells of a workbook (.xlsx, .xlsm, .xlsb, .xls, .ods): values as they were last calculated. No formula is evaluated, and
a text that looks like one is a text. Runs apart (see `apart`)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

from .faults import Fault
from .opened import FREE_BYTES, RATIO
from .values import plain

SAVE = "Open it in its own program and save it again, or export it as CSV"
ROWS_AT_ONCE = 200
MOST_CELLS = 100_000_000


def rows(path: str, sheet: str | None) -> Iterator[Any]:
    """["sheet", name] before each sheet that holds anything, then lists of [number, cell, ...]."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, WorksheetNotFound

    if zipfile.is_zipfile(path):
        _refuse_tricks(path)
    try:
        book = CalamineWorkbook.from_path(path)
        names = book.sheet_names if sheet is None else [sheet]
        for name in names:
            found = book.get_sheet_by_name(name)
            if found.total_height * found.total_width > MOST_CELLS:
                raise Fault(f"the sheet {name!r} reaches over more than {MOST_CELLS:,} cells", "", SAVE)
            if found.start is None:
                continue
            yield ["sheet", name]
            first = found.start[0] + 1
            held = []
            for number, cells in enumerate(found.to_python(skip_empty_area=True), first):
                if any(cell != "" for cell in cells):
                    held.append([number, *map(_cell, cells)])
                if len(held) >= ROWS_AT_ONCE:
                    yield held
                    held = []
            if held:
                yield held
    except PasswordError:
        raise Fault("the workbook is encrypted", "", "Save it without a password") from None
    except WorksheetNotFound:
        shown = ", ".join(book.sheet_names)[:200]
        raise Fault(f"there is no sheet {sheet!r} in it", "", f"It has: {shown}") from None
    except CalamineError as error:
        raise Fault(
            f"this is not a readable workbook ({' '.join(str(error).split())[:200]})", "", SAVE
        ) from None


def _cell(cell: Any) -> Any:
    """Every number in a workbook is a fraction; a whole one is shown, and read, as a whole number."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    return None if cell == "" else plain(cell)


def _refuse_tricks(path: str) -> None:
    """Names that lead out of the archive, and parts that unpack without measure. What the archive's own
    figures hide, the limit on this process's memory stops."""
    with zipfile.ZipFile(path) as archive:
        total = stored = 0
        for part in archive.infolist():
            name = part.filename.replace("\\", "/")
            if name.startswith("/") or ".." in name.split("/") or ":" in name.partition("/")[0]:
                raise Fault(
                    f"a part of it is called {part.filename[:80]!r}, which leads out of the file", "", SAVE
                )
            stored += part.compress_size
            if part.is_dir() or part.file_size == 0:
                continue
            with archive.open(part) as unpacked:
                while chunk := unpacked.read(1 << 20):
                    total += len(chunk)
                    if total > FREE_BYTES and total > RATIO * max(stored, 1):
                        raise Fault(
                            f"{stored:,} stored bytes hold more than {RATIO} times as many: this looks like a decompression bomb",
                            "",
                            SAVE,
                        )
