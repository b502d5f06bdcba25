"""Durable file operations: temporary name, fsync, rename. Every byte the store keeps goes through here.

A failed fsync is an error and is not retried: the kernel may have dropped the pages already (PostgreSQL learned
this in 2018), so the writer stops and what was there before stays.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from luthier.core.errors import StoreError
from luthier.core.testing import fault
from luthier.core.units import show_bytes

CHUNK_BYTES = 1 << 20
RESERVE_BYTES, RESERVE_SHARE = 10**9, 0.05
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO))


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the folder, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        raise explain(error, folder) from error


def explain(error: OSError, folder: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = show_bytes(shutil.disk_usage(_nearest(folder)).free)
        return StoreError(
            f"the disk under {folder} is full ({free} free). Nothing that was finished is lost.",
            remedy="Free some space, or point LUTHIER_HOME at a larger disk, and run the same command again.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"{folder} cannot be written ({os.strerror(error.errno).lower()}).",
            remedy="Give yourself the right to write there, or set LUTHIER_HOME to a folder that is yours.",
        )
    return StoreError(
        f"reading or writing under {folder} failed: {error.strerror or error}.",
        remedy="Check the disk; what was finished before is kept.",
    )


def _nearest(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def check_free(folder: Path, more_bytes: int = 0) -> None:
    """Raises StoreError where less than RESERVE_BYTES, or RESERVE_SHARE of the disk, would be left: what comes from afar takes no more, so
    that records can still be written."""
    there = _nearest(folder)
    with explained(there):
        disk = shutil.disk_usage(there)
    least = max(RESERVE_BYTES, int(disk.total * RESERVE_SHARE))
    if disk.free - more_bytes < least:
        raise StoreError(
            f"the disk under {folder} has {show_bytes(disk.free)} free, and {show_bytes(least)} of it are kept for records.",
            remedy="Free some space, or point LUTHIER_HOME at a larger disk.",
        )


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fault("files.fsync")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    with open(path, "rb+") as handle:
        fault("files.fsync")
        os.fsync(handle.fileno())


def _put(handle: BinaryIO, data: bytes) -> None:
    """Durably."""
    fault("files.write")
    handle.write(data)
    handle.flush()
    fault("files.fsync")
    os.fsync(handle.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` as a whole or not at all."""
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
        try:
            with open(partial, "wb") as handle:
                _put(handle, data)
            fault("files.rename")
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet under its own name, for places where nothing may be renamed or removed. Whoever dies in the middle
    leaves a beginning of it there: its reader must tell that from the whole. Raises StoreError, also where it is there."""
    with explained(path.parent):
        _make(path.parent)
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(made, "wb") as handle:
                _put(handle, data)
        except OSError:
            with suppress(OSError):  # where that may not be, it stays
                path.unlink()
            raise
        fsync_folder(path.parent)


def _make(folder: Path) -> None:
    """With those above it, durable."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def sha256_of(path: Path) -> str:
    """Hash a file in bounded memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
