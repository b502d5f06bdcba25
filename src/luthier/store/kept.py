"""Bytes under a key of their own, which can be taken away again: what people upload. Beside the blobs, in the same place.

Blobs are known by their hash alone and may be somebody else's too, so none is ever removed; what is kept here belongs to one record.
Local: <blobs>/kept/<key>, entered by rename from the same disk where that is possible. Remote: under the same fsspec URL.
Keys are made by us (letters, digits, - and _); a name that a client sent is never one.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from luthier.core.errors import StoreError

from .blobs import LocalBlobs, RemoteBlobs
from .files import explained, fsync_file, fsync_folder, sha256_of

_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Kept:
    """Over the blobs' place. Safe for several processes: a key is written once."""

    def __init__(self, blobs: LocalBlobs | RemoteBlobs, temporary: Path) -> None:
        self._blobs = blobs
        self.temporary = temporary

    def put(self, source: Path, key: str) -> None:
        """Enter a file's bytes, durable on return. `source` may be gone afterwards."""
        _check(key)
        if isinstance(self._blobs, RemoteBlobs):
            self._blobs.upload(source, f"kept/{key}")
            return
        target = self._blobs.root / "kept" / key
        with explained(target.parent):
            fsync_file(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{uuid.uuid4().hex}.partial")
            try:
                try:
                    os.rename(source, partial)
                except OSError:  # another disk
                    shutil.copyfile(source, partial)
                    fsync_file(partial)
                os.chmod(partial, 0o400)
                os.rename(partial, target)
            finally:
                partial.unlink(missing_ok=True)
            fsync_folder(target.parent)

    def get(self, key: str, target: Path, sha256: str) -> None:
        """Write a copy, verified. Raises StoreError where the bytes are gone or no longer what they were."""
        _check(key)
        if isinstance(self._blobs, RemoteBlobs):
            found = self._blobs.download(f"kept/{key}", target)
        else:
            found = (path := self._blobs.root / "kept" / key).is_file()
            if found:
                with explained(target.parent):
                    shutil.copyfile(path, target)
        if not found or sha256_of(target) != sha256:
            target.unlink(missing_ok=True)
            raise _spoilt(key, found)

    def there(self, key: str, sha256: str) -> Path | None:
        """Where the bytes are kept, verified, to be read alone; None where they are not kept on this machine. Raises StoreError."""
        _check(key)
        if isinstance(self._blobs, RemoteBlobs):
            return None
        path = self._blobs.root / "kept" / key
        found = path.is_file()
        if not found or sha256_of(path) != sha256:
            raise _spoilt(key, found)
        return path

    def drop(self, key: str) -> None:
        """Take the bytes away, if they are there."""
        _check(key)
        if isinstance(self._blobs, RemoteBlobs):
            self._blobs.remove(f"kept/{key}")
            return
        with explained(self._blobs.root):
            (self._blobs.root / "kept" / key).unlink(missing_ok=True)

    def room(self) -> Path:
        """A new place for bytes on their way in; whoever asked removes it."""
        folder = self.temporary
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{uuid.uuid4().hex}.incoming"

    def sweep(self, before_s: float) -> int:
        """Take away what came into `temporary` and nobody has written to since then, of whoever died before he had finished; how many files."""
        return _sweep(self.temporary, ".*.incoming", before_s)

    def sweep_place(self, before_s: float) -> int:
        """The same in the place where bytes are kept, which many homes may share."""
        if isinstance(self._blobs, RemoteBlobs):
            return 0
        return _sweep(self._blobs.root / "kept", ".*.partial", before_s)


def _sweep(folder: Path, names: str, before_s: float) -> int:
    gone = 0
    for path in folder.glob(names):
        with suppress(FileNotFoundError):  # another process was quicker
            if path.stat().st_mtime < before_s:
                path.unlink()
                gone += 1
    return gone


def _check(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is no key of ours")


def _spoilt(key: str, found: bool) -> StoreError:
    return StoreError(
        f"the bytes of {key} are {'damaged' if found else 'gone'}.",
        remedy="Restore them from a backup, or upload the file again.",
    )
