"""Files that go into a project and out of it with a verb that is asked from afar: known by their SHA-256, one folder a project.

    home/passing/SHA256        whoever may ask in this project may have it, by its hash; nobody else can name it

They are on their way, not kept: what nobody used for `KEPT_S` goes when others arrive. Not here: OpenAI's files (they are the project's
data and have names), blobs (they are never removed).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from luthier.core.errors import DataError, NotFound, SpecError
from luthier.store.files import check_free, explained, sha256_of

KEPT_S = 30 * 86_400.0
MOST_BYTES = 50 * 10**9
"""Of one project, together."""
LOOK_BYTES = 64 * 1024 * 1024
"""As often the disk is looked at while a file comes."""


@dataclass(frozen=True)
class Passed:
    name: str
    sha256: str
    size_bytes: int

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


class Arriving:
    """A file as it comes: written, counted and hashed. `write` raises SpecError for more than `most` bytes, StoreError where the disk has no
    more room."""

    def __init__(self, handle: IO[bytes], folder: Path, most: int) -> None:
        self._handle, self._folder, self._most, self._sha256 = handle, folder, most, hashlib.sha256()
        self.size_bytes = self._looked = 0

    def write(self, part: bytes) -> None:
        self.size_bytes += len(part)
        if self.size_bytes > self._most:
            raise SpecError(
                f"the file has more than {self._most:,} bytes.",
                remedy="Name rows where the server can read them, as a database or an object store.",
            )
        if self.size_bytes - self._looked >= LOOK_BYTES:
            self._looked = self.size_bytes
            check_free(self._folder)
        self._sha256.update(part)
        self._handle.write(part)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


class Passing:
    """Over one project's home. Safe for several processes: the same bytes twice are one file."""

    def __init__(self, home: Path) -> None:
        self._root = home / "passing"

    @contextmanager
    def arriving(self, most: int, declared: int = 0) -> Iterator[Arriving]:
        """What is written until the block ends is there afterwards; nothing is where it raises. `declared`: how many bytes are announced.
        Raises SpecError where the project has no room for them, StoreError where the disk has none."""
        self.purge()
        self._room(declared)
        check_free(self._root, declared)
        with explained(self._root):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = self._root / f".{uuid.uuid4().hex}.partial"
            try:
                with partial.open("xb") as handle:
                    yield (found := Arriving(handle, self._root, most))
                self._room(0)  # others came meanwhile, and not all say how long they are
                os.replace(partial, self._root / found.sha256)
            finally:
                partial.unlink(missing_ok=True)

    def _room(self, more: int) -> None:
        used = 0
        for path in self._root.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                used += path.stat().st_size
        if used + more > MOST_BYTES:
            raise SpecError(
                f"this project's files on their way would be {used + more:,} bytes, and at most {MOST_BYTES:,} are kept.",
                remedy=f"What nobody used for {KEPT_S / 86_400:g} days goes by itself; or name rows where the server can read them.",
            )

    def enter(self, source: Path, name: str) -> Passed:
        """A file of ours, on its way out."""
        with explained(self._root):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_free(self._root, source.stat().st_size)
            partial = self._root / f".{uuid.uuid4().hex}.partial"
            try:
                shutil.copyfile(source, partial)
                found = Passed(name, sha256_of(partial), partial.stat().st_size)
                os.replace(partial, self._root / found.sha256)
            finally:
                partial.unlink(missing_ok=True)
        return found

    def find(self, sha256: str) -> Path:
        """Raises NotFound. `sha256` has been checked to be one."""
        path = self._root / sha256
        if not path.is_file():
            raise NotFound(
                f"no file {sha256[:12]} is on its way here.", remedy="It was not sent, or too long ago."
            )
        os.utime(path)
        return path

    def place(self, sha256: str, target: Path) -> None:
        """A copy at `target`, verified. Its time of change follows from its bytes, so that whoever tells files apart by that (a base
        model's fingerprint) finds again what was made of the same bytes. Raises NotFound, DataError."""
        source = self.find(sha256)
        with explained(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if sha256_of(target) != sha256:
                raise DataError(
                    f"{target.name} is no longer what was sent.", remedy="Send the file once more."
                )
            os.utime(target, (moment := int(sha256[:8], 16), moment))

    def purge(self, now_s: float | None = None) -> None:
        before = (time.time() if now_s is None else now_s) - KEPT_S
        for path in self._root.glob("*"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
            except FileNotFoundError:
                continue
