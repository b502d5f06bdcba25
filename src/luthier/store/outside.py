"""A place outside a home: a folder (a share that is mounted there, or a disk of its own) or an fsspec URL of an object store. Files are
written there once, under a name that is new, and never read, changed, renamed or removed.

What the place must allow     a folder: listing it, and making files and folders in it
                              an object store: putting an object (of S3: s3:PutObject), in a bucket that is there

Where it allows no more than that, a file whose writer dies in the middle stays as it is: what is written here must show that to its reader.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from luthier.core.errors import SCHEME_EXTRAS, SpecError, StoreError, did_you_mean

from .files import explained, write_new
from .remote import open_url, reachable

REAL_FOLDERS = frozenset(("hdfs", "webhdfs"))
"""Schemes where a folder must be made before what is in it. Elsewhere a slash is a letter of the name, and who asks for a folder asks whether
there is a bucket, and may make one."""


class Outside:
    """Made by `at`. `mounted`: of a folder, what its disk was mounted on then."""

    def __init__(
        self, where: str, environ: Mapping[str, str], what: str, mounted: Path | None = None
    ) -> None:
        self.where = where  # as written: shown in messages
        self._environ, self._what, self._mounted = environ, what, mounted

    @classmethod
    def at(cls, where: str, home: Path, environ: Mapping[str, str], what: str) -> Outside:
        """`what` is kept there, in the plural, for messages. Raises SpecError for a folder that is not there, may not be written or lies in `home`, and
        for a URL that is none of an object store; that one can be reached is found out by writing."""
        if "://" in where:
            scheme = where.split("://", 1)[0]
            if scheme not in SCHEME_EXTRAS:
                raise SpecError(
                    f"{what} cannot be kept at {scheme[:20]}://.",
                    remedy=f"Write a folder, or a URL: {did_you_mean(scheme, sorted(SCHEME_EXTRAS))}",
                )
            return cls(where.rstrip("/"), environ, what)
        folder = Path(where)
        if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise SpecError(
                f"{where} is no folder that can be written.", remedy=f"Make it, or mount it, for {what}."
            )
        if folder.resolve().is_relative_to(home.resolve()):
            raise SpecError(
                f"{where} lies in the home {home}, and whoever changes the one can change the other.",
                remedy=f"Keep {what} elsewhere, best on another machine.",
            )
        return cls(str(folder.absolute()), environ, what, _mount(folder))

    def write(self, name: str, data: bytes) -> None:
        """`name`: made by us, parts divided by /, and new. Raises StoreError."""
        if "://" not in self.where:
            if _mount(Path(self.where)) != self._mounted:
                raise StoreError(  # what is written below a folder that nothing is mounted on lies on this machine
                    f"{self.where} is no longer on the disk that it was on.", remedy="Mount it again."
                )
            write_new(Path(self.where, name), data)
            return
        fs, root = open_url(self.where, self._environ, self._what)
        with reachable(self.where, self._environ, self._what):
            if self.where.split("://", 1)[0] in REAL_FOLDERS:
                fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            fs.pipe_file(f"{root}/{name}", data)


def _mount(folder: Path) -> Path:
    """The nearest folder, itself or above it, that a disk is mounted on. Not which disk: its number may be another after the next mount."""
    with explained(folder):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))  # autofs mounts what is opened
        real = folder.resolve()
    return next(one for one in (real, *real.parents) if os.path.ismount(one))
