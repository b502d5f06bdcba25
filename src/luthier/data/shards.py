"""The files that rows of a dataset stand in, and how they are read again.

    manifest.json                                  of every side: its rows, its columns, and each file's rows, bytes, SHA-256
                                                   and ids from - to
    train.parquet                                  a side that is not large is one file, sorted by id
    train/00000.parquet  train/00001.parquet ...   a larger one is divided into shards by the beginning of the id

How often a side is divided follows from the characters in it alone, and where it is cut from the ids alone. So the files
are the same bytes whatever engine made them, and a shard can be written by whoever has its rows (`write_shard`), knowing
nothing of the others. A side is named by the path of its one file, `FOLDER/train.parquet`, divided or not; datasets of
earlier versions have one file a side and no manifest.

Not here: what the columns mean (records), and who holds rows until they are sorted (engines/local).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
SHARD_BYTES = 128_000_000
"""Of content, before it is compressed: what one process sorts at once."""
MOST_BITS = 16
ROW_GROUP = 10_000
ROWS_AT_ONCE = 10_000


# -- writing ----------------------------------------------------------------------------------------------------------------


def content_bytes(batch: pa.RecordBatch) -> int:
    """The bytes of its texts: the same however rows are divided into batches."""
    return sum(_text_bytes(column) for column in batch.columns)


def _text_bytes(column: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type):
        return _text_bytes(column.flatten())
    if pa.types.is_struct(column.type):
        return sum(_text_bytes(column.field(n)) for n in range(column.type.num_fields))
    if pa.types.is_string(column.type):
        return pc.sum(pc.binary_length(column)).as_py() or 0
    return 0


def bits_for(content: int) -> int:
    """How many bits of the id divide a side of so many bytes: 0 for one file.

    >>> bits_for(0), bits_for(SHARD_BYTES), bits_for(SHARD_BYTES + 1), bits_for(5 * SHARD_BYTES)
    (0, 0, 1, 3)
    """
    return min(max(0, -(-content // SHARD_BYTES) - 1).bit_length(), MOST_BITS)


def shard_of(ids: pa.Array, bits: int) -> Any:
    """Which shard each row belongs to, int64 [B]. Ids begin with hexadecimal digits, which hashing has mixed; any other id
    has its place in the order, too."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = -(-bits // 4)
    begins = [f"{n << (4 * digits - bits):0{digits}x}" for n in range(1, 1 << bits)]
    bounds = np.array(begins, f"S{digits or 1}")
    told = pc.binary_slice(ids.cast(pa.binary()), 0, digits or 1)
    return np.searchsorted(bounds, np.array(told.to_pylist(), f"S{digits or 1}"), "right")


def shard_path(side: Path, bits: int, n: int) -> Path:
    """`side` is FOLDER/train.parquet."""
    return side.with_suffix("") / f"{n:05d}.parquet" if bits else side


def write_shard(
    path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema, more: Sequence[str] = ()
) -> dict[str, Any]:
    """All rows of one shard, in any order; they are sorted by id and then by `more`. Returns its line of the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_batches(batches, schema)
    table = table.sort_by([(name, "ascending") for name in ("id", *more)]).combine_chunks()
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
    ids = table["id"]
    ends = {"first": ids[0].as_py(), "last": ids[-1].as_py()} if len(ids) else {"first": None, "last": None}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"rows": len(table), "size_bytes": path.stat().st_size, "sha256": digest, **ends}


def manifest_of(
    side: Path, schema: pa.Schema, shards: Sequence[tuple[Path, dict[str, Any]]]
) -> dict[str, Any]:
    """What manifest.json says of a side; `shards` are in the order of ids."""
    files = [{"path": path.relative_to(side.parent).as_posix(), **told} for path, told in shards]
    return {
        "rows": sum(told["rows"] for _, told in shards),
        "columns": {field.name: str(field.type) for field in schema},
        "files": files,
    }


def excerpt(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the manifest says of some sides, for a copy that has only those; nothing for a dataset of an earlier version."""
    path = folder / MANIFEST
    sides = json.loads(path.read_text(encoding="utf-8"))["sides"] if path.is_file() else {}
    return {name: sides[name] for name in names if name in sides}


def manifest_bytes(sides: dict[str, dict[str, Any]]) -> bytes:
    return (json.dumps({"format": 1, "sides": sides}, ensure_ascii=False, indent=1) + "\n").encode()


def write_manifest(folder: Path, sides: dict[str, dict[str, Any]]) -> None:
    (folder / MANIFEST).write_bytes(manifest_bytes(sides))


# -- reading ----------------------------------------------------------------------------------------------------------------


class Side:
    """The rows of one side (or of what was removed, or of the trail), sorted by id. `path` is FOLDER/train.parquet. Raises
    DataError where files are not those of the manifest."""

    def __init__(self, path: Path) -> None:
        self.name, self.folder = path.stem, path.parent
        told = self._manifest()
        if told is None:  # as earlier versions left it, or a file of somebody's own
            self._files = [path] if path.is_file() else []
        else:
            self._files = [self._checked(one) for one in told["files"]]
        self._told = told

    def _manifest(self) -> dict[str, Any] | None:
        try:
            text = (self.folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        side: dict[str, Any] | None = json.loads(text)["sides"].get(self.name)
        return side

    def _checked(self, told: dict[str, Any]) -> Path:
        path = self.folder / told["path"]
        size = path.stat().st_size if path.is_file() else None
        if size != told["size_bytes"]:
            found = "is not there" if size is None else f"has {size:,} bytes"
            raise DataError(
                f"{path} {found}, and {MANIFEST} beside it tells of {told['size_bytes']:,} bytes.",
                remedy="The dataset is damaged: prepare or export it again.",
            )
        return path

    @property
    def there(self) -> bool:
        return bool(self._files)

    @property
    def paths(self) -> list[Path]:
        return list(self._files)

    @property
    def rows(self) -> int:
        import pyarrow.parquet as pq

        if self._told is not None:
            return int(self._told["rows"])
        return sum(pq.ParquetFile(path).metadata.num_rows for path in self._files)

    @property
    def columns(self) -> list[str]:
        import pyarrow.parquet as pq

        return list(pq.ParquetFile(self._files[0]).schema_arrow.names) if self._files else []

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = ROWS_AT_ONCE
    ) -> Iterator[pa.RecordBatch]:
        """In order; columns that its files do not have are left out."""
        import pyarrow.parquet as pq

        for path in self._files:
            with pq.ParquetFile(path) as file:
                there = [one for one in file.schema_arrow.names if columns is None or one in columns]
                yield from file.iter_batches(rows, columns=there)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All at once: for few columns, or a side that is known to be small."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._files:
            raise DataError(
                f"there is no {self.name}.parquet in {self.folder}, and no {MANIFEST} that names others.",
                remedy="Name the folder of a dataset, or prepare it again.",
            )
        return pa.concat_tables(pq.read_table(path, columns=columns) for path in self._files)

    def lines_of(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Lines whose id is one of these; little else is read."""
        import pyarrow.parquet as pq

        found: list[dict[str, Any]] = []
        for path, told in zip(
            self._files, (self._told or {}).get("files") or [None] * len(self._files), strict=True
        ):
            wanted = [
                one for one in ids if told is None or (told["rows"] and told["first"] <= one <= told["last"])
            ]
            if wanted:
                found += pq.read_table(path, filters=[("id", "in", wanted)]).to_pylist()
        return found

    def verify(self) -> None:
        """Read every byte. Raises DataError where one is not what the manifest says."""
        for path, told in zip(self._files, (self._told or {}).get("files", ()), strict=False):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != told["sha256"]:
                raise DataError(
                    f"{path} has other bytes than {MANIFEST} beside it tells of (SHA-256 {found[:12]}, not {told['sha256'][:12]}).",
                    remedy="The dataset is damaged: prepare or export it again.",
                )
