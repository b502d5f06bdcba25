"""Columns of a table in a lake by their names of today, whatever each of its files calls them: by the name that the table's records
give (Delta's column mapping), by the number of the field (Iceberg), or by name mapping where a file numbers none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .protocol import Block

if TYPE_CHECKING:
    import pyarrow as pa

Names = Mapping[str, Sequence[str]]
"""What fields are called in files that do not number them, by number."""


@dataclass(frozen=True)
class Column:
    """A column's name of today, what a file knows it by (its name there, or the number of its field), and what is within it."""

    name: str
    key: str | int
    inner: tuple[Column, ...] = ()

    def plain(self) -> list[Any]:
        return [self.name, self.key, [one.plain() for one in self.inner]]

    @classmethod
    def of(cls, told: Sequence[Any]) -> Column:
        return cls(told[0], told[1], tuple(cls.of(one) for one in told[2]))


def field_of(schema: pa.Schema, column: Column, names: Names) -> pa.Field | None:
    return next((one for one in schema if _is(one, column.key, names)), None)


def _is(there: pa.Field, key: str | int, names: Names) -> bool:
    if isinstance(key, str):
        return bool(there.name == key)
    number = (there.metadata or {}).get(b"PARQUET:field_id")
    return there.name in names.get(str(key), ()) if number is None else bool(number == str(key).encode())


def shaped(
    block: Block, wanted: Sequence[Column], there: Mapping[str, pa.Field | None], at: Mapping[str, Any]
) -> Block:
    """The block's columns by their names of today; what is not in the file is the same in every row, or missing."""
    cells: dict[str, Any] = {}
    for column in wanted:
        found = there[column.name]
        if found is None:
            cells[column.name] = [at["values"].get(column.name)] * len(block)
        else:
            cells[column.name] = _as_now(block.columns[found.name], found, column, at.get("names", {}))
    return Block(cells, block.place, block.lines)


def _as_now(array: pa.Array, there: pa.Field, column: Column, names: Names) -> pa.Array:
    """With the names of today inside it too."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not column.inner or _same(there, column, names):
        return array
    if pa.types.is_struct(there.type):
        inner = [there.type.field(i) for i in range(there.type.num_fields)]
        cells, parts = array.flatten(), []
        for one in column.inner:
            n = next((i for i, f in enumerate(inner) if _is(f, one.key, names)), None)
            parts.append(pa.nulls(len(array)) if n is None else _as_now(cells[n], inner[n], one, names))
        return pa.StructArray.from_arrays(parts, [one.name for one in column.inner], mask=array.is_null())
    if pa.types.is_list(there.type) or pa.types.is_large_list(there.type):
        counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        element = _as_now(array.flatten(), there.type.value_field, column.inner[0], names)
        return pa.ListArray.from_arrays(offsets, element, mask=array.is_null())
    return array


def _same(there: pa.Field, column: Column, names: Names) -> bool:
    """Whether everything within stands in the file as it is today."""
    import pyarrow as pa

    if pa.types.is_struct(there.type):
        inner = [there.type.field(i) for i in range(there.type.num_fields)]
        return [one.name for one in inner] == [one.name for one in column.inner] and all(
            _is(f, one.key, names) and _same(f, one, names)
            for f, one in zip(inner, column.inner, strict=True)
        )
    if pa.types.is_list(there.type) or pa.types.is_large_list(there.type):
        return not column.inner or _same(there.type.value_field, column.inner[0], names)
    return True
