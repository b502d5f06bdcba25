"""The bytes of a file, decompressed and guarded: no small file may become more than memory or disk can hold, and no text in an
encoding that would be read as something else.

    raw ─▶ gzip | bz2 | xz | zstd ─▶ at most RATIO times what is stored, once FREE_BYTES are out ─▶ text: UTF-8 by its first bytes

Not here: limits on rows and cells (the readers'), and on what Parquet, Arrow and workbooks hold inside (theirs).
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, cast

from luthier.core.errors import DataError

FREE_BYTES = 64_000_000
RATIO = 200
"""Text packs 3 to 20 times smaller, repetitive logs up to 100; a bomb a thousand times and more."""
XZ_MEMORY = 256_000_000
"""xz -9 needs 65 MB to unpack; a header may ask for 4 GB."""
NUL_SHARE = 8


def opened(raw: BinaryIO, compression: str | None, place: str) -> BinaryIO:
    """The bytes of `raw`, decompressed. Damaged data raises OSError, EOFError or zlib.error; a bomb raises DataError."""
    if compression is None:
        return raw
    return cast("BinaryIO", io.BufferedReader(_Guarded(_expanded(raw, compression), raw, place), 1 << 17))


def _expanded(raw: BinaryIO, compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if compression == "bz2":
        return _Streams(raw, bz2.BZ2Decompressor, "bz2")
    if compression == "xz":
        return _Streams(raw, partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY), "xz")
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(raw), "zstd")


class _Guarded(io.RawIOBase):
    """Counts what comes out against what went in."""

    def __init__(self, expanded: Any, raw: BinaryIO, place: str) -> None:
        self._expanded, self._raw, self._place = expanded, raw, place
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        found = self._expanded.read(len(into))
        into[: len(found)] = found
        self._out += len(found)
        if self._out > FREE_BYTES:
            refuse_bomb(self._out, self._raw.tell(), self._place)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._expanded.close()
        super().close()


def refuse_bomb(out_bytes: int, stored_bytes: int, place: str) -> None:
    """Raises DataError when what comes out is too much for what is stored."""
    if out_bytes > FREE_BYTES and out_bytes > RATIO * max(stored_bytes, 1):
        raise DataError(
            f"{place}: {stored_bytes:,} stored bytes hold more than {RATIO} times as many ({out_bytes:,} so far): this looks like a decompression bomb.",
            remedy="If it is data, store it less tightly packed (decompressed, or in another format) and read that.",
        )


def is_local(stream: BinaryIO) -> bool:
    """Whether reading here and there costs nothing: a file on this machine, or bytes in memory."""
    return isinstance(stream, io.BytesIO) or type(stream).__name__ in ("LocalFileOpener", "BufferedReader")


class _Streams(io.RawIOBase):
    """bz2 and xz streams, which may follow one another, with zeros between. Unlike `bz2.open`, which takes what is damaged behind the first
    stream for the end, and `lzma.open`, which has no limit on memory."""

    def __init__(self, raw: BinaryIO, unpacker: Callable[[], Any], kind: str) -> None:
        self._raw, self._unpacker, self._kind = raw, unpacker, kind
        self._unpack = unpacker()
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._unpack.eof:
                self._rest = self._unpack.unused_data.lstrip(b"\0")
                while not self._rest:
                    if not (more := self._raw.read(1 << 16)):
                        return b""
                    self._rest = more.lstrip(b"\0")
                self._unpack = self._unpacker()
            elif self._unpack.needs_input and not self._rest:
                self._rest = self._raw.read(1 << 16)
                if not self._rest:
                    raise EOFError("the file ends before the end-of-stream marker")
            try:
                found: bytes = self._unpack.decompress(self._rest, max_length=max(size, 1))
            except (lzma.LZMAError, OSError) as error:
                raise OSError(f"{self._kind} decompress failed: {error}") from None
            self._rest = b""
            if found:
                return found


def as_text(stream: BinaryIO, place: str) -> BinaryIO:
    """The same bytes, unless they plainly are no UTF-8: told here, a whole file at once, rather than row by row."""
    buffered = (
        stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast("Any", stream), 1 << 17)
    )
    first = buffered.peek(4096)[:4096]
    wide = next((name for mark, name in _MARKS if first.startswith(mark)), None)
    if wide is None and first.count(0) * NUL_SHARE > len(first):
        wide = "UTF-16"
    if wide is not None:
        raise DataError(
            f"{place}: this is {wide} (or no text at all), and text is read as UTF-8.",
            remedy=f"Convert the file, for example: iconv -f {wide} -t UTF-8 IN > OUT",
        )
    return cast("BinaryIO", buffered)


_MARKS = [
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
]
