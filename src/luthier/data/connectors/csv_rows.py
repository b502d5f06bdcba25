"""CSV and TSV by RFC 4180, strictly: every row has as many fields as the header; quotes close. An empty field is a
missing value. The first row names the columns.

The separator of a .csv file is the comma, or the semicolon when the header has semicolons and no comma (as
spreadsheets write it where the comma is the decimal sign).

Where bad rows are set aside, one with a quote that never closes is the line it starts on, and reading goes on at the next:
otherwise one missing sign would take the rest of the file with it.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from luthier.core.errors import DataError

from .faults import ASIDE, LONGEST_ROW_BYTES, Fault, not_utf8, too_long
from .protocol import BadRow, Block

ROWS = 2_000
BLOCK_CHARACTERS = 2_000_000
MOST_AGAIN = 20_000_000
"""So many lines, and 20 times those before, may be read again behind rows whose quotes do not close: some seconds."""


def read(
    stream: BinaryIO, place: str, columns: list[str] | None, aside: bool = False, tabs: bool = False
) -> Iterator[Block]:
    """Blocks of rows; `columns` None gives every column; `aside` keeps bad rows out."""
    csv.field_size_limit(
        LONGEST_ROW_BYTES
    )  # the module's own limit of 131,072 is shorter than some documents
    decoded = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(decoded, place)
    try:
        rows = _rows(lines, place, aside, tabs)
        first = next(rows, None)
        if first is None:
            return
        header = first[1]
        assert isinstance(header, list)
        _check_header(header, place)
        at = {name: i for i, name in enumerate(header)}
        wanted = [(name, at[name]) for name in (columns if columns is not None else header) if name in at]
        found: list[list[str]] = []
        numbers: list[int] = []
        bad: list[BadRow] = []
        since = lines.taken
        for number, row in rows:
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                found.append(row)
                numbers.append(number)
            if len(found) + len(bad) >= ROWS or lines.taken - since >= BLOCK_CHARACTERS:
                yield _block(found, numbers, bad, wanted, place)
                found, numbers, bad, since = [], [], [], lines.taken
        if found or bad:
            yield _block(found, numbers, bad, wanted, place)
    finally:
        decoded.detach()


def _block(
    rows: list[list[str]], numbers: list[int], bad: list[BadRow], wanted: list[tuple[str, int]], place: str
) -> Block:
    cells = {name: [row[i] or None for row in rows] for name, i in wanted}
    return Block(cells, place, numbers, None, bad)


class _Lines:
    """Lines of text for csv.reader, each at most as long as a row may be. `held` are those since the last row began, `number`
    the lines given out, `taken` their characters, `again` how many were given back; `undecoded` says that one of `held` is not UTF-8."""

    def __init__(self, text: io.TextIOWrapper, place: str) -> None:
        self._text, self._place = text, place
        self._again: deque[str] = deque()
        self.held: list[str] = []
        self.number = self.taken = self.again = self._row_taken = 0
        self.undecoded = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(LONGEST_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken += len(line)
        self.held.append(line)
        if self.taken - self._row_taken > LONGEST_ROW_BYTES:
            if len(self.held) == 1:
                raise too_long(f"{self._place}:{self.number}", "a line")
            raise csv.Error(f"a row does not end within {LONGEST_ROW_BYTES:,} characters")
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError:
                self.undecoded = True
        return line

    def begin(self) -> None:
        """A row begins with the next line."""
        self.held.clear()
        self._row_taken = self.taken
        self.undecoded = False

    def back(self, keep: int) -> None:
        """Give out again all lines of this row but the first few."""
        again = self.held[keep:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        self.again += len(again)
        self.taken -= sum(map(len, again))


def _rows(lines: _Lines, place: str, aside: bool, tabs: bool) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Each row with the line it starts on, the header first; blank lines are none."""
    first = next(lines, "")
    lines.back(0)
    separator = "\t" if tabs else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        lines.begin()
        start = lines.number + 1
        try:
            row = next(reader, None)
            if row is None:
                return
            if lines.undecoded:
                raise _undecoded(lines.held)
            if not row:
                continue
            if header is None:
                header = row
            elif len(row) != len(header):
                raise _ragged(row, header)
            yield start, row
        except csv.Error as error:
            fault = Fault(
                f"this is not valid CSV: {error}",
                "",
                'Fields with separators, quotes or line breaks stand in "..."; a quote inside is written ""',
            )
            if not aside or header is None:
                raise fault.stop(f"{place}:{start}", other_way="" if aside else ASIDE) from None
            yield start, fault.aside(start, lines.held[0][:1000])
            lines.back(1)
            if lines.again > MOST_AGAIN + 20 * lines.number:
                raise DataError(
                    f"{place}:{start}: so many rows have quotes that close nowhere near that the file cannot be read as CSV.",
                    remedy='Correct its quotes ("..." around a field, "" for a quote inside), or write it as JSON Lines.',
                ) from None
        except Fault as fault:
            if not aside or header is None:
                where = start + next((n for n, line in enumerate(lines.held) if _escaped(line)), 0)
                raise fault.stop(f"{place}:{where}", other_way="" if aside else ASIDE) from None
            yield start, fault.aside(start, "".join(lines.held)[:1000])


def _escaped(line: str) -> bool:
    """Whether it holds bytes that are not UTF-8, as surrogates."""
    return not line.isascii() and any("\udc80" <= sign <= "\udcff" for sign in line)


def _undecoded(held: list[str]) -> Fault:
    raw = next(line for line in held if _escaped(line)).encode("utf-8", "surrogateescape")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(raw, error)
    raise AssertionError("a line that was not decoded is decoded")


def _ragged(row: list[str], header: list[str]) -> Fault:
    return Fault(
        f"this row has {len(row)} fields, and the header has {len(header)} ({', '.join(header)[:80]})",
        ", ".join(row)[:80],
        'Is a separator inside a field? Such a field must stand in "..."',
    )


def _check_header(header: list[str], place: str) -> None:
    seen: set[str] = set()
    if twice := next((name for name in header if name in seen or seen.add(name)), None):  # type: ignore[func-returns-value]
        raise DataError(
            f"{place}:1: the column {twice[:60]!r} stands twice in the header.", remedy="Rename one of them."
        )
