"""/v1/files: put in, list, read, delete. The body comes as a form and goes to a temporary file while it is counted and hashed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import FileResponse, Response

from luthier.app.uploaded import LARGEST_FILE_BYTES
from luthier.core.errors import LuthierError
from luthier.server.errors import ApiError
from luthier.server.routes import LISTED, Described, Form, Route

from .asked import answered, as_api_error, caller, worked
from .lanes import COMMON, DOWNLOADS, UPLOADS
from .multipart import read_form
from .query import LONGEST, asked_in, limit_of, newest_first, page

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from luthier.app.app import App
    from luthier.app.site import Caller, Site
    from luthier.store.uploaded import Arriving, UploadedFile

BODY_S = 1800.0
"""For half a gigabyte, 300 kB/s."""
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
OBJECT = ("id", "object")
NAMELESS = "upload"
"""What a file without a name is called, as OpenAI's Python client calls it."""


class FileRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/v1/files", "create", "files.write"),
        Route("GET", "/v1/files", "list", "files.read"),
        Route("GET", "/v1/files/{file_id}", "get", "files.read"),
        Route("DELETE", "/v1/files/{file_id}", "delete", "files.write"),
        Route("GET", "/v1/files/{file_id}/content", "content", "files.read"),
    )

    DESCRIBED: ClassVar = {
        "create": Described("The file.", takes=Form("file", FIELDS), gives=OBJECT),
        "list": Described("Files.", gives=LISTED, query=("after", "limit", "order", "purpose")),
        "get": Described("The file.", gives=OBJECT),
        "delete": Described("It is gone.", gives=(*OBJECT, "deleted")),
        "content": Described("Its bytes.", gives=bytes),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def create(self, request: Request) -> Response:
        app = await worked(self._site.app, caller(request))
        async with Arrival(app, request, "file", FIELDS, LARGEST_FILE_BYTES) as (form, arrived):
            if (purpose := form.fields.get("purpose")) is None:
                raise ApiError(400, "missing_required_parameter", "purpose is missing.", param="purpose")
            seconds = expires_after(
                {name: value for name, value in form.fields.items() if name.startswith("expires_after")}
            )
            name = NAMELESS if form.filename is None else form.filename
            file = await worked(app.uploaded.enter, arrived, name, purpose, expires_after_s=seconds)
        return await answered(shown, file)

    async def list(self, request: Request) -> Response:
        query = asked_in(request, ("after", "limit", "order", "purpose"), longest=LONGEST)
        asked: dict[str, Any] = {"after": query.get("after"), "purpose": query.get("purpose")}
        asked |= {"limit": limit_of(query, 10_000, 10_000), "newest_first": newest_first(query)}
        return await answered(self._list, caller(request), asked)

    async def get(self, request: Request, file_id: str) -> Response:
        return await answered(lambda: shown(self._site.app(caller(request)).uploaded.get(file_id)))

    async def delete(self, request: Request, file_id: str) -> Response:
        return await answered(self._delete, caller(request), file_id)

    async def content(self, request: Request, file_id: str) -> Response:
        app = await worked(self._site.app, caller(request))
        with contextlib.ExitStack() as held:
            held.enter_context(DOWNLOADS.of(caller(request).project))
            file, path = await worked(lambda: held.enter_context(app.uploaded.content(file_id)))
            headers = {"content-disposition": f'attachment; filename="{file.id}"'}
            return HeldFile(held.pop_all(), path, headers=headers)

    def _list(self, who: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
        found, more = self._site.app(who).uploaded.list(**asked)
        return page([shown(one) for one in found], more)

    def _delete(self, who: Caller, file_id: str) -> dict[str, Any]:
        self._site.app(who).uploaded.delete(file_id)
        return {"id": file_id, "object": "file", "deleted": True}


class HeldFile(FileResponse):
    """A file's bytes. `held` is closed when they were sent, or nobody takes them any more."""

    def __init__(self, held: contextlib.ExitStack, path: str | Path, headers: Mapping[str, str]) -> None:
        super().__init__(path, headers=headers, media_type="application/octet-stream")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


def declared_of(request: Request) -> int:
    """How many bytes the body is said to have; 0 where it is not said."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) <= 18 else 0


class Arrival:
    """Of a form with one file: (the form, what arrived) for as long as the block runs."""

    def __init__(
        self, app: App, request: Request, file_field: str, fields: tuple[str, ...], most_bytes: int
    ) -> None:
        self._app, self._request = app, request
        self._file_field, self._fields, self._most_bytes = file_field, fields, most_bytes
        self._opened = contextlib.ExitStack()

    async def __aenter__(self) -> tuple[Any, Arriving]:
        arriving = self._app.uploaded.arriving(self._most_bytes)
        try:
            self._opened.enter_context(UPLOADS.of(caller(self._request).project))
            await worked(self._app.uploaded.check_room, min(declared_of(self._request), self._most_bytes))
            arrived: Arriving = await worked(lambda: self._opened.enter_context(arriving))
            form = await read_form(
                self._request,
                self._file_field,
                self._fields,
                arrived.write,
                most_bytes=self._most_bytes,
                timeout_s=BODY_S,
            )
            if not form.has_file:
                name = self._file_field
                raise ApiError(400, "missing_required_parameter", f"{name} is missing.", param=name)
        except LuthierError as error:
            await COMMON.run(self._opened.close)
            raise error if isinstance(error, ApiError) else as_api_error(error) from error
        except BaseException:
            self._opened.close()
            raise
        return form, arrived

    async def __aexit__(self, *_: object) -> None:
        await COMMON.run(self._opened.close)


def expires_after(told: Mapping[str, Any]) -> int | None:
    """Of fields of a form. Raises ApiError 400."""
    if not told:
        return None
    anchor, seconds = told.get("expires_after[anchor]"), str(told.get("expires_after[seconds]", ""))
    if anchor != "created_at" or not re.fullmatch(r"[0-9]{1,9}", seconds):
        message = "expires_after is {anchor: 'created_at', seconds: a whole number}."
        raise ApiError(400, "invalid_value", message, param="expires_after")
    return int(seconds)


def shown(file: UploadedFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.details,
        "expires_at": None if file.expires_s is None else int(file.expires_s),
    }
