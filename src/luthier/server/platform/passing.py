"""Files on their way into a project and out of it (app/passing): sent as they are, fetched by their SHA-256."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from typing import TYPE_CHECKING, ClassVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from luthier.app.passing import Passing
from luthier.core.errors import LuthierError
from luthier.server.errors import ApiError
from luthier.server.routes import Described, Route

from .asked import as_api_error, caller, worked
from .files import HeldFile, declared_of
from .lanes import COMMON, DOWNLOADS, UPLOADS

if TYPE_CHECKING:
    from luthier.app.site import Site

LARGEST_BYTES = 20 * 10**9
IDLE_S = 60.0
"""How long a part may take to come."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class PassingRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/luthier/v1/passing", "send", "feedback"),
        Route("HEAD", "/luthier/v1/passing/{sha256}", "look", "records.read"),
        Route("GET", "/luthier/v1/passing/{sha256}", "fetch", "records.read"),
    )
    DESCRIBED: ClassVar = {
        "send": Described("The bytes are here.", takes=bytes, gives=("sha256", "size_bytes")),
        "look": Described("It is here."),
        "fetch": Described("The bytes.", gives=bytes),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def send(self, request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/octet-stream" or "content-encoding" in request.headers:
            raise ApiError(
                415, "unsupported_media_type", "Send the bytes as application/octet-stream, not compressed."
            )
        if (declared := declared_of(request)) > LARGEST_BYTES:
            raise ApiError(
                413,
                "request_too_large",
                f"The file is larger than {LARGEST_BYTES:,} bytes.",
                headers={"connection": "close"},
            )
        with UPLOADS.of(caller(request).project):
            return await self._send(request, await self._passing(request), declared)

    async def _send(self, request: Request, passing: Passing, declared: int) -> Response:
        parts = request.stream()
        try:
            with passing.arriving(LARGEST_BYTES, declared) as found:
                while True:
                    async with asyncio.timeout(IDLE_S):
                        part = await anext(parts, None)
                    if part is None:
                        break
                    await COMMON.run(found.write, part)
        except TimeoutError:
            raise ApiError(
                408, "request_timeout", f"No part came within {IDLE_S:g} s.", headers={"connection": "close"}
            ) from None
        except ApiError:
            raise
        except LuthierError as error:
            raise as_api_error(error) from error
        return JSONResponse({"sha256": found.sha256, "size_bytes": found.size_bytes})

    async def look(self, request: Request, sha256: str) -> Response:
        await self._found(request, sha256)
        return Response()

    async def fetch(self, request: Request, sha256: str) -> Response:
        digest = base64.b64encode(bytes.fromhex(sha256)).decode() if _SHA256.fullmatch(sha256) else ""
        with contextlib.ExitStack() as held:
            held.enter_context(DOWNLOADS.of(caller(request).project))
            path = await self._found(request, sha256)
            return HeldFile(
                held.pop_all(),
                path,
                headers={"repr-digest": f"sha-256=:{digest}:", "content-disposition": "attachment"},
            )

    async def _found(self, request: Request, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise ApiError(400, "invalid_value", "That is no SHA-256.", param="sha256")
        passing = await self._passing(request)
        return str(await worked(passing.find, sha256))

    async def _passing(self, request: Request) -> Passing:
        app = await worked(self._site.app, caller(request))
        return Passing(app.home)
