"""Store: the home folder opened. Artifacts go in as a finished folder and come out as a read-only one.

home/
  luthier.db     metadata (or a PostgreSQL URL)
  blobs/         bytes by SHA-256 (or an fsspec URL)
  folders/       read-only folders of artifacts, made of links to blobs when first needed
  work/KEY/      a stage at work: out/ becomes the artifact, scratch/ outlives a crash
  prices.yaml    your own prices (optional)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luthier.core.artifact import Artifact, File
from luthier.core.errors import BeingMade, StoreError
from luthier.core.testing import fault

from .accounts import Accounts
from .approvals import Approvals
from .attempts import Attempts
from .audit import Audit
from .blobs import LocalBlobs, RemoteBlobs, open_blobs
from .budgets import Budgets
from .catalog import Catalog
from .database import Database
from .files import explained, fsync_folder, sha256_of
from .jobs import Jobs
from .kept import Kept
from .leases import Leases
from .ledger import Ledger
from .objects import Objects
from .policies import Policies
from .retries import Retries
from .rollouts import Rollouts
from .schedules import Schedules
from .sessions import Sessions
from .tombstones import Tombstones
from .traffic import Traffic
from .uploaded import Uploaded
from .webhooks import Webhooks


def default_url(home: Path) -> str:
    """Where the records are when nobody says otherwise."""
    return f"sqlite:///{home / 'luthier.db'}"


class Store:
    """Open with `Store.open`. Several processes may share a home; one stage key is worked on by one of them."""

    def __init__(self, home: Path, database: Database, blobs: LocalBlobs | RemoteBlobs) -> None:
        self.home = home
        self.blobs = blobs
        self.audit = Audit(database)
        self.catalog = Catalog(database, self.audit)
        self.ledger = Ledger(database, self.audit)
        self.tombstones = Tombstones(database, self.audit)
        self.traffic = Traffic(database)
        self.rollouts = Rollouts(database, self.audit)
        self.accounts = Accounts(database, self.audit)
        self.sessions = Sessions(database, self.audit)
        self.jobs = Jobs(database, self.audit)
        self.attempts = Attempts(database, self.audit)
        self.leases = Leases(database)
        self.schedules = Schedules(database, self.audit)
        self.budgets = Budgets(database, self.audit)
        self.policies = Policies(database, self.audit)
        self.approvals = Approvals(database, self.audit)
        self.objects = Objects(database, self.audit)
        self.webhooks = Webhooks(database, self.audit)
        self.retries = Retries(database)
        self.uploaded = Uploaded(database, self.audit, Kept(blobs, home / "work" / "arriving"))
        self.database = database

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        database_url: str | None = None,
        blobs_url: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Store:
        """Create what is missing. Raises StoreError when the home cannot be written."""
        with explained(home):
            if home.exists() and not home.is_dir():
                raise StoreError(f"{home} is a file, not a folder.", remedy="Set LUTHIER_HOME to a folder.")
            home.mkdir(parents=True, exist_ok=True)
            if not os.access(home, os.W_OK | os.X_OK) or _read_only(home):
                raise StoreError(
                    f"{home} cannot be written.",
                    remedy="Give yourself the right to write there, or set LUTHIER_HOME to a folder that is yours.",
                )
            (home / "work").mkdir(exist_ok=True)
        database = Database(database_url or default_url(home), environ or {})
        return cls(home, database, open_blobs(blobs_url or str(home / "blobs"), home / "work", environ or {}))

    def make_schema(self, name: str) -> None:
        """On PostgreSQL, a schema for records of their own; nothing where each home has its own file."""
        if not self.database.is_sqlite:
            with self.database.transaction() as connection:
                connection.execute(sa.schema.CreateSchema(name, if_not_exists=True))

    def schemas(self) -> set[str]:
        """On PostgreSQL, those of this database; none where each home has its own file."""
        if self.database.is_sqlite:
            return set()
        with self.database.reading() as connection:
            return set(sa.inspect(connection).get_schema_names())

    # -- a stage at work --------------------------------------------------------------------------------------------

    @contextmanager
    def working(self, key: str) -> Iterator[tuple[Path, Path]]:
        """(out, scratch) for one key, held by this process alone. `out` starts empty; `scratch` as it was left."""
        folder = self.home / "work" / key
        with self._lock(folder):
            with explained(folder):
                out, scratch = folder / "out", folder / "scratch"
                _remove(out)
                out.mkdir()
                scratch.mkdir(exist_ok=True)
            yield out, scratch

    @contextmanager
    def _lock(self, folder: Path) -> Iterator[None]:
        while True:
            with explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    handle = open(folder / "lock", "a+")  # noqa: SIM115  (held for the whole block)
                except FileNotFoundError:  # its owner finished and removed the folder just now
                    continue
            with handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    handle.seek(0)
                    raise BeingMade(
                        f"another process ({handle.read().strip() or 'just starting'}) is making this very artifact.",
                        remedy="Wait for it to finish; running the command again then returns its result.",
                    ) from None
                if not _still_there(folder / "lock", handle.fileno()):
                    continue  # locked a file that its owner had already removed
                with explained(folder):
                    handle.truncate(0)
                    handle.write(f"pid {os.getpid()}")
                    handle.flush()
                yield
                return

    def commit(
        self,
        kind: str,
        key: str,
        spec: Mapping[str, Any],
        version: int,
        parents: Mapping[str, str],
        out: Path,
        summary: Mapping[str, Any],
    ) -> Artifact:
        """Turn a finished folder into an artifact. On return it is durable and known; the work folder is gone."""
        with explained(out):
            paths = sorted(p for p in out.rglob("*") if not p.is_dir())
            for path in paths:
                if path.is_symlink() or not path.is_file():
                    raise StoreError(
                        f"{path.name} is not a plain file.", remedy="A stage may leave plain files only."
                    )
        entered = tuple(self.blobs.put(path, path.relative_to(out).as_posix()) for path in paths)
        fault("store.record")
        artifact = self.catalog.record(
            Artifact(kind, key, spec, version, parents, entered, summary, time.time())
        )
        _remove(self.home / "work" / key)
        _remove(self.home / "folders" / artifact.digest)  # made anew from these bytes when next needed
        return artifact

    def folder(self, artifact: Artifact) -> Path:
        """A read-only folder with the artifact's files. Built once, verified by hash when built."""
        target = self.home / "folders" / artifact.digest
        if target.exists():
            return target
        partial = target.with_name(f".{artifact.digest}.{os.getpid()}.partial")
        with explained(self.home):
            _remove(partial)
            partial.mkdir(parents=True)
        for file in artifact.files:
            self.blobs.get(file, _inside(partial, file))
        with explained(self.home):
            try:
                os.rename(partial, target)
            except OSError:
                if not target.exists():  # another process may have built it in the meantime
                    raise
                _remove(partial)
            fsync_folder(target.parent)
        return target

    def verify(self, artifact: Artifact) -> list[File]:
        """The files whose bytes are missing or no longer match their hash; empty when all is well."""
        bad = []
        for file in artifact.files:
            if isinstance(self.blobs, LocalBlobs):
                path = self.blobs.path(file.sha256)
                if not path.exists() or sha256_of(path) != file.sha256:
                    bad.append(file)
            elif not self.blobs.has(file.sha256):
                bad.append(file)
        return bad


def _inside(folder: Path, file: File) -> Path:
    target = (folder / file.path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise StoreError(
            f"the file name {file.path!r} leaves its artifact.",
            remedy="The record was tampered with; do not use it.",
        )
    return target


def _still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
