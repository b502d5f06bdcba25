"""Apache Iceberg: a snapshot of a table, through pyiceberg (no Spark, no Java). That library reads catalog, metadata and manifests,
by a file system of ours that opens nothing outside the table's folder; data files are opened here and read by any worker.

    snapshot   the newest of `ref` unless the recipe names one; it is pinned with the fingerprint
    columns    by the numbers of their fields, so renamed ones are found; by name mapping in files that have no numbers.
               A snapshot or tag has the names of then, a branch those of today
    deletes    by position here, by equality in iceberg_deletes.py; tables with deletion vectors are refused
    since      `since_snapshot` gives the files that were added, where nothing that was there has gone
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pydantic import Field, model_validator

from luthier.core.errors import DataError, missing_part
from luthier.core.spec import Spec, references

from .database import holds_secret
from .iceberg_deletes import EqualityDeletes
from .lake import DataFile, LakeConnector, LakeSpec, Snapshot
from .protocol import Secret

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.spec import SourceSpec

    from .iceberg_table import Opened

CATALOGS = ("rest", "sql", "hive", "glue")
_KEY = re.compile(
    r"name|type|uri|warehouse|prefix|token|credential|scope|audience|resource|oauth2-server-uri|"
    r"(s3|adls|gcs|hive|glue|client|header|ssl|init_catalog_tables)([._-].*)?"
)
_SECRET_KEY = re.compile(
    r"(token|credential|password|secret|account-key|sas-token|connection-string|authorization)", re.IGNORECASE
)


class Where(Spec):
    table: str
    """The table's name in the catalog, such as sales.tickets; without a catalog its folder or metadata file, as a path or URL."""


class IcebergSpec(LakeSpec, Where):  # in this order `table` is the first field, which `iceberg: FOLDER` gives
    catalog: dict[str, str] = Field(default_factory=dict)
    """Where the catalog is, in pyiceberg's words: {type: rest, uri: "https://...", token: "${TOKEN}"}; type is rest, sql, hive or glue. An SQL catalog has a name: its own (name: ...) or default."""
    ref: str | None = None
    """The branch or tag to read; by default the table's current snapshot."""
    snapshot: int | None = None
    """The snapshot to read, by its id, in place of `ref`."""
    since_snapshot: int | None = None
    """Only rows that were added after this snapshot; refused where rows that were there then have been rewritten since."""
    also_under: list[str] = Field(default_factory=list)
    """Further folders in which the table may keep files; by default every file must be in the table's own folder."""

    @model_validator(mode="after")
    def _can_be(self) -> IcebergSpec:
        if self.ref is not None and self.snapshot is not None:
            raise ValueError("ref and snapshot both say which snapshot; keep one")
        if self.catalog and self.catalog.get("type") not in CATALOGS:
            raise ValueError(f"catalog needs a type: one of {', '.join(CATALOGS)}")
        if odd := next((key for key in self.catalog if not _KEY.fullmatch(key)), None):
            raise ValueError(f"catalog has a setting {odd!r} that is not taken: none may name code to load")
        for key, value in self.catalog.items():
            if holds_secret(value) or (
                _SECRET_KEY.search(key) and key != "oauth2-server-uri" and not references(value)
            ):
                raise ValueError(
                    f"a secret is written in the catalog's {key}; put it in an environment variable and write ${{NAME}}"
                )
        if holds_secret(self.table):
            raise ValueError(
                "a secret is written in the URL; put it in an environment variable and write ${NAME}"
            )
        if self.catalog and ("/" in self.table or "." not in self.table):
            raise ValueError(f"{self.table!r} is no name in a catalog; write for example sales.tickets")
        return self

    @property
    def default_name(self) -> str:
        if self.catalog:
            return self.table
        parts = [part for part in self.table.split("/") if part]
        return parts[-3] if self.table.endswith(".metadata.json") and len(parts) > 2 else parts[-1]


class IcebergConnector(LakeConnector):
    """Rows of an Iceberg table, at one snapshot."""

    spec = IcebergSpec
    kind = "iceberg"

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        super().__init__(source, base, secret)
        self._wish = cast("IcebergSpec", source.settings)
        self._deleted: tuple[tuple[str, ...], np.ndarray] | None = None
        self._equality = EqualityDeletes(self._open, self._place)

    @cached_property
    def _opened(self) -> Opened:
        try:
            from .iceberg_table import opened
        except ImportError as error:
            raise missing_part(error.name or "pyiceberg", "iceberg", f"reading {self._place}") from None
        return opened(self._wish, self._base, self._secret, self._place)

    def _load(self) -> Snapshot:
        wish, table = self._wish, self._opened
        pin: Mapping[str, Any] = self._pin or table.standing(wish.snapshot, wish.ref)
        number, columns = pin["snapshot"], table.columns(pin["schema"])
        if number is None:
            return Snapshot([table.uuid, None], dict(pin), columns, [])
        files = table.files(number)
        mark: list[Any] = [table.uuid, number]
        if wish.since_snapshot is not None:
            before = table.standing(wish.since_snapshot, None)["snapshot"]
            files = self._since(files, table.files(before), number)
            mark.append(wish.since_snapshot)
        return Snapshot(mark, dict(pin), columns, files, table.texts(pin["schema"]))

    def _since(self, files: list[DataFile], before: list[DataFile], number: int) -> list[DataFile]:
        """What stands in none of the files of before. Where one of those is gone, its rows may stand in any new one."""
        then = {_with_deletes(file) for file in before}
        if lost := then - {_with_deletes(file) for file in files}:
            raise DataError(
                f"{self._place}: {len(lost)} of {len(then)} files of snapshot {self._wish.since_snapshot} were rewritten by snapshot {number}, so which rows are new cannot be told.",
                remedy="Write watermark: and since: with a column that tells the time of a change, or read the table whole.",
            )
        return [file for file in files if _with_deletes(file) not in then]

    def _open(self, path: str) -> BinaryIO:
        return self._opened.open(path)

    def _gone(self, at: Mapping[str, Any], rows: range) -> np.ndarray | None:
        by_place, by_value = self._gone_by_place(at, rows), self._equality.gone(at, rows)
        if by_place is None or by_value is None:
            return by_value if by_place is None else by_place
        return by_place | by_value

    def _gone_by_place(self, at: Mapping[str, Any], rows: range) -> np.ndarray | None:
        """By position deletes: files of (path, position), of which those for this file are held, 8 bytes each."""
        import numpy as np

        if not at["deletes"]:
            return None
        key = (at["path"], *at["deletes"])
        if self._deleted is None or self._deleted[0] != key:
            self._deleted = (key, self._positions(at))
        places = self._deleted[1]
        found = np.zeros(len(rows), bool)
        found[
            places[np.searchsorted(places, rows.start) : np.searchsorted(places, rows.stop)] - rows.start
        ] = True
        return found

    def _positions(self, at: Mapping[str, Any]) -> np.ndarray:
        import numpy as np
        import pyarrow.compute as pc

        from . import parquet_rows

        found = [np.zeros(0, np.int64)]
        for path in at["deletes"]:
            with self._open(path) as stream:
                for block in parquet_rows.read(
                    stream, f"{self._place}: {path.rpartition('/')[2]}", ["file_path", "pos"]
                ):
                    files, places = cast("Any", block.columns["file_path"]), cast("Any", block.columns["pos"])
                    mine = places.filter(pc.equal(files, at["path"]))
                    found.append(mine.to_numpy(zero_copy_only=False))
        return np.unique(np.concatenate(found))

    def _references(self) -> list[str]:
        return references(" ".join([self._wish.table, *self._wish.catalog.values()]))


def _with_deletes(file: DataFile) -> tuple[str, ...]:
    """A data file and the files of deletes that apply to it: another of either makes other rows."""
    return (file.path, *file.more["deletes"], *(path for path, _ in file.more.get("equals", ())))
