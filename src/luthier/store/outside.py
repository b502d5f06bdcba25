"""A place outside a home: a folder (a share that is mounted there, or a disk of its own) or an fsspec URL of an object store. Files are
written there once, whole, and never read, changed or removed; so a place that allows no more than that will do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from luthier.core.errors import SCHEME_EXTRAS, SpecError, StoreError, did_you_mean

from .files import explained, write_atomic
from .remote import open_url, reachable


class Outside:
    """Made by `at`. `disk`: of a folder, the one that it was on then."""

    def __init__(self, where: str, environ: Mapping[str, str], what: str, disk: int | None = None) -> None:
        self.where = where  # as written: shown in messages
        self._environ, self._what, self._disk = environ, what, disk

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
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise SpecError(
                f"{where} is no folder that can be written.", remedy=f"Make it, or mount it, for {what}."
            )
        if folder.resolve().is_relative_to(home.resolve()):
            raise SpecError(
                f"{where} lies in the home {home}, and whoever changes the one can change the other.",
                remedy=f"Keep {what} elsewhere, best on another machine.",
            )
        return cls(str(folder.absolute()), environ, what, folder.stat().st_dev)

    def write(self, name: str, data: bytes) -> None:
        """`name`: made by us, parts divided by /, and new. Raises StoreError."""
        if "://" not in self.where:
            with explained(Path(self.where)):
                disk = os.stat(self.where).st_dev
            if (
                disk != self._disk
            ):  # what is written below a folder that nothing is mounted on lies on this machine
                raise StoreError(
                    f"{self.where} is no longer on the disk that it was on.", remedy="Mount it again."
                )
            write_atomic(Path(self.where, name), data)
            return
        fs, root = open_url(self.where, self._environ, self._what)
        with reachable(self.where, self._environ, self._what):
            fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            fs.pipe_file(f"{root}/{name}", data)
