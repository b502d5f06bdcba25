"""The key of a site: 32 random bytes in home/server.key, which only its owner reads. What must be secret and the same again, without
standing in the database, follows from it.

A backup of the database therefore opens nothing. Whoever loses the file, or replaces it, gives every webhook another secret at once: so
servers that share a database must share it, and it is renewed by removing it and telling each receiver its new secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from luthier.core.errors import StoreError
from luthier.store.files import explained, fsync_folder

NAME = "server.key"
SIZE_BYTES = 32


def derived(home: Path, what: str) -> bytes:
    """32 bytes that follow from the key and `what`. Raises StoreError."""
    return hmac.new(_key(home), what.encode(), hashlib.sha256).digest()


def _key(home: Path) -> bytes:
    path = home / NAME
    if not path.exists():
        _make(path)
    with explained(home):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as handle:
            mode, key = os.fstat(handle.fileno()).st_mode, handle.read(SIZE_BYTES + 1)
    if mode & 0o077:
        raise StoreError(f"{path} can be read by others.", remedy=f"chmod 600 {path}")
    if len(key) != SIZE_BYTES:
        raise StoreError(
            f"{path} does not hold {SIZE_BYTES} bytes.", remedy="Restore it from a backup, or remove it."
        )
    return key


def _make(path: Path) -> None:
    """Of several processes that make one at once, the first one's stays."""
    partial = path.with_name(f".{NAME}.{secrets.token_hex(8)}.partial")
    with explained(path.parent):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(secrets.token_bytes(SIZE_BYTES))
                handle.flush()
                os.fsync(handle.fileno())
            try:
                os.link(partial, path)
            except FileExistsError:
                return
        finally:
            partial.unlink()
        fsync_folder(path.parent)
