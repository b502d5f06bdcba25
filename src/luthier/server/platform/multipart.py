"""A form with one file, read as it arrives (multipart/form-data, RFC 7578): the file goes on in pieces, the other fields are short texts.

    form = await read_form(request, "file", FIELDS, write)      fields and file in any order, body of known length or chunked

What two readers could take differently is refused: a preamble, a field that stands twice, a header that changes how a part is read, a
file name in two spellings. Nothing is guessed and nothing is skipped. Not here: where the bytes go, what a field may say.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.server.errors import ApiError

from .lanes import COMMON

if TYPE_CHECKING:
    from fastapi import Request

LONGEST_HEAD = 4096
LONGEST_FIELD = 4096
PIECE_BYTES = 1 << 18
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=?-]{1,70}", re.ASCII)
_TYPE = re.compile(r'multipart/form-data[ \t]*;[ \t]*boundary=(?:"([^"]*)"|([^\s;"]+))[ \t]*', re.IGNORECASE)
_PARAMETER = re.compile(r';[ \t]*([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_HEADERS = frozenset({"content-disposition", "content-type", "content-length"})

Write = Callable[[bytes], None]


@dataclass
class Form:
    """`filename` None: the file's part had none."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    has_file: bool = False


@dataclass(frozen=True)
class _Head:
    name: str
    filename: str | None


async def read_form(
    request: Request,
    file_field: str,
    fields: Collection[str],
    write: Write,
    *,
    most_bytes: int,
    timeout_s: float,
) -> Form:
    """`write` is called in a thread, with pieces in order. Raises ApiError 400, 408, 413 or 415, and what `write` raises."""
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "0")
    most = most_bytes + (len(fields) + 2) * (LONGEST_HEAD + LONGEST_FIELD)
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _Reader(request.stream(), boundary, file_field, fields, write, most_bytes).read()
    except TimeoutError:
        message = f"The body did not arrive within {timeout_s:g} s."
        raise ApiError(408, "request_timeout", message, headers={"connection": "close"}) from None


class _Reader:
    def __init__(
        self, stream: AsyncIterator[bytes], boundary: bytes, file_field: str, fields: Collection[str], write: Write, most_bytes: int
    ) -> None:  # fmt: skip
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary
        self._file_field, self._fields = file_field, fields
        self._write, self._most_bytes = write, most_bytes
        self._held = bytearray(b"\r\n")  # so that the first delimiter looks like the others
        self._over = False

    async def read(self) -> Form:
        form = Form()
        await self._need(len(self._delimiter))
        if not self._held.startswith(self._delimiter):
            raise _broken("it does not begin with its boundary")
        del self._held[: len(self._delimiter)]
        while await self._goes_on():
            head = _head(await self._until(b"\r\n\r\n", LONGEST_HEAD, "a part's headers"))
            if head.name == self._file_field and not form.has_file:
                form.has_file, form.filename = True, head.filename
                await self._file()
            elif head.name in self._fields and head.name not in form.fields and head.filename is None:
                text = await self._until(self._delimiter, LONGEST_FIELD, f"the field {head.name!r}")
                form.fields[head.name] = _text(text)
            elif head.name in (*form.fields, self._file_field):
                raise _broken(f"the field {head.name[:60]!r} stands there twice, or is a file")
            else:
                raise ApiError(
                    400,
                    "unknown_parameter",
                    f"There is no field {head.name[:60]!r} here.",
                    param=head.name[:60],
                )
        await self._end()
        return form

    async def _goes_on(self) -> bool:
        """After a delimiter: whether a part follows."""
        await self._need(2)
        following = bytes(self._held[:2])
        del self._held[:2]
        if following not in (b"\r\n", b"--"):
            raise _broken("a boundary is not followed by a line break")
        return following == b"\r\n"

    async def _file(self) -> None:
        size = 0
        while True:
            at = self._held.find(self._delimiter)
            # a delimiter may have begun at the very end of what is held
            ready = at if at >= 0 else max(0, len(self._held) - len(self._delimiter) + 1)
            if at >= 0 or ready >= PIECE_BYTES:
                size += ready
                if size > self._most_bytes:
                    raise _too_large(self._most_bytes)
                if ready:
                    piece = bytes(memoryview(self._held)[:ready])
                    await COMMON.run(self._write, piece)
                    del self._held[:ready]
            if at >= 0:
                del self._held[: len(self._delimiter)]
                return
            if not await self._more():
                raise _broken("it ends within the file")

    async def _until(self, mark: bytes, most: int, what: str) -> bytes:
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > most + len(mark):
                raise _broken(f"{what} are more than {most} bytes")
            if not await self._more():
                raise _broken(f"it ends within {what}")
        if at > most:
            raise _broken(f"{what} are more than {most} bytes")
        found = bytes(self._held[:at])
        del self._held[: at + len(mark)]
        return found

    async def _need(self, size: int) -> None:
        while len(self._held) < size:
            if not await self._more():
                raise _broken("it ends too early")

    async def _more(self) -> bool:
        async for chunk in self._stream:
            if chunk:
                self._held += chunk
                return True
        self._over = True
        return False

    async def _end(self) -> None:
        while await self._more():
            if len(self._held) > 2:
                break
        if bytes(self._held) not in (b"", b"\r\n"):
            raise _broken("something follows its end")


def _boundary(request: Request) -> bytes:
    match = _TYPE.fullmatch(request.headers.get("content-type", ""))
    found = (match[1] or match[2] or "") if match else ""
    if "content-encoding" in request.headers or not _BOUNDARY.fullmatch(found):
        message = "Send the body as multipart/form-data with a boundary, not compressed."
        raise ApiError(415, "unsupported_media_type", message)
    return found.encode()


def _head(raw: bytes) -> _Head:
    told: dict[str, str] = {}
    for line in _text(raw).split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name not in _HEADERS or name in told:
            raise _broken(f"a part has the header {line[:60]!r}, which is not read here")
        told[name] = value.strip(" \t")
    written = told.get("content-disposition", "")
    kind, rest = written[:9].lower(), written[9:]
    parameters: dict[str, str] = {}
    at = 0
    for match in _PARAMETER.finditer(rest):
        if match.start() != at or match[1].lower() in parameters:
            break
        value = match[2] if match[2] is not None else match[3]
        parameters[match[1].lower()] = re.sub(r"\\(.)", r"\1", value).replace("%22", '"')
        at = match.end()
    if (
        kind != "form-data"
        or rest[at:].strip(" \t")
        or not set(parameters) <= {"name", "filename"}
        or not parameters.get("name")
    ):
        raise _broken(f"a part's content-disposition is not read here: {written[:80]!r}")
    return _Head(parameters["name"], parameters.get("filename"))


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _broken("a header or a field is not UTF-8") from None


def _broken(why: str) -> ApiError:
    return ApiError(
        400,
        "invalid_multipart",
        f"The body cannot be read as a form: {why}.",
        headers={"connection": "close"},
    )


def _too_large(most_bytes: int) -> ApiError:
    message = f"The file is larger than {most_bytes:,} bytes."
    return ApiError(413, "request_too_large", message, headers={"connection": "close"})
