"""Files and uploads: `file_id` is there whenever it is asked for, `upload_abc123` takes parts whenever it is sent one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from luthier.store.tables import upload_parts, uploaded_files, uploads
from luthier.store.uploaded import Upload, UploadedFile, UploadPart

if TYPE_CHECKING:
    from tenant import Tenant

TESTS = (
    "tests/api_resources/test_files.py",
    "tests/api_resources/test_uploads.py",
    "tests/api_resources/uploads/test_parts.py",
)
_MD5 = "the MD5 that it sends is the word `md5`, which no bytes have; a wrong one is refused here (400)"
_UPLOADS = "tests/api_resources/test_uploads.py"
SKIPPED: Mapping[str, str] = {
    f"{_UPLOADS}::TestUploads::test_method_complete_with_all_params": _MD5,
    f"{_UPLOADS}::TestAsyncUploads::test_method_complete_with_all_params": _MD5,
}
NAMES: Mapping[str, Mapping[str, str]] = {}
DATA = b"Example data"


def seed(tenant: Tenant) -> None:
    for file_id in ("file_id", "after"):
        put(tenant, file_id, "assistants", DATA)


def restore(tenant: Tenant, _method: str, path: str) -> None:
    if path.startswith("/v1/files/file_id"):
        put(tenant, "file_id", "assistants", DATA)
    if path.startswith("/v1/uploads/upload_abc123"):
        _upload(tenant, complete=path.endswith("/complete"))


def put(tenant: Tenant, file_id: str, purpose: str, data: bytes) -> None:
    """A file under an id of the tests' choosing."""
    app = tenant.site.app(tenant.caller)
    store = app.store.uploaded
    if (there := store.find(file_id)) is not None and there.there:
        return
    with app.store.database.transaction() as connection:
        connection.execute(uploaded_files.delete().where(uploaded_files.c.id == file_id))
    with store.arriving(len(data)) as arrived:
        arrived.write(data)
        arrived.close()
        file = UploadedFile(
            file_id, "rows.jsonl", purpose, len(data), arrived.sha256, "processed", "seed", time.time()
        )
        store.enter(file, arrived.path, app.actor.act("file.uploaded", file_id))


def _upload(tenant: Tenant, *, complete: bool) -> None:
    """Pending; where it is to be completed, with the one part that the tests name."""
    app = tenant.site.app(tenant.caller)
    now = time.time()
    upload = Upload(
        "upload_abc123", "rows.jsonl", "assistants", len(DATA), "text/plain", "seed", now, now + 3600
    )
    with app.store.database.transaction() as connection:
        connection.execute(upload_parts.delete().where(upload_parts.c.upload == upload.id))
        connection.execute(uploads.delete().where(uploads.c.id == upload.id))
    app.store.uploaded.begin(upload, app.actor.act("upload.begun", upload.id))
    if complete:
        path = app.store.uploaded.kept.room()
        path.write_bytes(DATA)
        app.store.uploaded.kept.drop("string")
        part = UploadPart("string", upload.id, hashlib.sha256(DATA).hexdigest(), len(DATA), now)
        app.store.uploaded.add_part(replace(part), path)
