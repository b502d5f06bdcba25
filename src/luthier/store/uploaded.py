"""Files that people put into a project: rows in its database, bytes beside its blobs (store/kept).

    arriving ──▶ Arriving: a temporary file, counted and hashed as it comes ──▶ enter: bytes kept, then the row

Large files come in parts (uploads): each part is kept until the upload is completed, cancelled or has expired. A row that is ended is no
longer found and its bytes are gone; it keeps its place, so that a list can go on after it. A client's name is text to show, never a path.
Not here: what a file must hold (app/uploaded).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from luthier.core.errors import Conflict, NotFound, SpecError

from .audit import Act, Audit
from .database import Database
from .files import explained
from .kept import Kept
from .tables import upload_parts, uploaded_files, uploads

Status = Literal["uploaded", "processed", "error"]


@dataclass(frozen=True)
class UploadedFile:
    """`details`: why the status is error."""

    id: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    status: Status
    by: str
    created_s: float
    details: str | None = None
    expires_s: float | None = None
    ended_s: float | None = None
    seq: int | None = None

    @property
    def there(self) -> bool:
        return self.ended_s is None and (self.expires_s is None or self.expires_s > time.time())


@dataclass(frozen=True)
class Upload:
    """A file that comes in parts. `file_expires`: {"seconds": N}, of the file that it becomes."""

    id: str
    filename: str
    purpose: str
    size_bytes: int
    mime_type: str
    by: str
    created_s: float
    expires_s: float
    state: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    file: str | None = None
    file_expires: Mapping[str, Any] | None = None

    def now(self) -> Upload:
        """As it is now: what nobody completed in time has expired."""
        late = self.state == "pending" and self.expires_s <= time.time()
        return replace(self, state="expired") if late else self


@dataclass(frozen=True)
class UploadPart:
    id: str
    upload: str
    sha256: str
    size_bytes: int
    created_s: float


class Arriving:
    """Bytes on their way in. Raises SpecError for one byte more than `most_bytes`."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.size_bytes = 0
        self._most_bytes = most_bytes
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(
            usedforsecurity=False
        )  # OpenAI's clients may say it, to notice a damaged upload
        self._handle = open(path, "xb")  # noqa: SIM115  (closed by `arriving`)

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > self._most_bytes:
            raise SpecError(
                f"the file is larger than {self._most_bytes:,} bytes.",
                remedy="Send it in parts (/v1/uploads), or divide it.",
            )
        self._sha256.update(data)
        self._md5.update(data)
        with explained(self.path.parent):
            self._handle.write(data)

    def close(self) -> None:
        with explained(self.path.parent):
            self._handle.close()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


class Uploaded:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit, kept: Kept) -> None:
        self._database = database
        self._audit = audit
        self.kept = kept

    # -- files ------------------------------------------------------------------------------------------------------

    @contextmanager
    def arriving(self, most_bytes: int) -> Iterator[Arriving]:
        """A place to write to; what was not entered when the block ends is gone."""
        path = self.kept.room()
        with explained(path.parent):
            arriving = Arriving(path, most_bytes)
        try:
            yield arriving
        finally:
            arriving.close()
            path.unlink(missing_ok=True)

    def enter(self, file: UploadedFile, path: Path, act: Act) -> UploadedFile:
        """Keep the bytes at `path` under this row. Bytes first: a row never stands without them."""
        self.kept.put(path, file.id)
        values = {name: value for name, value in vars(file).items() if name != "seq"}
        try:
            with self._database.transaction() as connection:
                query = uploaded_files.insert().values(values).returning(uploaded_files.c.seq)
                seq = connection.execute(query).scalar_one()
                self._audit.enter(connection, act)
        except BaseException:
            self.kept.drop(file.id)
            raise
        return replace(file, seq=seq)

    def file(self, file_id: str) -> UploadedFile:
        """Raises NotFound, for what was deleted or has expired too."""
        found = self.find(file_id)
        if found is None or not found.there:
            raise NotFound(f"there is no file {file_id[:80]!r} in this project.")
        return found

    def find(self, file_id: str) -> UploadedFile | None:
        """What is gone too."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(uploaded_files).where(uploaded_files.c.id == file_id)).first()
        return None if row is None else UploadedFile(**row._mapping)

    def files(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        newest_first: bool = True,
    ) -> tuple[Sequence[UploadedFile], bool]:
        """(files, whether there are more). Raises NotFound where `after` never was."""
        seq = uploaded_files.c.seq
        query = sa.select(uploaded_files).where(uploaded_files.c.ended_s.is_(None)).limit(limit + 1)
        expires = uploaded_files.c.expires_s
        query = query.where(sa.or_(expires.is_(None), expires > time.time()))
        query = query.order_by(seq.desc() if newest_first else seq)
        if purpose is not None:
            query = query.where(uploaded_files.c.purpose == purpose)
        if after is not None:
            if (last := self.find(after)) is None:
                raise NotFound(f"there is no file {after[:80]!r} to go on after.")
            query = query.where(seq < last.seq if newest_first else seq > last.seq)
        with self._database.reading() as connection:
            found = [UploadedFile(**row._mapping) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def size_bytes(self) -> int:
        """Of all that is kept: files, and parts of uploads."""
        total = 0
        with self._database.reading() as connection:
            for column, where in (
                (uploaded_files.c.size_bytes, uploaded_files.c.ended_s.is_(None)),
                (upload_parts.c.size_bytes, sa.true()),
            ):
                total += int(connection.execute(sa.select(sa.func.sum(column)).where(where)).scalar() or 0)
        return total

    def end(self, file_id: str, act: Act) -> None:
        """Delete a file: it is no longer found, and then its bytes are gone. Raises NotFound."""
        gone = uploaded_files.c.id == file_id, uploaded_files.c.ended_s.is_(None)
        with self._database.transaction() as connection:
            done = connection.execute(uploaded_files.update().where(*gone).values(ended_s=time.time()))
            if not done.rowcount:
                raise NotFound(f"there is no file {file_id[:80]!r} in this project.")
            self._audit.enter(connection, act)
        self.kept.drop(file_id)

    def sweep(self, act_of: Any) -> int:
        """Delete what has expired: files, and the parts of uploads that nobody completed. `act_of(subject)`: the entry for one. How many."""
        now = time.time()
        with self._database.reading() as connection:
            query = sa.select(uploaded_files.c.id).where(
                uploaded_files.c.ended_s.is_(None), uploaded_files.c.expires_s <= now
            )
            late = list(connection.execute(query).scalars())
            query = sa.select(uploads.c.id).where(uploads.c.state == "pending", uploads.c.expires_s <= now)
            stale = list(connection.execute(query).scalars())
        for file_id in late:
            with suppress(NotFound):  # another process was quicker
                self.end(file_id, act_of(file_id))
        for upload_id in stale:
            with suppress(NotFound, Conflict):
                self.finish(upload_id, "expired", act_of(upload_id))
        return len(late) + len(stale)

    # -- uploads: files in parts ------------------------------------------------------------------------------------

    def begin(self, upload: Upload, act: Act) -> Upload:
        with self._database.transaction() as connection:
            connection.execute(uploads.insert().values(vars(upload)))
            self._audit.enter(connection, act)
        return upload

    def upload(self, upload_id: str) -> Upload:
        """As it is now. Raises NotFound."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(uploads).where(uploads.c.id == upload_id)).first()
        if row is None:
            raise NotFound(f"there is no upload {upload_id[:80]!r} in this project.")
        return Upload(**row._mapping).now()

    def add_part(self, part: UploadPart, path: Path) -> UploadPart:
        """Raises NotFound; Conflict where the upload takes no more."""
        self.kept.put(path, part.id)
        try:
            with self._database.transaction() as connection:
                self._pending(connection, part.upload)
                connection.execute(upload_parts.insert().values(vars(part)))
        except BaseException:
            self.kept.drop(part.id)
            raise
        return part

    def parts(self, upload_id: str) -> dict[str, UploadPart]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(upload_parts).where(upload_parts.c.upload == upload_id)).all()
        return {row.id: UploadPart(**row._mapping) for row in rows}

    def finish(
        self,
        upload_id: str,
        state: Literal["completed", "cancelled", "expired"],
        act: Act,
        file: UploadedFile | None = None,
        path: Path | None = None,
    ) -> Upload:
        """Close an upload; its parts are gone then. `file`: what it became, from the bytes at `path`, in the same transaction. Raises
        Conflict where it takes no more."""
        if file is not None and path is not None:
            self.kept.put(path, file.id)
        try:
            with self._database.transaction() as connection:
                self._pending(connection, upload_id, even_late=state == "expired")
                parts = upload_parts.c.upload == upload_id
                keys = list(connection.execute(sa.select(upload_parts.c.id).where(parts)).scalars())
                connection.execute(upload_parts.delete().where(parts))
                changed = {"state": state, "file": file.id if file else None}
                connection.execute(uploads.update().where(uploads.c.id == upload_id).values(changed))
                if file is not None:
                    values = {name: value for name, value in vars(file).items() if name != "seq"}
                    connection.execute(uploaded_files.insert().values(values))
                self._audit.enter(connection, act)
        except BaseException:
            if file is not None:
                self.kept.drop(file.id)
            raise
        for key in keys:
            self.kept.drop(key)
        return self.upload(upload_id)

    @staticmethod
    def _pending(connection: sa.Connection, upload_id: str, *, even_late: bool = False) -> None:
        row = connection.execute(
            sa.select(uploads).where(uploads.c.id == upload_id).with_for_update()
        ).first()
        if row is None:
            raise NotFound(f"there is no upload {upload_id[:80]!r} in this project.")
        found = Upload(**row._mapping)
        state = found.state if even_late else found.now().state
        if state != "pending":
            raise Conflict(f"the upload {upload_id} is {state}.", remedy="Begin another one.")
