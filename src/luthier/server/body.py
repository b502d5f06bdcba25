"""Reading a request's body: bounded in size and time, and JSON that means one thing only.

Python's reader accepts NaN, 1e999, repeated keys and lone surrogates, and stops with different errors at deep nesting
and long numbers. Each would become a 500, or two readers seeing two requests, so each is refused here.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from luthier.core.strict_json import finite, no_constant, once
from luthier.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

DEEPEST = 32
LONGEST_INTEGER = 20  # digits, sign included: all of 64 bits


async def read_json(request: Request, largest_bytes: int, timeout_s: float) -> dict[str, Any]:
    """The object in the body. Raises ApiError 400, 408, 413 or 415."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" or "content-encoding" in request.headers:
        raise ApiError(
            415, "unsupported_media_type", "Send the body as plain application/json, not compressed."
        )
    value = strict_json(await _read(request, largest_bytes, timeout_s))
    if not isinstance(value, dict):
        raise _not_json(f"it holds a {type(value).__name__}, not an object")
    return value


async def _read(request: Request, largest_bytes: int, timeout_s: float) -> bytes:
    too_large = ApiError(
        413,
        "request_too_large",
        f"The body is larger than {largest_bytes:,} bytes.",
        headers={"connection": "close"},
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > largest_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > largest_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(
            408,
            "request_timeout",
            f"The body did not arrive within {timeout_s:g} s.",
            headers={"connection": "close"},
        ) from None
    return bytes(body)


def strict_json(body: bytes) -> Any:
    """A JSON value that every reader would read the same way. Raises ApiError 400.

    >>> strict_json(b'{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=once,
            parse_constant=no_constant,
            parse_int=_integer,
            parse_float=finite,
        )
    except RecursionError:
        raise _not_json(f"it is nested deeper than {DEEPEST} levels") from None
    except UnicodeDecodeError:
        raise _not_json("it is not UTF-8") from None
    except ValueError as error:
        raise _not_json(str(error)) from None
    _check(value)
    return value


def _not_json(why: str) -> ApiError:
    return ApiError(400, "invalid_json", f"The body cannot be read as JSON: {why}.")


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"an integer has {len(text)} digits, more than {LONGEST_INTEGER}")
    return int(text)


def _check(value: Any) -> None:
    """Depth and lone surrogates, without recursion."""
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > DEEPEST:
            raise _not_json(f"it is nested deeper than {DEEPEST} levels")
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, dict):
            for key, child in item.items():
                _check_text(key)
                todo.append((child, depth + 1))
        elif isinstance(item, list):
            todo.extend((child, depth + 1) for child in item)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _not_json("a string holds half of a surrogate pair") from None
