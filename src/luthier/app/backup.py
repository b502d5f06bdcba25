"""A server's home as one folder that can be put somewhere safe, and made a home again: records as they were at one moment each, and bytes.

    FOLDER/luthier.db, projects/ID/luthier.db     copied while the server works on (SQLite's online backup)
    FOLDER/blobs/                                 bytes by their hash; copied after the records, so that none which those know is missing
    FOLDER/backup.json                            what is in it, each file with its SHA-256; written last, so half a backup is none

Not in it: work folders of stages under way, and `login.yaml` and prices, which are yours to keep. Records on PostgreSQL and blobs in an object
store have tools of their own (docs/server.md); both are refused here rather than left out silently.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Conflict, DataError, SpecError
from luthier.store.blobs import LocalBlobs
from luthier.store.files import explained, fsync_folder, sha256_of

if TYPE_CHECKING:
    from .site import Site

FILE = "backup.json"
FORMAT = 1


@dataclass(frozen=True)
class Backed:
    """`audit_head`: the hash of the newest entry of the site's trail, to compare after it was restored."""

    files: int
    size_bytes: int
    projects: int
    audit_head: str | None
    seconds: float


def back_up(site: Site, to: Path) -> Backed:
    """Into a folder that is not there yet. Raises SpecError for a home that has its own tools, Conflict for a folder that is there."""
    began = time.monotonic()
    blobs = site.store.blobs
    if not site.store.database.is_sqlite or not isinstance(blobs, LocalBlobs):
        raise SpecError(
            "records on PostgreSQL and blobs in an object store are backed up with their own tools.",
            remedy="docs/server.md says which, and in which order.",
        )
    with explained(to):
        try:
            to.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise Conflict(f"{to} is there already.", remedy="Name a new folder.") from None
    files: dict[str, dict[str, Any]] = {}
    projects = [one.id for one in site.store.accounts.projects()]
    known: set[str] = set()
    with explained(to):
        for name in ("luthier.db", *(f"projects/{one}/luthier.db" for one in projects)):
            source, target = site.top.home / name, to / name
            if not source.exists():  # of a project that was never used
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_database(source, target)
            known |= _blobs_of(target)
            files[name] = _entry(target)
            files |= _kept(blobs.root, target, to)
        for source in sorted(blobs.root.glob("??/*")):
            if source.name.startswith("."):  # on its way in, and so in no record of the moment
                continue
            name = f"blobs/{source.parent.name}/{source.name}"
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to / name)
            files[name] = _entry(to / name)
            if files[name]["sha256"] != source.name:
                raise DataError(f"the blob {source.name} is damaged.", remedy="`luthier doctor` says more.")
            known.discard(source.name)
        if known:
            raise DataError(
                f"{len(known):,} blobs that the records know are missing, such as {min(known)}.",
                remedy="`luthier doctor` says more.",
            )
        head = _head(to / "luthier.db")
        told = {"format": FORMAT, "time_s": time.time(), "audit_head": head, "files": files}
        _write(to / FILE, json.dumps(told, indent=1))
    size = sum(one["size_bytes"] for one in files.values())
    return Backed(len(files), size, len(projects), head, time.monotonic() - began)


def restore(folder: Path, home: Path) -> Backed:
    """Into a home that is not there yet, each file against its hash. Raises DataError for a backup that is not what was written."""
    began = time.monotonic()
    told = _read(folder)
    files: dict[str, Any] = told["files"]
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.is_symlink() or sha256_of(path) != entry["sha256"]:
            raise DataError(f"{name} is missing from the backup, or damaged.", remedy="Take another backup.")
    if home.exists() and any(home.iterdir()):
        raise Conflict(f"{home} is there already.", remedy="Restore into a home that is empty.")
    with explained(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in files:
            target = home / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target)
        fsync_folder(home)
    projects = sum(name.startswith("projects/") for name in files)
    size = sum(int(one["size_bytes"]) for one in files.values())
    return Backed(len(files), size, projects, told["audit_head"], time.monotonic() - began)


def _copy_database(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")


def _blobs_of(database: Path) -> set[str]:
    """What a home's records know by its hash."""
    with closing(sqlite3.connect(database)) as opened:
        return {row[0] for row in opened.execute("select sha256 from files")}


def _kept(root: Path, database: Path, to: Path) -> dict[str, Any]:
    """What people have uploaded (store/kept), copied; a file that was deleted since its record was read is left out, as it is then."""
    with closing(sqlite3.connect(database)) as opened:
        rows = opened.execute(
            "select id, sha256 from uploaded_files where ended_s is null union all select p.id, p.sha256 from upload_parts p "
            "join uploads u on u.id = p.upload where u.state = 'pending'"
        ).fetchall()
    files: dict[str, Any] = {}
    for key, sha256 in rows:
        name = f"blobs/kept/{key}"
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(root / "kept" / key, to / name)
        except FileNotFoundError:
            continue
        files[name] = _entry(to / name)
        if files[name]["sha256"] != sha256:
            raise DataError(f"the uploaded file {key} is damaged.", remedy="`luthier doctor` says more.")
    return files


def _head(database: Path) -> str | None:
    with closing(sqlite3.connect(database)) as opened:
        row = opened.execute("select sha256 from audit order by seq desc limit 1").fetchone()
    return row and row[0]


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)
    fsync_folder(path.parent)


def _read(folder: Path) -> dict[str, Any]:
    wrong = DataError(
        f"{folder} is no backup that was finished.",
        remedy="Name a folder that `luthier server backup` wrote.",
    )
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise wrong from None
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("files"), dict):
        raise wrong
    for name in told["files"]:
        if (
            name.startswith("/")
            or ".." in Path(name).parts
            or not name.startswith(("luthier.db", "projects/", "blobs/"))
        ):
            raise wrong
    return told
