"""Documents for continued pre-training: a whole file is one row, of a PDF each page. The one column is called `text`.

.md .txt and all else   the text as it stands
.html .htm .xhtml       the text with its headings (html_text)
.pdf                    page by page (pdf_text)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from .apart import rows_apart
from .faults import LONGEST_ROW_BYTES, Fault, not_utf8, too_long
from .opened import as_text
from .protocol import BadRow, Block
from .text_rows import COLUMN

PAGES = 100


def read(stream: BinaryIO, place: str, columns: list[str] | None, aside: bool = False) -> Iterator[Block]:
    """A row's line is its page; 1 in what has no pages."""
    texts: list[str] = []
    pages: list[int] = []
    bad: list[BadRow] = []
    wanted = columns is None or COLUMN in columns
    try:
        for number, text, *reason in _rows(stream, place):
            if text is None:
                fault = Fault(reason[0], "", "Leave the file out")
                if not aside:
                    raise fault.stop(f"{place}:{number}")
                bad.append(fault.aside(number, ""))
            else:
                texts.append(text)
                pages.append(number)
            if len(texts) + len(bad) >= PAGES:
                yield Block({COLUMN: texts} if wanted else {}, place, pages, None, bad)
                texts, pages, bad = [], [], []
    except Fault as fault:
        if not aside:
            raise fault.stop(place) from None
        bad.append(fault.aside(1, ""))
    if texts or bad:
        yield Block({COLUMN: texts} if wanted else {}, place, pages, None, bad)


def _rows(stream: BinaryIO, place: str) -> Iterator[tuple[int, str | None, str] | tuple[int, str]]:
    suffixes = {suffix.lower() for suffix in PurePosixPath(place).suffixes[-2:]}
    if ".pdf" in suffixes:
        for row in rows_apart("pdf_text", stream, "documents"):
            yield tuple(row)
    elif suffixes & {".html", ".htm", ".xhtml"}:
        for row in rows_apart("html_text", stream, "documents"):
            yield tuple(row)
    else:
        raw = as_text(stream, place).read(LONGEST_ROW_BYTES + 1)
        if len(raw) > LONGEST_ROW_BYTES:
            raise too_long(place, "a document")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            start = raw.rfind(b"\n", 0, error.start) + 1
            line = raw[start : error.start + 100]
            local = error.start - start
            raise not_utf8(line, UnicodeDecodeError("utf-8", line, local, local + 1, error.reason)) from None
        if text.strip():
            yield 1, text.strip()
