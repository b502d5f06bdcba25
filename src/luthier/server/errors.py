"""Errors as a client sees them: OpenAI's envelope, whatever went wrong.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

status  type                    code
400     invalid_request_error   invalid_json, invalid_value, missing_required_parameter, unknown_parameter,
                                unsupported_parameter, unsupported_model, context_length_exceeded, invalid_messages,
                                content_filter, invalid_multipart
401     authentication_error    invalid_api_key, login_failed
403     permission_error        host_not_allowed, origin_not_allowed, csrf, insufficient_permissions
404     not_found_error         model_not_found, exchange_not_found, not_found, unknown_route
405     invalid_request_error   method_not_allowed
408     timeout_error           request_timeout
409     invalid_request_error   conflict, gate_failed                         with x-should-retry: false
413     invalid_request_error   request_too_large
415     invalid_request_error   unsupported_media_type
429     rate_limit_error        queue_full, rate_limit_exceeded               with Retry-After
429     rate_limit_error        insufficient_quota                            with x-should-retry: false
500     server_error            internal_error, not_recorded                  nothing about the cause but its id
503     server_error            engine_unavailable, model_loading, busy       with Retry-After
504     timeout_error           deadline_exceeded                             with x-should-retry: false
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from luthier.core.errors import LuthierError
from luthier.serving.engine import Refused, Unavailable

logger = logging.getLogger("luthier.server")

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


class ApiError(LuthierError):
    """An answer that is an error. `headers` are sent with it. `cause`: what App raised, told as `error.luthier` to clients of ours."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        cause: LuthierError | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def envelope(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        if self.cause is not None:
            who = {
                "kind": type(self.cause).__name__,
                "message": self.cause.message,
                "remedy": self.cause.remedy,
            }
            return {"error": {**told, "luthier": who}}
        return {"error": told}

    @property
    def body(self) -> bytes:
        # ASCII escapes: a message may quote what a client sent, lone surrogates included
        return json.dumps(self.envelope).encode()


def internal(request_id: str) -> ApiError:
    return ApiError(
        500, "internal_error", f"Something failed here, not in your request. Its id is {request_id}."
    )


def from_engine(error: Exception, request_id: str, model: str) -> ApiError:
    """How an engine's error looks from outside. Only what the client can act upon is told; what is not its doing is logged."""
    if isinstance(error, Refused):
        message = f"{error.message} {error.remedy}" if error.remedy else error.message
        return ApiError(400, error.code, message, param=error.param)
    logger.error("%s: the engine of %r failed", request_id, model, exc_info=error)
    if isinstance(error, Unavailable):
        return ApiError(
            503,
            "engine_unavailable",
            "The model is not ready to answer. Try again soon.",
            headers={"retry-after": "5"},
        )
    return internal(request_id)
