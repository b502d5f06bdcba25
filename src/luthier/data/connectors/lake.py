"""Rows of a table in a lake, as Delta and Iceberg have in common: a snapshot names Parquet files, columns that may be called
otherwise in each of them, and rows that no longer count.

    snapshot ─▶ a part for each data file, which says all that a reader needs ─▶ parquet_rows ─▶ columns by their names of today

So the same snapshot gives the same rows in any process, without asking the table again. What moves (the newest version) is
pinned once, with the fingerprint, and is part of the identity. Every path that a table's own records name must lie under the
table: a record is data, and data does not choose which file is opened.

Not here: where snapshots come from (delta, iceberg), and what is inside a Parquet file (parquet_rows).
"""

from __future__ import annotations

import base64
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar
from urllib.parse import unquote

from pydantic import model_validator

from luthier.core.artifact import digest_of
from luthier.core.errors import DataError, LuthierError, did_you_mean
from luthier.core.spec import Spec, references

from .found import shown, unresolved
from .lake_columns import Column, field_of, shaped
from .protocol import Block, Estimate, Head, Part, Secret

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.spec import SourceSpec

Value = str | int | float | None


class LakeSpec(Spec):
    watermark: str | None = None
    """A column that grows with every new or changed row, such as the time of the change."""
    since: Value = None
    """Only rows whose watermark is greater than this are read."""
    until: Value = None
    """Only rows whose watermark is at most this are read."""

    @model_validator(mode="after")
    def _bounds_need_a_column(self) -> LakeSpec:
        bounds = [name for name in ("since", "until") if getattr(self, name) is not None]
        if bounds and self.watermark is None:
            raise ValueError(f"{bounds[0]} bounds the watermark; name its column with watermark:")
        if self.watermark is not None and not bounds:
            raise ValueError("watermark: alone bounds nothing; write since: or until: too")
        return self


@dataclass(frozen=True)
class DataFile:
    """`path` is what opens it; `place` what people call it; `values` columns that are the same in every row and not in the file;
    `more` whatever else the connector's reader needs, as plain values."""

    path: str
    place: str
    size_bytes: int
    rows: int | None
    values: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """`mark` is the table's identity and the snapshot's; `pinned` what leads to the same one again."""

    mark: list[Any]
    pinned: dict[str, Any]
    columns: list[Column]
    files: list[DataFile]
    texts: Sequence[str] = ()
    """Columns that hold texts."""


class LakeConnector(ABC):
    """protocol.Connector over snapshots. What a connector of such tables adds: `_load`, `_open`, and `_gone` if it can."""

    kind: ClassVar[str]
    remedy = "Check the address, the rights to read it, and the credentials in the environment."

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        assert isinstance(source.settings, LakeSpec)
        self._bounds, self._base, self._secret = source.settings, base, secret
        self._place = source.name or source.default_name
        self._pin: Mapping[str, Any] | None = None
        self._known: Snapshot | None = None
        self._raw: BinaryIO | None = None
        self._passed_bytes = 0

    @abstractmethod
    def _load(self) -> Snapshot:
        """The snapshot that is meant, or the one that is pinned."""

    @abstractmethod
    def _open(self, path: str) -> BinaryIO:
        """A file of the table."""

    def _gone(self, at: Mapping[str, Any], rows: range) -> np.ndarray | None:
        """Which of these rows (from 0) of a part's file no longer count; None for none."""
        return None

    # what moves

    def pinned(self) -> dict[str, Any]:
        return self.snapshot.pinned

    def pin(self, what: Mapping[str, Any]) -> None:
        self._pin = what

    @property
    def snapshot(self) -> Snapshot:
        if self._known is None:
            with self._failing(self._place):
                self._known = self._load()
        return self._known

    # protocol.Connector

    def head(self, n: int) -> Head:
        names = [column.name for column in self.snapshot.columns]
        rows: list[dict[str, Any]] = []
        for part in self.parts():
            for block in self.read(part, names):
                cells = {
                    name: c if isinstance(c, list) else c.to_pylist() for name, c in block.columns.items()
                }
                rows += [
                    {name: cells[name][i] for name in names} for i in range(min(len(block), n - len(rows)))
                ]
                if len(rows) >= n:
                    return Head(names, rows, self.kind)
        if not rows:
            raise self._empty()
        return Head(names, rows, self.kind)

    def parts(self) -> list[Part]:
        columns = [column.plain() for column in self.snapshot.columns]
        return [
            Part(
                {
                    "path": f.path,
                    "place": f.place,
                    "values": dict(f.values),
                    "columns": columns,
                    "texts": list(self.snapshot.texts),
                    **f.more,
                },
                f.size_bytes,
            )
            for f in self.snapshot.files
        ]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        from . import parquet_rows

        self._passed_bytes = 0
        at, place = part.at, part.at["place"]
        known = {told[0]: Column.of(told) for told in at["columns"]}
        wanted = self._wanted(known, columns)
        with self._failing(place):
            stream = self._raw = self._open(at["path"])
            try:
                schema, named = parquet_rows.schema(stream, place), at.get("names", {})
                there = {column.name: field_of(schema, column, named) for column in wanted}
                names = [one.name for one in there.values() if one is not None]
                for block in parquet_rows.read(stream, place, names):
                    if len(block := self._counted(shaped(block, wanted, there, at), at, columns)):
                        yield block
            finally:
                stream.close()
        self._passed_bytes = part.size_bytes

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        passed_bytes, any_rows = 0, False
        for part in self.parts():
            for block in self.read(part, columns):
                any_rows = True
                self._passed_bytes = passed_bytes
                yield block
            passed_bytes += part.size_bytes
            self._passed_bytes = passed_bytes
        if not any_rows:
            raise self._empty()

    def done_bytes(self) -> int:
        inside = self._raw.tell() if self._raw and not self._raw.closed else 0
        return self._passed_bytes + inside

    def estimate(self) -> Estimate:
        """What the table's own records say; less when a watermark bounds it."""
        files = self.snapshot.files
        rows = None if any(f.rows is None for f in files) else sum(f.rows or 0 for f in files)
        exact = rows is not None and self._bounds.watermark is None
        return Estimate(len(files), sum(f.size_bytes for f in files), rows, exact)

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        """The table, its snapshot, and what that consists of: no data file is opened."""
        found = self.snapshot
        files = [[f.place, f.size_bytes, dict(f.values), dict(f.more)] for f in found.files]
        columns = [column.plain() for column in found.columns]
        window = [self._bounds.watermark, self._bounds.since, self._bounds.until]
        return digest_of([self.kind, found.mark, columns, files, window])

    # rows

    def _wanted(self, known: Mapping[str, Column], columns: Sequence[str]) -> list[Column]:
        more = [self._bounds.watermark] if self._bounds.watermark is not None else []
        for name in [*columns, *more]:
            if name not in known:
                why = "(see `watermark:`)" if name in more else "(see `map:`)"
                raise DataError(
                    f"{self._place}: there is no column {name!r}.",
                    remedy=f"{did_you_mean(name, list(known))} {why}",
                )
        return [known[name] for name in dict.fromkeys([*columns, *more])]

    def _counted(self, block: Block, at: Mapping[str, Any], columns: Sequence[str]) -> Block:
        """The block without rows that were deleted, or that are out of bounds."""
        import numpy as np
        import pyarrow as pa

        first = block.lines[0] - 1 if len(block) else 0
        gone = self._gone(at, range(first, first + len(block)))
        keep = None if gone is None else ~gone
        if self._bounds.watermark is not None:
            text = self._bounds.watermark in at["texts"]
            within = _within(block.columns[self._bounds.watermark], self._bounds, self._place, text=text)
            keep = within if keep is None else keep & within
        cells = {name: block.columns[name] for name in columns}
        if keep is None or keep.all():
            return Block(cells, block.place, block.lines)
        left, mask = np.flatnonzero(keep).tolist(), pa.array(keep)
        cells = {
            name: [c[i] for i in left] if isinstance(c, list) else c.filter(mask) for name, c in cells.items()
        }
        return Block(cells, block.place, [block.lines[i] for i in left])

    # faults

    @contextmanager
    def _failing(self, place: str) -> Iterator[None]:
        """Whatever a library raises, with a place and without secrets: its panics too."""
        try:
            yield
        except (LuthierError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            ours = type(error).__module__.partition(".")[0] in ("builtins", "luthier")
            if ours and not isinstance(error, OSError | ValueError):
                raise  # a defect of ours is not a fault of the table
            reason = self._told(" ".join(str(error).split()))[:300].rstrip(".")
            raise DataError(f"{place}: cannot be read: {reason}.", remedy=self.remedy) from None

    def _told(self, text: str) -> str:
        return shown(unresolved(text, self._references(), self._secret))

    def _references(self) -> list[str]:
        return references(self._bounds.model_dump_json())

    def _empty(self) -> DataError:
        window = " within the bounds of the watermark" if self._bounds.watermark is not None else ""
        return DataError(f"{self._place}: there are no rows in it{window}.", remedy="Point it at data.")


# paths


def inside(path: str, root: str, place: str) -> str:
    """The address of a relative path of a table's records, under its folder. Raises DataError for one that leads out of it."""
    plain = unquote(path)
    odd = "://" in plain or plain.startswith(("/", "\\")) or ".." in plain.replace("\\", "/").split("/")
    if odd or plain.startswith("file:") or "\0" in plain:
        raise leads_out(place, path)
    return f"{root.rstrip('/')}/{plain}"


def stays_inside(path: str, root: str, place: str) -> None:
    """For files of this machine: no link may lead out of the table's folder."""
    if not os.path.realpath(path).startswith(os.path.realpath(root) + os.sep):
        raise leads_out(place, path)


def leads_out(place: str, path: str) -> DataError:
    return DataError(
        f"{place}: the table's records name a file that lies outside the table: {shown(path)[:200]}.",
        remedy="Such a table may have been tampered with; if it was cloned on purpose, copy its files into it (a deep clone).",
    )


# bounds


def _within(cells: Any, bounds: LakeSpec, place: str, *, text: bool) -> np.ndarray:
    """Which rows have a watermark between the bounds."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.array(cells) if isinstance(cells, list) else cells
    keep = np.ones(len(column), bool)
    if isinstance(cells, list) and pa.types.is_string(column.type) and not text:
        return _within_text(cells, bounds, place)
    for value, against in ((bounds.since, pc.greater), (bounds.until, pc.less_equal)):
        if value is not None and len(column):
            if pa.types.is_null(column.type):
                return np.zeros(len(column), bool)
            found = against(column, _scalar(value, column.type, place, bounds))
            keep &= pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return keep


def _within_text(cells: list[str | None], bounds: LakeSpec, place: str) -> np.ndarray:
    """Times and numbers of a partition, which stand in the table's records as text."""
    import numpy as np

    from luthier.data.grouped import place_of

    def at(cell: Any, value: Any) -> tuple[Any, str]:
        try:
            return place_of(cell)
        except ValueError:
            raise _not_compared(value, "something else", place, bounds) from None

    known: dict[str | None, bool] = {None: False}
    for cell in set(cells) - {None}:
        known[cell] = True
        for value, later in ((bounds.since, True), (bounds.until, False)):
            if value is not None:
                (here, kind), (bound, its) = at(cell, value), at(value, value)
                if kind != its:
                    raise _not_compared(value, kind, place, bounds)
                known[cell] &= here > bound if later else here <= bound
    return np.array([known[cell] for cell in cells], bool)


def _not_compared(value: Any, kind: object, place: str, bounds: LakeSpec) -> DataError:
    return DataError(
        f"{place}: {value!r} cannot be compared with the column {bounds.watermark!r}, which holds {kind}.",
        remedy="Write since: and until: as the column's values look, a time for example as 2026-01-31T12:00:00Z.",
    )


def _scalar(value: Any, type_: pa.DataType, place: str, bounds: LakeSpec) -> pa.Scalar:
    import pyarrow as pa

    try:
        try:
            return pa.scalar(value).cast(type_)
        except pa.ArrowInvalid:
            if not pa.types.is_timestamp(type_) or type_.tz is None:
                raise
            return pa.scalar(f"{value}Z").cast(
                type_
            )  # a time without a zone is one of UTC, as databases are read too
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise _not_compared(value, type_, place, bounds) from None


# rows that no longer count, as a part carries them


def packed(gone: np.ndarray) -> str:
    """
    >>> import numpy as np
    >>> unpacked(packed(np.array([False, True, False])), range(1, 3)).tolist()
    [True, False]
    """
    import numpy as np

    return base64.b64encode(zlib.compress(np.packbits(gone).tobytes())).decode()


def unpacked(told: str, rows: range) -> np.ndarray:
    """Those of some rows; rows beyond what was told still count."""
    import numpy as np

    found = np.zeros(len(rows), bool)
    there = _bits(told)[rows.start : rows.stop]
    found[: len(there)] = there
    return found


@lru_cache(1)
def _bits(told: str) -> np.ndarray:
    import numpy as np

    return np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(told)), np.uint8)).astype(bool)
