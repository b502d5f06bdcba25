"""Blobs: bytes named by their SHA-256. A local folder first; S3, Azure Blob, GCS and HDFS by fsspec URL.

Local: <root>/ab/abcdef…, mode 0444, entered by hard link (or copy) + fsync + rename.
Remote: uploaded under a temporary key and moved; object stores make a finished upload visible as a whole.
Taking a blob out verifies its hash: a flipped bit is an error that names the file. `Store.verify` reads all of them again.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from luthier.core.artifact import File
from luthier.core.errors import StoreError
from luthier.core.testing import fault

from .files import explained, fsync_file, fsync_folder, sha256_of
from .remote import open_url, reachable

WHAT = "the blob store"


def open_blobs(where: str, temporary: Path, environ: Mapping[str, str]) -> LocalBlobs | RemoteBlobs:
    """`where` is a folder or an fsspec URL, which may hold ${VAR}; `temporary` a local folder on the home's disk."""
    if "://" not in where:
        return LocalBlobs(Path(where))
    return RemoteBlobs(where, temporary, environ)


class LocalBlobs:
    """A folder of blobs. Safe for several processes: entering the same bytes twice is harmless."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def put(self, source: Path, name: str) -> File:
        """Enter a file's bytes; afterwards they are durable. `name` is the file's path inside its artifact."""
        with explained(self.root):
            fsync_file(source)
            sha256 = sha256_of(source)
            size = source.stat().st_size
            target = self.path(sha256)
            if not target.exists() or sha256_of(target) != sha256:  # damaged bytes are replaced by sound ones
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{uuid.uuid4().hex}.partial")
                try:
                    fault("blobs.link")
                    _link_or_copy(source, partial)
                    os.chmod(partial, 0o444)
                    fault("blobs.rename")
                    os.replace(partial, target)
                finally:
                    partial.unlink(missing_ok=True)
                fsync_folder(target.parent)
                fsync_folder(self.root)
        return File(name, sha256, size)

    def get(self, file: File, target: Path) -> None:
        """Place the blob at `target` (hard link when the disk allows), verified."""
        source = self.path(file.sha256)
        if not source.exists():
            raise _lost(file, str(source))
        with explained(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            if sha256_of(source) != file.sha256:
                raise _damaged(file, str(source))
            _link_or_copy(source, target)


class RemoteBlobs:
    """Blobs under an fsspec URL. Credentials come from the environment, as each file system documents."""

    def __init__(self, url: str, temporary: Path, environ: Mapping[str, str]) -> None:
        self.url = url.rstrip("/")  # as written: shown in messages
        self.temporary = temporary
        self._environ = environ
        self._opened: tuple[Any, str] | None = None

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = open_url(self.url, self._environ, WHAT)
        return self._opened

    def path(self, sha256: str) -> str:
        return f"{self._open()[1]}/{sha256[:2]}/{sha256}"

    def has(self, sha256: str) -> bool:
        fs, _ = self._open()
        return bool(fs.exists(self.path(sha256)))

    def put(self, source: Path, name: str) -> File:
        fs, root = self._open()
        sha256 = sha256_of(source)
        file = File(name, sha256, source.stat().st_size)
        with self._reachable():
            if not fs.exists(self.path(sha256)):
                partial = f"{root}/.partial/{uuid.uuid4().hex}"
                fs.makedirs(f"{root}/.partial", exist_ok=True)
                fs.makedirs(f"{root}/{sha256[:2]}", exist_ok=True)
                fs.put_file(str(source), partial)
                fs.mv(partial, self.path(sha256))
        return file

    def get(self, file: File, target: Path) -> None:
        fs, _ = self._open()
        self.temporary.mkdir(parents=True, exist_ok=True)
        partial = self.temporary / uuid.uuid4().hex
        with self._reachable():
            if not fs.exists(self.path(file.sha256)):
                raise _lost(file, self.path(file.sha256))
            fs.get_file(self.path(file.sha256), str(partial))
        with explained(target.parent):
            if sha256_of(partial) != file.sha256:
                partial.unlink()
                raise _damaged(file, self.path(file.sha256))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(partial, 0o444)
            os.replace(partial, target)

    # -- under a name of its own (store/kept) -----------------------------------------------------------------------

    def upload(self, source: Path, name: str) -> None:
        fs, root = self._open()
        with self._reachable():
            fs.makedirs(f"{root}/.partial", exist_ok=True)
            fs.makedirs(f"{root}/{name.rpartition('/')[0]}", exist_ok=True)
            fs.put_file(str(source), partial := f"{root}/.partial/{uuid.uuid4().hex}")
            fs.mv(partial, f"{root}/{name}")

    def download(self, name: str, target: Path) -> bool:
        """Whether it was there."""
        fs, root = self._open()
        with self._reachable():
            if not fs.exists(f"{root}/{name}"):
                return False
            fs.get_file(f"{root}/{name}", str(target))
        return True

    def remove(self, name: str) -> None:
        fs, root = self._open()
        with self._reachable():
            if fs.exists(f"{root}/{name}"):
                fs.rm_file(f"{root}/{name}")

    def _reachable(self) -> AbstractContextManager[None]:
        return reachable(self.url, self._environ, WHAT)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)
        fsync_file(target)


def _lost(file: File, where: str) -> StoreError:
    return StoreError(
        f"the bytes of {file.path} are gone: {where} does not exist.",
        remedy="Restore it from a backup, or run the recipe with --fresh.",
    )


def _damaged(file: File, where: str) -> StoreError:
    return StoreError(f"the bytes of {file.path} are damaged: {where} no longer has the hash it is named by.",
                      remedy="Delete that file and restore it from a backup, or run the recipe with --fresh.")  # fmt: skip
