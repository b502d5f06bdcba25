"""Parquet, by row groups, only the wanted columns. A row's place is its number, counted from 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.core.errors import DataError

from .protocol import Block

ROWS = 2_000


def read(stream: BinaryIO, place: str, columns: list[str] | None) -> Iterator[Block]:
    """Blocks of rows; `columns` None gives every column."""
    try:
        file = pq.ParquetFile(stream)
        present = file.schema_arrow.names
        wanted = present if columns is None else [name for name in columns if name in present]
        start = 1
        for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
            yield Block(
                dict(zip(batch.schema.names, batch.columns, strict=True)),
                place,
                range(start, start + batch.num_rows),
            )
            start += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{place}: this is not a readable Parquet file: {error}.",
            remedy="Write it again, or set `format:`.",
        ) from None


def count(stream: BinaryIO) -> int:
    return int(pq.ParquetFile(stream).metadata.num_rows)
