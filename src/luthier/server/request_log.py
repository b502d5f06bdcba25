"""`luthier serve --log json`: one line of JSON for each request, and for whatever else the server says. No text of any message."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from luthier.server.watch import Seen


def line_of(seen: Seen) -> dict[str, Any]:
    """What is told of a request. Lengths and names, no content; a user is not in it, not even as a hash."""
    told: dict[str, Any] = {
        "time": datetime.fromtimestamp(seen.began_s, UTC).isoformat(timespec="milliseconds"),
        "level": "info" if seen.status < 500 else "error",
        "event": "request",
        "request_id": seen.request_id,
        "method": seen.method,
        "route": seen.route,
        "status": seen.status,
        "code": seen.code,
        "key_id": seen.key_id,
        "elapsed_s": round(seen.elapsed_s, 6),
    }
    if seen.guarded:
        told["guarded"] = dict(seen.guarded)
    if (exchange := seen.exchange) is not None:
        told |= {
            "id": exchange.id,
            "model": exchange.model,
            "release": exchange.release,
            "package": exchange.package_digest[:12],
            "prompt_tokens": exchange.prompt_tokens,
            "completion_tokens": exchange.completion_tokens,
            "finish": list(exchange.finish),
            "streamed": exchange.streamed,
            "first_token_s": exchange.first_token_s and round(exchange.first_token_s, 6),
            "latency_s": round(exchange.latency_s, 6),
        }
        if exchange.cost is not None:
            told["cost"] = {"amount": exchange.cost[0], "currency": exchange.cost[1]}
    return told


def to_lines(write: Callable[[str], object]) -> Callable[[Seen], None]:
    """An observer (`watch`) that writes each request as a line. ASCII only: no control character reaches a terminal."""

    def told(seen: Seen) -> None:
        write(json.dumps(line_of(seen)))

    return told


class JsonLines(logging.Formatter):
    """What the server logs beside requests, in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            told["error"] = type(record.exc_info[1]).__name__
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)
