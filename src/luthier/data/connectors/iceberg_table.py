"""What pyiceberg is asked: a table's metadata, its snapshots, and the files that one of them consists of. The only file that imports
pyiceberg.

It never chooses how files are opened: `TableFiles` takes the place of every file system that table, catalog or server would name
(`py-io-impl` names a class to import), and opens what lies in the table's folder, or in those that the recipe adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.io import InputFile, OutputFile
from pyiceberg.io.fsspec import FsspecFileIO, FsspecInputFile
from pyiceberg.manifest import DataFileContent, FileFormat, ManifestEntry
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import ManifestGroupPlanner
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    DateType,
    ListType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)
from pyiceberg.utils.datetime import days_to_date, micros_to_timestamp, micros_to_timestamptz

from luthier.core.errors import DataError, did_you_mean

from .lake import DataFile, leads_out, stays_inside
from .lake_columns import Column
from .protocol import Secret
from .values import plain

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata

    from .iceberg import IcebergSpec

LOCAL = ("", "file")
SAME = {"s3a": "s3", "s3n": "s3", "abfs": "abfss", "wasb": "wasbs", "gcs": "gs", "": "file"}


class TableFiles(FsspecFileIO):
    """The files of one table, for reading."""

    def __init__(self, properties: Mapping[str, Any], roots: list[str], place: str) -> None:
        super().__init__(dict(properties))
        self._roots, self._place = roots, place

    def new_input(self, location: str) -> FsspecInputFile:
        """Raises DataError for a file that lies elsewhere."""
        scheme, path = _parted(location)
        root = next((one for one in self._roots if _is_under((scheme, path), _parted(one))), None)
        if root is None or ".." in path.split("/") or "\0" in path:
            raise leads_out(self._place, location)
        if scheme == "file":
            stays_inside(path, _parted(root)[1], self._place)
            return super().new_input(path)
        return super().new_input(location)

    def new_output(self, location: str) -> OutputFile:
        raise AssertionError("a source is only read")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise AssertionError("a source is only read")

    def _get_fs(self, scheme: str, hostname: str | None = None) -> Any:
        if scheme in self._scheme_to_fs:
            return super()._get_fs(scheme, hostname)
        import fsspec

        return fsspec.filesystem(scheme, **({"host": hostname} if hostname else {}))


@dataclass(frozen=True)
class Opened:
    """A table as it stands. Raises DataError for what is not there or not read here."""

    metadata: TableMetadata
    io: TableFiles
    root: str
    place: str

    @property
    def uuid(self) -> str:
        return str(self.metadata.table_uuid)

    def standing(self, number: int | None, ref: str | None) -> dict[str, int | None]:
        """The id of the snapshot that is meant (None: the table has none yet), and of the schema that its columns are told by: one
        that is named, or tagged, has the columns of then, the newest of a branch those of today."""
        today = self.metadata.current_schema_id
        if number is None and ref is None:
            return {"snapshot": self.metadata.current_snapshot_id, "schema": today}
        if ref is not None:
            if ref not in self.metadata.refs:
                raise DataError(
                    f"{self.place}: there is no branch or tag {ref!r}.",
                    remedy=did_you_mean(ref, list(self.metadata.refs)),
                )
            found = self.metadata.refs[ref]
            if found.snapshot_ref_type == "branch":
                return {"snapshot": found.snapshot_id, "schema": today}
            number = found.snapshot_id
        assert number is not None
        snapshot = self.metadata.snapshot_by_id(number)
        if snapshot is None:
            known = ", ".join(str(one.snapshot_id) for one in self.metadata.snapshots[-5:])
            raise DataError(
                f"{self.place}: there is no snapshot {number}: it never was, or has expired.",
                remedy=f"The newest are: {known or '(none)'}",
            )
        return {"snapshot": number, "schema": today if snapshot.schema_id is None else snapshot.schema_id}

    def columns(self, schema: int) -> list[Column]:
        found = next(one for one in self.metadata.schemas if one.schema_id == schema)
        return [_column(one) for one in found.fields]

    def texts(self, schema: int) -> list[str]:
        """Columns that hold texts."""
        found = next(one for one in self.metadata.schemas if one.schema_id == schema)
        return [one.name for one in found.fields if isinstance(one.field_type, StringType)]

    def files(self, snapshot: int | None) -> list[DataFile]:
        found = None if snapshot is None else self.metadata.snapshot_by_id(snapshot)
        if found is None:
            return []
        equal: list[ManifestEntry] = []
        numbers: dict[str, int] = {}

        def is_planned(entry: ManifestEntry) -> bool:
            """Deletes by equality are put aside: the library refuses to plan them."""
            if entry.data_file.content == DataFileContent.EQUALITY_DELETES:
                equal.append(entry)
                return False
            if entry.data_file.content == DataFileContent.DATA:
                numbers[entry.data_file.file_path] = entry.sequence_number or 0
            return True

        planner = ManifestGroupPlanner(self.metadata, self.io)
        tasks = list(planner.plan_files(found.manifests(self.io), is_planned))
        names = self._names()
        files = [self._file(one, self._equal(one.file, numbers, equal), names) for one in tasks]
        return sorted(files, key=lambda file: file.path)

    def _equal(self, file: Any, numbers: Mapping[str, int], entries: list[ManifestEntry]) -> list[list[Any]]:
        """[[path, columns of the key]] of the equality deletes that apply to a data file."""
        found = []
        for entry in entries:
            one = entry.data_file
            everywhere = self.metadata.specs()[one.spec_id].is_unpartitioned()
            same = one.spec_id == file.spec_id and one.partition == file.partition
            if (entry.sequence_number or 0) > numbers[file.file_path] and (everywhere or same):
                if one.file_format != FileFormat.PARQUET:
                    raise self._not_read(f"equality deletes in {one.file_format.value} files")
                found.append(
                    [one.file_path, [self._key(number).plain() for number in one.equality_ids or ()]]
                )
        return sorted(found)

    def _key(self, number: int) -> Column:
        """A column that deletes go by, which the table may have dropped since."""
        for schema in (self.metadata.schema(), *self.metadata.schemas):
            for field in schema.fields:
                if field.field_id == number:
                    return _column(field)
        raise self._not_read("equality deletes by a field within another")

    def open(self, path: str) -> BinaryIO:
        return cast("BinaryIO", self.io.new_input(path).open())

    def _file(self, task: Any, equal: list[list[Any]], names: dict[str, list[str]]) -> DataFile:
        file = task.file
        if file.file_format != FileFormat.PARQUET:
            raise self._not_read(f"{file.file_format.value} files")
        for one in task.delete_files:
            if one.content != DataFileContent.POSITION_DELETES or one.file_format != FileFormat.PARQUET:
                raise self._not_read(
                    "deletion vectors" if one.file_format == FileFormat.PUFFIN else "such deletes"
                )
        beside = [*(one.file_path for one in task.delete_files), *(path for path, _ in equal)]
        for path in (file.file_path, *beside):
            self.io.new_input(path)  # refuses what lies elsewhere, before anything is read
        scheme, path = _parted(file.file_path)
        where, root = _parted(self.root)
        place = path[len(root) :].lstrip("/") if _is_under((scheme, path), (where, root)) else path
        more: dict[str, Any] = {"deletes": sorted(one.file_path for one in task.delete_files)}
        if equal:
            more["equals"] = equal
        if names:
            more["names"] = names
        rows = None if beside else file.record_count
        return DataFile(
            file.file_path, f"{self.place}/{place}", file.file_size_in_bytes, rows, self._values(file), more
        )

    def _values(self, file: Any) -> dict[str, Any]:
        """Columns that a file may lack: what it was partitioned by, as tables that were taken over from Hive are."""
        spec, schema = self.metadata.specs()[file.spec_id], self.metadata.schema()
        found = {}
        for n, part in enumerate(spec.fields):
            if isinstance(part.transform, IdentityTransform) and part.source_id in schema._lazy_id_to_field:
                field = schema.find_field(part.source_id)
                found[field.name] = plain(_read_value(file.partition[n], field))
        for field in schema.fields:
            if field.initial_default is not None:
                found.setdefault(field.name, plain(field.initial_default))
        return found

    def _names(self) -> dict[str, list[str]]:
        """What fields are called in files that do not number them."""
        mapping = self.metadata.name_mapping()
        found: dict[str, list[str]] = {}

        def note(fields: Any) -> None:
            for one in fields:
                if one.field_id is not None:
                    found[str(one.field_id)] = list(one.names)
                note(one.fields or ())

        note(mapping.root if mapping else ())
        return found

    def _not_read(self, what: str) -> DataError:
        return DataError(
            f"{self.place}: the table has {what}, which are not read here.",
            remedy="Compact it (rewrite_data_files), which applies them and writes Parquet, or read it with Spark.",
        )


def opened(wish: IcebergSpec, base: Path, secret: Secret, place: str) -> Opened:
    """Raises DataError when there is no such table."""
    extra = [_address(one, base, secret) for one in wish.also_under]
    if not wish.catalog:
        address = _address(wish.table, base, secret).rstrip("/")
        root = address if not address.endswith(".metadata.json") else _root(address)
        io = TableFiles({}, [root, *extra], place)
        location = address if address.endswith(".metadata.json") else _newest(io, root, wish.table, place)
        return Opened(FromInputFile.table_metadata(io.new_input(location)), io, root, place)
    properties = {key: secret(value) for key, value in wish.catalog.items()}
    if properties["type"] == "sql":  # a source writes nothing, not even a catalog's own tables
        properties.setdefault("init_catalog_tables", "false")
    properties["py-io-impl"] = (
        "pyiceberg.io.fsspec.FsspecFileIO"  # what an SQL catalog reads a table's metadata by
    )
    catalog: Any = load_catalog(properties.pop("name", "default"), **properties)
    asked: dict[str, Any] = dict(properties)

    def ours(given: Mapping[str, Any] = {}, location: str | None = None) -> TableFiles:
        asked.update({**catalog.properties, **given})
        return TableFiles(asked, [_root(location or ""), *extra], place)

    catalog._load_file_io = ours
    try:
        table = catalog.load_table(wish.table)
    except (NoSuchTableError, NoSuchNamespaceError):
        raise DataError(
            f"{place}: the catalog has no table {wish.table}.",
            remedy="Write it with its namespace: sales.tickets",
        ) from None
    root = _root(table.metadata_location)
    if (
        properties["type"] != "sql"
        and _parted(root)[0] == "file"
        and not any(_is_under(_parted(root), _parted(one)) for one in extra)
    ):
        raise leads_out(place, table.metadata_location)  # a server does not choose files of this machine
    return Opened(table.metadata, TableFiles(asked, [root, *extra], place), root, place)


def _address(written: str, base: Path, secret: Secret) -> str:
    found = secret(written)
    return found if "://" in found else str(base / Path(found).expanduser())


def _root(metadata: str) -> str:
    """The table's folder: what holds the folder `metadata`."""
    folder = metadata.rpartition("/")[0]
    return folder.rpartition("/")[0] if folder.endswith("/metadata") else folder


def _newest(io: TableFiles, root: str, written: str, place: str) -> str:
    """The metadata file of a folder: the one that version-hint.text names, or the one with the highest number."""
    hint = io.new_input(f"{root}/metadata/version-hint.text")
    if hint.exists():
        with hint.open() as stream:
            told = stream.read(100).decode("utf-8", "replace").strip()
        return f"{root}/metadata/{f'v{told}' if told.isdigit() else told}.metadata.json"
    scheme, path = _parted(root)
    system = io.get_fs("file" if scheme == "file" else root.partition("://")[0])
    try:
        names = [
            str(one).rpartition("/")[2]
            for one in system.ls(f"{path if scheme == 'file' else root}/metadata", detail=False)
        ]
    except FileNotFoundError:
        names = []
    numbered = sorted(
        (int(name.lstrip("v").partition("-")[0].partition(".")[0]), name)
        for name in names
        if name.endswith(".metadata.json") and name.lstrip("v").partition("-")[0].partition(".")[0].isdigit()
    )
    if not numbered:
        raise DataError(
            f"{place}: there is no Iceberg table at {written}.",
            remedy="Name the folder that holds metadata/.",
        )
    if len(numbered) > 1 and numbered[-1][0] == numbered[-2][0]:
        raise DataError(
            f"{place}: {numbered[-2][1]} and {numbered[-1][1]} both claim to be the newest metadata.",
            remedy="Name the right one in place of the folder, or its catalog.",
        )
    return f"{root}/metadata/{numbered[-1][1]}"


def _parted(location: str) -> tuple[str, str]:
    """
    >>> _parted("s3a://b/t/x"), _parted("file:/a/b"), _parted("file:///a"), _parted("/a")
    (('s3', '/b/t/x'), ('file', '/a/b'), ('file', '/a'), ('file', '/a'))
    """
    scheme, sign, rest = location.partition(":/")
    if not sign or "/" in scheme:
        return "file", location
    path = "/" + rest.lstrip("/")
    return SAME.get(scheme, scheme), path


def _is_under(one: tuple[str, str], root: tuple[str, str]) -> bool:
    return one[0] == root[0] and one[1].startswith(root[1].rstrip("/") + "/")


def _column(field: NestedField) -> Column:
    return Column(field.name, field.field_id, _inner(field.field_type))


def _inner(kind: Any) -> tuple[Column, ...]:
    if isinstance(kind, StructType):
        return tuple(_column(one) for one in kind.fields)
    if isinstance(kind, ListType):
        return (Column("element", kind.element_id, _inner(kind.element_type)),)
    return ()


def _read_value(told: Any, field: NestedField) -> Any:
    if told is None:
        return None
    if isinstance(field.field_type, DateType) and isinstance(told, int):
        return days_to_date(told)
    if isinstance(field.field_type, TimestampType) and isinstance(told, int):
        return micros_to_timestamp(told)
    if isinstance(field.field_type, TimestamptzType) and isinstance(told, int):
        return micros_to_timestamptz(told)
    return told
