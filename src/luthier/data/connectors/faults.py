"""Why a row cannot be read, once, for both that can follow from it: an error that stops, or a row that is set aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from luthier.core.errors import DataError

from .found import shown
from .protocol import BadRow

LONGEST_ROW_BYTES = 64_000_000
"""No row, line or cell is longer: what is, is no row but a file read in the wrong format, or an attack on memory."""
LONGEST_PREVIEW = 200
ASIDE = "or set map: {on_bad_row: set_aside} to keep such rows out, with the reason on record."


@contextmanager
def unshown(hidden: bool) -> Iterator[None]:
    """Where rows are not to be shown, a fault is told without them."""
    try:
        yield
    except DataError as fault:
        if not hidden or fault.without is None:
            raise
        raise DataError(fault.without, remedy=fault.remedy) from None


class Fault(Exception):
    """Nothing in it can write to a terminal but letters. `reason` stands after the place, without a full stop, and `quoted` what it is
    of; `excerpt` under it; `remedy` says how to mend it."""

    def __init__(self, reason: str, excerpt: str, remedy: str, *, quoted: str = "") -> None:
        super().__init__(reason)
        self.plain, self.reason = shown(reason), shown(f"{reason}{quoted}")
        self.excerpt, self.remedy = shown(excerpt), remedy

    def stop(self, where: str, *, other_way: str = ASIDE) -> DataError:
        from luthier.data.private.masking import masked

        under = f"\n  {self.excerpt}" if self.excerpt else ""
        remedy = f"{self.remedy.rstrip('.')}; {other_way}" if other_way else self.remedy
        (without,), _ = masked([self.plain])
        told = DataError(f"{where}: {self.reason}.{under}", remedy=remedy)
        told.without = f"{where}: {without}."
        return told

    def aside(self, line: int, preview: str) -> BadRow:
        """`preview` may hold bytes that were no text, as surrogates: each is shown as �."""
        text = preview.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return BadRow(
            line, self.reason, text if len(text) <= LONGEST_PREVIEW else text[: LONGEST_PREVIEW - 1] + "…"
        )


def not_utf8(raw: bytes, error: UnicodeDecodeError) -> Fault:
    byte = raw[error.start]
    around = raw[max(0, error.start - 20) : error.start + 20].decode("latin-1")
    return Fault(
        f"not UTF-8: byte 0x{byte:02x} at position {error.start + 1} of the line",
        "",
        "Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT",
        quoted=f", in {around!r}",
    )


def too_long(where: str, what: str = "a row") -> DataError:
    """Stops whatever the source says of bad rows: reading on would cost what the limit saves."""
    return DataError(
        f"{where}: {what} is longer than {LONGEST_ROW_BYTES:,} bytes.",
        remedy="Is it the right file? If so, set `format:`.",
    )
