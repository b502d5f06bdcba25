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
from luthier.store.retries import Try

if TYPE_CHECKING:
    from fastapi import Request

HEADER, COUNT = "idempotency-key", "x-stainless-retry-count"
LONGEST = 255


def known_by(request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
    """{"once": ..., "tried": ...} of which one is None, as app.fine_tuning takes them. Raises ApiError 400."""
    key, count = request.headers.get(HEADER), request.headers.get(COUNT, "0")
    said = canonical({"path": request.url.path, "body": body})
    if key is not None:
        if not 0 < len(key) <= LONGEST or not key.isprintable():
            raise ApiError(
                400, "invalid_value", f"{HEADER} is 1 to {LONGEST} printable characters.", param=HEADER
            )
        return {"once": (f"{request.url.path}:{key}", hashlib.sha256(said).hexdigest()), "tried": None}
    who = request.state.key.id
    words = hashlib.sha256(f"{who}:".encode() + said).hexdigest()
    times = int(count) if count.isascii() and count.isdecimal() and len(count) < 4 else 0
    return {"once": None, "tried": Try(words, times, time.time())}
