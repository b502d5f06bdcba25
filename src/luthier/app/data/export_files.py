"""Files of an export, in a folder of this machine or under any URL that fsspec knows.

    here         everything is written beside the folder, read back, and renamed: it appears as a whole or not at all
    elsewhere    object stores rename nothing: files are written where they shall be, `dataset.json` last, and what was
                 written is taken away again when the export fails; without `dataset.json` an export is not whole

Every file is read back and must have the bytes that were written, so the rows that were counted are the rows that are there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from luthier.core.errors import SCHEME_EXTRAS, LuthierError, SpecError, StoreError, missing_part
from luthier.core.spec import redact, resolve
from luthier.data.connectors.webhdfs import guarded
from luthier.store.files import explained

LAST = "dataset.json"
CHUNK_BYTES = 1 << 20
BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl")
"""Schemes of stores that know keys, and no folders."""


class Folder(Protocol):
    """Where files go. `told` is what people call it; it never holds a secret."""

    told: str

    def filling(self) -> Any:
        """A context in which files are written; on an error nothing of them stays."""

    def open(self, name: str, mode: str) -> Any:
        """A file of it."""


def folder_at(to: str, environ: Mapping[str, str]) -> Folder:
    """Raises SpecError when it is there already, MissingPart when the driver of its scheme is not."""
    written = resolve(to, environ)
    if "://" not in written:
        return Here(Path(written).expanduser(), to)
    if written.startswith(("file://", "local://")):
        return Here(Path(written.partition("://")[2]), to)
    return Elsewhere(to, environ)


class Here:
    def __init__(self, path: Path, told: str) -> None:
        self.told, self._path = told, path
        self._partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        if path.exists():
            raise SpecError(f"{told} is already there.", remedy="Name a folder that does not exist yet.")

    @contextmanager
    def filling(self) -> Iterator[None]:
        with explained(self._path.parent):
            try:
                self._partial.mkdir(parents=True)
                yield
                os.rename(self._partial, self._path)
            finally:
                shutil.rmtree(self._partial, ignore_errors=True)

    def open(self, name: str, mode: str) -> Any:
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, mode)


class Elsewhere:
    def __init__(self, to: str, environ: Mapping[str, str]) -> None:
        from fsspec.core import url_to_fs

        self.told, self._environ = to.rstrip("/"), environ
        self._written: list[str] = []
        scheme = resolve(to, environ).partition("://")[0]
        try:
            system, root = url_to_fs(resolve(to, environ))
        except (ImportError, ValueError) as error:
            if scheme in SCHEME_EXTRAS:
                raise missing_part(
                    f"fsspec driver for {scheme}", SCHEME_EXTRAS[scheme], f"writing to {to}"
                ) from None
            raise SpecError(
                f"{to}: {redact(str(error), to, environ)}",
                remedy="Write a folder, or a URL such as s3://, abfs://, gs:// or webhdfs://.",
            ) from None
        self._system, self._root = guarded(system), root.rstrip("/")
        # object stores have none: there, making one would make a bucket that nobody has
        self._has_folders = scheme not in BUCKETS
        with self._reachable():
            self._system.invalidate_cache()
            if self._system.exists(self._root):
                whole = self._system.exists(f"{self._root}/{LAST}")
                raise SpecError(
                    f"{self.told} is already there{'' if whole else ', without dataset.json: no export, or one that was cut off'}.",
                    remedy="Name a folder that does not exist yet.",
                )

    @contextmanager
    def filling(self) -> Iterator[None]:
        try:
            with self._reachable():
                yield
        except BaseException:
            for path in self._written:
                with suppress(Exception):  # the error that is on its way matters more
                    self._system.rm_file(path)
            for folder in sorted(
                {self._root, *(path.rpartition("/")[0] for path in self._written)}, reverse=True
            ):
                with suppress(Exception):  # one that holds something else stays
                    if self._has_folders and not self._system.ls(folder, detail=False):
                        self._system.rm(folder, recursive=True)
            raise

    def open(self, name: str, mode: str) -> Any:
        path = f"{self._root}/{name}"
        if mode == "wb":
            self._written.append(path)
            if self._has_folders:
                self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        return self._system.open(path, mode)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except LuthierError:
            raise
        except Exception as error:  # each file system brings its own family of errors; all mean the same here
            why = " ".join(redact(str(error), self.told, self._environ).split())[:300]
            raise StoreError(
                f"{self.told} cannot be written: {type(error).__name__}: {why}.",
                remedy="Check the address, that the bucket or container is there, the network, and the credentials in the environment.",
            ) from None


def write(into: Folder, name: str, pieces: Iterable[bytes], read: Callable[[], None]) -> dict[str, Any]:
    """Write a file and read it back; `read` is called now and then. {"path", "size_bytes", "sha256"}. Raises StoreError when
    what is there is not what was written."""
    wanted, size = hashlib.sha256(), 0
    with into.open(name, "wb") as stream:
        for piece in pieces:
            stream.write(piece)
            wanted.update(piece)
            size += len(piece)
    found = hashlib.sha256()
    with into.open(name, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            found.update(chunk)
            read()
    if found.digest() != wanted.digest():
        raise StoreError(
            f"{name} under {into.told} does not hold what was written to it.",
            remedy="Check the store, and export again; nothing of this export was kept.",
        )
    return {"path": name, "size_bytes": size, "sha256": wanted.hexdigest()}


def bytes_of(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
