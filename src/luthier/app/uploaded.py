"""What people may ask of the files of a project: put in, list, read, delete; in one piece or in parts.

A file for fine-tuning is read whole as it comes in (app/tuning_rows), so that who uploads hears of faults with their lines at once and a
job can begin at once. A file that is no JSON Lines at all is refused; one with faulty lines is kept with status `error` and the reasons.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from luthier.core.errors import Conflict, NotFound, SpecError
from luthier.core.units import show_bytes
from luthier.store.files import check_free, explained
from luthier.store.objects import Object
from luthier.store.uploaded import Arriving, Upload, UploadedFile, UploadPart

from .tuning_rows import Checked, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .app import App

FINE_TUNE = "fine-tune"
RESULTS = "fine-tune-results"
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What a file may be put in for."""
LARGEST_FILE_BYTES = 512 * 1024 * 1024
LARGEST_PART_BYTES = 64 * 1024 * 1024
LARGEST_UPLOAD_BYTES = 8 * 1024**3
MOST_PARTS = 10_000
MOST_BYTES = 100 * 1024**3
"""Of one project, together."""
UPLOAD_S = 3600
SHORTEST_S, LONGEST_S = 3600, 2_592_000
LONGEST_NAME = 255
CHECKED = "file_check"
"""The kind of object that says what a file for fine-tuning holds."""


class Uploaded:
    """`app.uploaded`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._rows = app.store.uploaded
        self._objects = app.store.objects

    # -- in -----------------------------------------------------------------------------------------------------------

    def arriving(self, most_bytes: int = LARGEST_FILE_BYTES) -> AbstractContextManager[Arriving]:
        """A place to write to; `enter` or `add_part` keeps it."""
        return self._rows.arriving(most_bytes)

    def enter(
        self,
        arrived: Arriving,
        filename: str,
        purpose: str,
        *,
        expires_after_s: int | None = None,
        own: str | None = None,
    ) -> UploadedFile:
        """Raises SpecError, DataError for what cannot be a training file. `own`: made here under this id, for a purpose that
        nobody may upload for."""
        check_filename(filename)
        if own is None:
            check_purpose(purpose)
        self.check_room(arrived.size_bytes)
        arrived.close()
        file, found = self._file(arrived, filename, purpose, expires_after_s)
        file = file if own is None else replace(file, id=own)
        kept = self._rows.enter(file, arrived.path, self._act("file.uploaded", file))
        if found is not None:
            self._remember(kept.id, found)
        return kept

    def _file(
        self, arrived: Arriving, filename: str, purpose: str, expires_after_s: int | None
    ) -> tuple[UploadedFile, Checked | None]:
        found = check(arrived.path, filename) if purpose == FINE_TUNE else None
        details = found.told() if found else None
        now = time.time()
        file = UploadedFile(
            f"file-{secrets.token_hex(12)}", filename, purpose, arrived.size_bytes, arrived.sha256,
            "error" if details else "processed", self._by, now, details=details,
            expires_s=None if expires_after_s is None else now + check_expiry(expires_after_s),
        )  # fmt: skip
        return file, found

    def _remember(self, file_id: str, found: Checked) -> None:
        self._objects.add(Object(CHECKED, file_id, found.plain(), self._by, time.time()), act=None)

    def check_room(self, size_bytes: int) -> None:
        """Raises SpecError where the project has no room for that, StoreError where the disk has none."""
        if self._rows.size_bytes() + size_bytes > MOST_BYTES and not (
            self.sweep() and self._rows.size_bytes() + size_bytes <= MOST_BYTES
        ):
            raise SpecError(
                f"this project's files would be more than {show_bytes(MOST_BYTES)}.",
                remedy="Delete files that are no longer needed.",
            )
        check_free(self._rows.kept.temporary, size_bytes)

    # -- there --------------------------------------------------------------------------------------------------------

    def get(self, file_id: str) -> UploadedFile:
        return self._rows.file(file_id)

    def known(self, file_id: str) -> bool:
        """Whether there ever was such a file."""
        return self._rows.find(file_id) is not None

    def list(self, **asked: Any) -> tuple[Sequence[UploadedFile], bool]:
        """See store.uploaded.Uploaded.files: what has expired is not among them."""
        return self._rows.files(**asked)

    def sweep(self) -> int:
        """What has expired goes: files, and parts of uploads that nobody completed; how many."""
        return self._rows.sweep(lambda subject: self._app.actor.act("file.expired", subject))

    def check_of(self, file_id: str) -> Checked:
        """What a file for fine-tuning holds. Raises NotFound, SpecError for another file and for one with faults."""
        file = self.get(file_id)
        if file.purpose != FINE_TUNE:
            raise SpecError(
                f"the file {file_id} was uploaded for {file.purpose!r}.",
                remedy=f"Upload it with the purpose {FINE_TUNE!r}.",
            )
        if file.status == "error":
            raise SpecError(
                f"the file {file_id} cannot be trained on: {file.details}",
                remedy="Correct it and upload it again.",
            )
        known = self._objects.find(CHECKED, file_id)
        if known is not None:
            return Checked(**known.data)
        with self.content(file_id) as (_, path):  # the server died between the file and what it holds
            found = check(path, file.filename)
        self._remember(file_id, found)
        return found

    def copy(self, file_id: str, target: Path) -> UploadedFile:
        """Its bytes, verified, at `target`."""
        file = self.get(file_id)
        self._rows.kept.get(file.id, target, file.sha256)
        return file

    @contextmanager
    def content(self, file_id: str) -> Iterator[tuple[UploadedFile, Path]]:
        """The file and its bytes, verified, to read: where they are kept on this machine, else in a copy that is gone when the block ends."""
        file = self.get(file_id)
        kept = self._rows.kept.there(file.id, file.sha256)
        if kept is not None:
            yield file, kept
            return
        path = self._rows.kept.room()
        try:
            yield self.copy(file_id, path), path
        finally:
            path.unlink(missing_ok=True)

    def delete(self, file_id: str) -> None:
        """Raises NotFound. What was trained on it is another thing (`luthier data forget`)."""
        file = self.get(file_id)
        self._rows.end(file_id, self._act("file.deleted", file))

    # -- in parts -----------------------------------------------------------------------------------------------------

    def begin(
        self, filename: str, purpose: str, size_bytes: int, mime_type: str, expires_after_s: int | None = None
    ) -> Upload:
        check_filename(filename)
        check_purpose(purpose)
        if size_bytes > LARGEST_UPLOAD_BYTES:
            raise SpecError(
                f"{size_bytes:,} bytes are more than {LARGEST_UPLOAD_BYTES:,}.", remedy="Divide it."
            )
        self.check_room(size_bytes)
        expires = None if expires_after_s is None else {"seconds": check_expiry(expires_after_s)}
        now = time.time()
        upload = Upload(
            f"upload_{secrets.token_hex(12)}", filename, purpose, size_bytes, mime_type, self._by, now, now + UPLOAD_S, file_expires=expires
        )  # fmt: skip
        return self._rows.begin(upload, self._app.actor.act("upload.begun", upload.id, {"bytes": size_bytes}))

    def upload(self, upload_id: str) -> Upload:
        return self._rows.upload(upload_id)

    def add_part(self, upload_id: str, arrived: Arriving) -> UploadPart:
        there = self._rows.parts(upload_id)
        self._rows.upload(upload_id)
        if len(there) >= MOST_PARTS:
            raise SpecError(f"an upload has at most {MOST_PARTS:,} parts.", remedy="Send larger ones.")
        if sum(one.size_bytes for one in there.values()) + arrived.size_bytes > LARGEST_UPLOAD_BYTES:
            raise SpecError(
                f"the parts are more than {LARGEST_UPLOAD_BYTES:,} bytes.", remedy="Divide the file."
            )
        self.check_room(arrived.size_bytes)
        arrived.close()
        part = UploadPart(
            f"part_{secrets.token_hex(12)}", upload_id, arrived.sha256, arrived.size_bytes, time.time()
        )
        return self._rows.add_part(part, arrived.path)

    def complete(
        self, upload_id: str, part_ids: Sequence[str], md5: str | None = None
    ) -> tuple[Upload, UploadedFile]:
        """Raises NotFound, Conflict, SpecError where the parts are not what was announced."""
        upload = self._rows.upload(upload_id)
        if upload.state != "pending":
            raise Conflict(f"the upload {upload_id} is {upload.state}.", remedy="Begin another one.")
        parts = self._rows.parts(upload_id)
        if len(set(part_ids)) < len(part_ids):
            raise SpecError("a part is named twice.", remedy="Name each part once, in order.")
        for part_id in part_ids:
            if part_id not in parts:
                raise NotFound(f"the upload {upload_id} has no part {part_id[:80]!r}.")
        total = sum(parts[one].size_bytes for one in part_ids)
        if total != upload.size_bytes:
            raise SpecError(
                f"the parts hold {total:,} bytes, and {upload.size_bytes:,} were announced.",
                remedy="Name all parts, in order.",
            )
        with self._rows.arriving(LARGEST_UPLOAD_BYTES) as whole:
            for part_id in part_ids:
                self._append(whole, parts[part_id])
            if md5 is not None and md5.lower() != whole.md5:
                raise SpecError(
                    "the MD5 of the parts together is another one.", remedy="Send the parts again."
                )
            whole.close()
            after = (upload.file_expires or {}).get("seconds")
            file, found = self._file(whole, upload.filename, upload.purpose, after)
            done = self._rows.finish(
                upload_id, "completed", self._act("file.uploaded", file), file, whole.path
            )
        if found is not None:
            self._remember(file.id, found)
        return done, file

    def _append(self, whole: Arriving, part: UploadPart) -> None:
        path = self._rows.kept.room()
        try:
            self._rows.kept.get(part.id, path, part.sha256)
            with explained(path.parent), path.open("rb") as handle:
                while chunk := handle.read(1 << 20):
                    whole.write(chunk)
        finally:
            path.unlink(missing_ok=True)

    def cancel(self, upload_id: str) -> Upload:
        return self._rows.finish(upload_id, "cancelled", self._app.actor.act("upload.cancelled", upload_id))

    # -- common -------------------------------------------------------------------------------------------------------

    @property
    def _by(self) -> str:
        return self._app.actor.id

    def _act(self, action: str, file: UploadedFile) -> Any:
        told = {"purpose": file.purpose, "bytes": file.size_bytes, "sha256": file.sha256}
        return self._app.actor.act(action, file.id, told)


def check_filename(name: str) -> str:
    """A name to show. It is never a path here, and one that would be a path elsewhere is refused, however it is written. Raises SpecError.

    >>> check_filename("rows.jsonl")
    'rows.jsonl'
    """
    plain = unquote(unquote(name))
    wrong = (
        not name.strip()
        or len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME
        or any(sign in plain for sign in "/\\")
        or plain.strip() in (".", "..")
        or not name.isprintable()
        or not plain.isprintable()
    )
    if wrong:
        raise SpecError(
            "the file's name is empty, too long, or holds a slash, a backslash or a control character.",
            remedy=f"Send a plain name of at most {LONGEST_NAME} bytes, such as rows.jsonl.",
        )
    return name


def check_purpose(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise SpecError(f"there is no purpose {purpose[:60]!r}.", remedy=f"There are {', '.join(PURPOSES)}.")
    return purpose


def check_expiry(seconds: int) -> int:
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise SpecError(
            f"expires_after.seconds is {seconds}; it is {SHORTEST_S} to {LONGEST_S}.",
            remedy="Choose another time.",
        )
    return seconds
