"""What every endpoint of the platform is made of: the caller, the body, work in a thread, errors as OpenAI's clients read them.

async def create(self, request: Request) -> Response:
    asked = await Asked.read(request, self._limits)           # the body as strict JSON
    return await asked.answer(self._create, asked.body)        # in a thread: self._create(caller, body) -> plain JSON
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response

from luthier.app.site import Caller
from luthier.core.errors import (
    Busy,
    Conflict,
    GateFailed,
    LuthierError,
    MissingPart,
    NotAllowed,
    NotFound,
    OverBudget,
    StoreError,
)
from luthier.server.body import read_json
from luthier.server.errors import ApiError

from .lanes import COMMON, Lane
from .ring import caller_of

if TYPE_CHECKING:
    from fastapi import Request

logger = logging.getLogger("luthier.server")

LARGEST_BODY_BYTES = 4_000_000
BODY_TIMEOUT_S = 30.0


def caller(request: Request) -> Caller:
    """Who asks; the guard has let him pass."""
    return caller_of(request.state.key)


async def body_of(request: Request, largest_bytes: int = LARGEST_BODY_BYTES) -> dict[str, Any]:
    """The body as an object. Raises ApiError."""
    return await read_json(request, largest_bytes, BODY_TIMEOUT_S)


async def answered(
    work: Callable[..., Any], *given: Any, status: int = 200, lane: Lane = COMMON, **named: Any
) -> Response:
    """`work` in a thread, its plain result as JSON. Errors of ours become errors of the API."""
    return JSONResponse(await worked(work, *given, lane=lane, **named), status)


async def worked(work: Callable[..., Any], *given: Any, lane: Lane = COMMON, **named: Any) -> Any:
    try:
        return await lane.run(work, *given, **named)
    except ApiError:
        raise
    except LuthierError as error:
        raise as_api_error(error) from error


def as_api_error(error: LuthierError) -> ApiError:
    """What was wrong with the request as the client's; what is wrong here as ours, without telling more than that."""
    text = f"{error.message} {error.remedy}" if error.remedy else error.message
    match error:
        case NotAllowed():
            return ApiError(403, "not_allowed", text, cause=error)
        case OverBudget():
            return ApiError(429, "insufficient_quota", text, headers={"x-should-retry": "false"}, cause=error)
        case NotFound():
            return ApiError(404, "not_found", text, cause=error)
        case Conflict():
            return ApiError(409, "conflict", text, headers={"x-should-retry": "false"}, cause=error)
        case Busy():
            return ApiError(
                503, "busy", "The records are busy. Try again soon.", headers={"retry-after": "2"}
            )
        case StoreError() | MissingPart():
            logger.warning("%s", text)
            return ApiError(503, "unavailable", "The server cannot do this now; its log says why.")
        case GateFailed():
            return ApiError(409, "gate_failed", text, headers={"x-should-retry": "false"}, cause=error)
        case _:
            return ApiError(400, "invalid_value", text, cause=error)
