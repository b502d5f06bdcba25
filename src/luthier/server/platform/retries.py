"""A request that comes twice is worked on once.

OpenAI's SDKs send a POST again after a timeout or a 5xx without saying which one it was; they only count (x-stainless-retry-count). So the
first try is remembered under what it said, and one that counts above 0 finds it: for the same project, the same key and the same body,
within a day. Who means to make two equal jobs sends two first tries. An Idempotency-Key says outright which requests are one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import canonical
from luthier.server.errors import ApiError
from luthier.server.routes import LONGEST_ONCE
from luthier.store.retries import Try

if TYPE_CHECKING:
    from fastapi import Request

HEADER, COUNT = "idempotency-key", "x-stainless-retry-count"
Once = tuple[str, str]
"""What the caller calls a request, and the SHA-256 of what it is."""


def once(request: Request, body: Any) -> Once | None:
    """None where it is called nothing. Raises ApiError 400."""
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not 0 < len(given[0]) <= LONGEST_ONCE or not given[0].isprintable():
        raise ApiError(
            400, "invalid_value", f"Idempotency-Key is 1 to {LONGEST_ONCE} printable characters, once.", param="Idempotency-Key"
        )  # fmt: skip
    return f"{request.url.path}:{given[0]}", hashlib.sha256(_said(request, body)).hexdigest()


def known_by(request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
    """{"once": ..., "tried": ...} of which one is None, as app.fine_tuning takes them. Raises ApiError 400."""
    named = once(request, body)
    if named is not None:
        return {"once": named, "tried": None}
    count = request.headers.get(COUNT, "0")
    who = request.state.key.id
    words = hashlib.sha256(f"{who}:".encode() + _said(request, body)).hexdigest()
    times = int(count) if count.isascii() and count.isdecimal() and len(count) < 4 else 0
    return {"once": None, "tried": Try(words, times, time.time())}


def _said(request: Request, body: Any) -> bytes:
    return canonical({"path": request.url.path, "body": body})
