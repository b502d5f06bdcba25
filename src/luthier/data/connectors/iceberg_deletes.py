"""Rows of an Iceberg table that were deleted by what stands in some of their columns (equality deletes): which files of such deletes
apply to a data file, and which of its rows they take away.

    applies     where the delete is younger than the data file, and of the same partition, or of none at all (Iceberg spec, Scan
                planning)
    equal       null to null, NaN to NaN; every column of the key

The keys of the deletes for one data file are held in memory, about 200 bytes each, and its key columns are read once more than
its rows are. Not here: deletes by position (iceberg.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from luthier.core.errors import DataError

from .lake_columns import Column, field_of, shaped

if TYPE_CHECKING:
    import numpy as np

Open = Callable[[str], BinaryIO]
Key = tuple[Any, ...]


class EqualityDeletes:
    """Of one reader. What was found for a data file is kept until another is asked for."""

    def __init__(self, open_: Open, place: str) -> None:
        self._open, self._place = open_, place
        self._of: tuple[str, list[str]] | None = None
        self._mask: np.ndarray | None = None
        self._sets: dict[str, set[Key]] = {}

    def gone(self, at: Mapping[str, Any], rows: range) -> np.ndarray | None:
        """Which of these rows (from 0) of a part's file were deleted; None where no such delete applies."""
        wishes: Sequence[Sequence[Any]] = at.get("equals", ())
        if not wishes:
            return None
        of = at["path"], [path for path, _ in wishes]
        if self._of != of:
            self._mask, self._of = self._found(at, wishes), of
        assert self._mask is not None
        return self._mask[rows.start : rows.stop]

    def _found(self, at: Mapping[str, Any], wishes: Sequence[Sequence[Any]]) -> np.ndarray:
        import numpy as np

        self._sets = {path: self._sets[path] for path, _ in wishes if path in self._sets}
        by_key: dict[tuple[int | str, ...], tuple[list[Column], list[set[Key]]]] = {}
        for path, told in wishes:
            columns = [Column.of(one) for one in told]
            if path not in self._sets:
                self._sets[path] = set(self._deleted(path, columns, at))
            by_key.setdefault(tuple(one.key for one in columns), (columns, []))[1].append(self._sets[path])
        masks = [
            np.array([any(key in one for one in sets) for key in self._keys(at["path"], columns, at)], bool)
            for columns, sets in by_key.values()
        ]
        return np.logical_or.reduce(masks)

    def _deleted(self, path: str, columns: Sequence[Column], at: Mapping[str, Any]) -> Iterator[Key]:
        """Raises DataError for a file of deletes without a column of its key: it would delete what nobody meant."""
        return self._keys(path, columns, {"names": at.get("names", {}), "values": {}}, whole=True)

    def _keys(
        self, path: str, columns: Sequence[Column], at: Mapping[str, Any], *, whole: bool = False
    ) -> Iterator[Key]:
        """The key of every row of a file, in order."""
        from . import parquet_rows

        place = f"{self._place}: {path.rpartition('/')[2]}"
        with self._open(path) as stream:
            schema = parquet_rows.schema(stream, place)
            there = {one.name: field_of(schema, one, at.get("names", {})) for one in columns}
            lacking = [name for name, found in there.items() if found is None]
            if whole and lacking:
                raise DataError(
                    f"{place}: this file of deletes has no column {lacking[0]!r}, which its manifest names as part of the key.",
                    remedy="Compact the table (rewrite_data_files) with the engine that wrote it, or write the deletes again.",
                )
            names = [found.name for found in there.values() if found is not None]
            for block in parquet_rows.read(stream, place, names or None):
                cells = shaped(block, columns, there, at).columns
                plain = [
                    c if isinstance(c, list) else c.to_pylist() for c in (cells[one.name] for one in columns)
                ]
                for key in zip(*plain, strict=True):
                    yield tuple("NaN" if cell != cell else cell for cell in key)
