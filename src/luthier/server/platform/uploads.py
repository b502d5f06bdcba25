"""/v1/uploads: a large file in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.app.uploaded import LARGEST_PART_BYTES, LARGEST_UPLOAD_BYTES, MOST_PARTS
from luthier.server.parts import Wire, checked
from luthier.server.routes import Described, Form, Route

from .asked import answered, body_of, caller, worked
from .files import OBJECT, Arrival, shown

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site
    from luthier.store.uploaded import Upload, UploadedFile


class ExpiresAfter(Wire):
    anchor: Literal["created_at"]
    seconds: int


class Begin(Wire):
    filename: str = Field(max_length=1000)
    purpose: str = Field(max_length=100)
    bytes: int = Field(ge=0, le=LARGEST_UPLOAD_BYTES)
    mime_type: str = Field(max_length=128)
    expires_after: ExpiresAfter | None = None


class Complete(Wire):
    part_ids: list[str] = Field(max_length=MOST_PARTS)
    md5: str | None = Field(default=None, max_length=64)


class UploadRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/v1/uploads", "create", "files.write"),
        Route("POST", "/v1/uploads/{upload_id}/parts", "part", "files.write"),
        Route("POST", "/v1/uploads/{upload_id}/complete", "complete", "files.write"),
        Route("POST", "/v1/uploads/{upload_id}/cancel", "cancel", "files.write"),
    )

    DESCRIBED: ClassVar = {
        "create": Described("The upload.", takes=Begin, gives=OBJECT),
        "part": Described("The part.", takes=Form("data"), gives=OBJECT),
        "complete": Described("The upload, with its file.", takes=Complete, gives=(*OBJECT, "file")),
        "cancel": Described("The upload.", gives=OBJECT),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def create(self, request: Request) -> Response:
        return await answered(self._create, caller(request), checked(Begin, await body_of(request)))

    async def part(self, request: Request, upload_id: str) -> Response:
        app = await worked(self._site.app, caller(request))
        await worked(app.uploaded.upload, upload_id)  # before its bytes are read
        async with Arrival(app, request, "data", (), LARGEST_PART_BYTES) as (_, arrived):
            part = await worked(app.uploaded.add_part, upload_id, arrived)
        told = {
            "id": part.id,
            "object": "upload.part",
            "created_at": int(part.created_s),
            "upload_id": upload_id,
        }
        return await answered(lambda: told)

    async def complete(self, request: Request, upload_id: str) -> Response:
        body = checked(Complete, await body_of(request))
        return await answered(self._complete, caller(request), upload_id, body)

    async def cancel(self, request: Request, upload_id: str) -> Response:
        return await answered(self._cancel, caller(request), upload_id)

    def _create(self, who: Caller, body: Begin) -> dict[str, Any]:
        after = None if body.expires_after is None else body.expires_after.seconds
        begin = self._site.app(who).uploaded.begin
        return shown_upload(begin(body.filename, body.purpose, body.bytes, body.mime_type, after))

    def _complete(self, who: Caller, upload_id: str, body: Complete) -> dict[str, Any]:
        upload, file = self._site.app(who).uploaded.complete(upload_id, body.part_ids, body.md5)
        return shown_upload(upload, file)

    def _cancel(self, who: Caller, upload_id: str) -> dict[str, Any]:
        return shown_upload(self._site.app(who).uploaded.cancel(upload_id))


def shown_upload(upload: Upload, file: UploadedFile | None = None) -> dict[str, Any]:
    """OpenAI's upload object."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": int(upload.created_s),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.state,
        "expires_at": int(upload.expires_s),
        "file": None if file is None else shown(file),
    }
