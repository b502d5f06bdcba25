"""Delta Lake: a version of a table, through delta-rs (no Spark, no Java). Its log is read by that library; data files are opened
here, by fsspec, so that they are bounded, checked, and read by any worker without the library.

    version    the newest unless the recipe names one, or a time; it is pinned with the fingerprint
    columns    by their physical names (column mapping); partition values from the log
    deletes    deletion vectors, carried by the parts
    since      `since_version` gives the files that were added, where nothing that was there has gone
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import DataError, missing_part
from luthier.core.spec import Spec, references

from .database import holds_secret
from .lake import DataFile, LakeConnector, LakeSpec, Snapshot, inside, packed, stays_inside, unpacked
from .lake_columns import Column
from .protocol import Secret
from .values import plain
from .webhdfs import guarded

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.spec import SourceSpec

READS = {
    "timestampNtz", "deletionVectors", "columnMapping", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening",
    "typeWidening-preview", "variantType", "variantType-preview",
}  # fmt: skip
"""Features of tables (readerFeatures of the Delta protocol) under which what is read here is right."""


class Where(Spec):
    url: str
    """The table's folder or URL; relative to the recipe's folder. ${VAR} is filled in when it is read."""


class DeltaSpec(LakeSpec, Where):  # in this order `url` is the first field, which `delta: FOLDER` gives
    version: int | None = Field(default=None, ge=0)
    """The version to read; without it, the newest there is when the run begins."""
    timestamp: str | None = None
    """The version that was the newest at this time, such as 2026-01-31T12:00:00Z, in place of `version`."""
    since_version: int | None = Field(default=None, ge=0)
    """Only rows that were added after this version; refused where rows that were there then have been rewritten since."""

    @field_validator("timestamp", mode="before")
    @classmethod
    def _is_a_time(cls, told: Any) -> Any:
        if told is None:
            return None
        try:
            if datetime.fromisoformat(str(told)).tzinfo is None:
                raise ValueError
        except ValueError:
            raise ValueError("write a time with its zone, such as 2026-01-31T12:00:00Z") from None
        return str(told)

    @model_validator(mode="after")
    def _can_be(self) -> DeltaSpec:
        if self.version is not None and self.timestamp is not None:
            raise ValueError("version and timestamp both say which version; keep one")
        if None not in (self.since_version, self.version) and self.since_version >= self.version:  # type: ignore[operator]
            raise ValueError(f"since_version {self.since_version} is not before version {self.version}")
        if holds_secret(self.url):
            raise ValueError(
                "a secret is written in the URL; put it in an environment variable and write ${NAME}"
            )
        return self

    @property
    def default_name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2] or "delta"


_REWRITE = "Rewrite the table (OPTIMIZE, or REORG ... APPLY (PURGE)), or read an earlier version:."


class DeltaConnector(LakeConnector):
    """Rows of a Delta table, at one version."""

    spec = DeltaSpec
    kind = "delta"

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        super().__init__(source, base, secret)
        self._wish = cast("DeltaSpec", source.settings)

    def _load(self) -> Snapshot:
        import pyarrow as pa

        wish = self._wish
        table = self._table(self._pin["version"] if self._pin else wish.version)
        if wish.timestamp is not None and not self._pin:
            table.load_as_version(wish.timestamp)
        protocol = table.protocol()
        odd = sorted(set(protocol.reader_features or ()) - READS)
        if odd or protocol.min_reader_version > 3:
            raise DataError(
                f"{self._place}: the table needs {odd[0] if odd else f'version {protocol.min_reader_version} of readers'}, which is not read here.",
                remedy="Read it with Spark and write what you need as Parquet or another Delta table.",
            )
        version = table.version()
        fields = json.loads(table.schema().to_json())["fields"]
        files = self._files(table, pa)
        mark = [table.metadata().id, version]
        if wish.since_version is not None:
            files = self._since(files, self._files(self._table(wish.since_version), pa), version)
            mark.append(wish.since_version)
        texts = [one["name"] for one in fields if one["type"] == "string"]
        return Snapshot(mark, {"version": version}, [_column(one) for one in fields], files, texts)

    def _table(self, version: int | None) -> Any:
        try:
            from deltalake import DeltaTable
            from deltalake.exceptions import TableNotFoundError
        except ImportError:
            raise missing_part("deltalake", "delta", f"reading {self._place}") from None
        address = self._secret(self._wish.url)
        if "://" not in address:
            address = str(self._base / Path(address).expanduser())
        try:
            return DeltaTable(address, version=version)
        except TableNotFoundError:
            raise DataError(
                f"{self._place}: there is no Delta table at {self._wish.url}.",
                remedy=f"Name the folder that holds _delta_log. Relative paths start at {self._base}",
            ) from None
        except Exception as error:
            if version is None or "ersion" not in str(error):
                raise
            raise DataError(
                f"{self._place}: version {version} cannot be read: {self._told(str(error))[:200]}.",
                remedy="Has it been cleaned away? Without version: the newest is read.",
            ) from None

    def _files(self, table: Any, pa: Any) -> list[DataFile]:
        _, root = self._system()
        gone = {}
        if "deletionVectors" in (table.protocol().reader_features or ()):
            for line in self._vectors(table, pa):
                gone[_within_table(line["filepath"], table.table_uri)] = ~_mask(line["selection_vector"])
        found = []
        for one in pa.table(table.get_add_actions()).to_pylist():
            dead = gone.pop(unquote(one["path"]), None)
            rows = one.get("num_records")
            found.append(
                DataFile(
                    inside(one["path"], root, self._place), f"{self._place}/{one['path']}", one["size_bytes"],
                    rows if rows is None or dead is None else rows - int(dead.sum()),
                    {name: plain(cell) for name, cell in (one.get("partition") or {}).items()},
                    {} if dead is None else {"gone": packed(dead)},
                )
            )  # fmt: skip
        if gone:
            raise DataError(
                f"{self._place}: a deletion vector of the table is of no file of it.", remedy=_REWRITE
            )
        return sorted(found, key=lambda file: file.path)

    def _vectors(self, table: Any, pa: Any) -> list[dict[str, Any]]:
        """What is told when one is none quotes nothing of it: its address is the log's, and may be that of any file."""
        try:
            found: list[dict[str, Any]] = pa.table(table.deletion_vectors().read_all()).to_pylist()
        except Exception:
            raise DataError(
                f"{self._place}: a deletion vector of the table cannot be read: damaged, gone, or not the table's own.",
                remedy=_REWRITE,
            ) from None
        return found

    def _since(self, files: list[DataFile], before: list[DataFile], version: int) -> list[DataFile]:
        """What stands in none of the files of before. Where one of those is gone, its rows may stand in any new one."""
        then = {(file.path, file.more.get("gone")) for file in before}
        if lost := then - {(file.path, file.more.get("gone")) for file in files}:
            raise DataError(
                f"{self._place}: {len(lost)} of {len(then)} files of version {self._wish.since_version} were rewritten by version {version}, so which rows are new cannot be told.",
                remedy="Write watermark: and since: with a column that tells the time of a change, or read the table whole.",
            )
        return [file for file in files if (file.path, file.more.get("gone")) not in then]

    def _system(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        address = self._secret(self._wish.url)
        system, root = url_to_fs(
            address if "://" in address else str(self._base / Path(address).expanduser())
        )
        return guarded(system), root

    def _open(self, path: str) -> BinaryIO:
        system, root = self._system()
        if "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol):
            stays_inside(path, root, self._place)
        return cast("BinaryIO", system.open(path, "rb"))

    def _gone(self, at: Mapping[str, Any], rows: range) -> np.ndarray | None:
        return unpacked(at["gone"], rows) if at.get("gone") else None

    def _references(self) -> list[str]:
        return references(self._wish.url)


def _mask(told: list[bool]) -> np.ndarray:
    import numpy as np

    return np.array(told, bool)


def _column(told: Mapping[str, Any]) -> Column:
    """Of the schema's JSON: a column's physical name is in its metadata where the table maps names."""
    key = told["metadata"].get("delta.columnMapping.physicalName", told["name"])
    return Column(told["name"], key, _inner(told["type"]))


def _inner(kind: Any) -> tuple[Column, ...]:
    if not isinstance(kind, Mapping):
        return ()
    if kind["type"] == "struct":
        return tuple(_column(one) for one in kind["fields"])
    if kind["type"] == "array":
        return (Column("element", "element", _inner(kind["elementType"])),)
    return ()


def _within_table(address: str, table: str) -> str:
    """The path of a file from the table's folder on.

    >>> _within_table("file:///data/t/day=1/a%20b.parquet", "file:///data/t/"), _within_table("day=1/a.parquet", "s3://b/t")
    ('day=1/a b.parquet', 'day=1/a.parquet')
    """
    return unquote(address).removeprefix(unquote(table).rstrip("/")).lstrip("/")
