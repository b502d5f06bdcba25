"""Parquet, by row groups, only the wanted columns. A row's place is its number, counted from 1.

Blocks are bounded by bytes, not only by rows: what the file says of its row groups gives a first size, and texts that a
dictionary repeats are unfolded a few rows at a time. A row group that promises more than RATIO times what is stored is
refused; in files on this machine every page is asked, so that a file cannot lie about it. (Elsewhere that would fetch the file
twice; a page that lies there can become 2 GB at most.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from luthier.core.errors import DataError

from .faults import LONGEST_ROW_BYTES, too_long
from .opened import is_local, refuse_bomb
from .parquet_footer import RowGroup, pages_of, row_groups
from .protocol import Block

ROWS = 2_000
BLOCK_BYTES = 4_000_000


def read(
    stream: BinaryIO, place: str, columns: list[str] | None, within: tuple[int, int] | None = None
) -> Iterator[Block]:
    """Blocks of rows; `columns` None gives every column; `within` the first row group and the one after the last, if not all."""
    try:
        groups = row_groups(stream)
        file = pq.ParquetFile(stream)
        if len(groups) != file.num_row_groups:
            raise ValueError("its footer is damaged")
        present = file.schema_arrow.names
        wanted = [name for name in present if columns is None or name in columns]
        folded = [f.name for f in file.schema_arrow if f.name in wanted and _is_text(f.type)]
        file = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=folded)
        first, end = within or (0, len(groups))
        start = 1 + sum(group.rows for group in groups[:first])
        for number, group in list(enumerate(groups))[first:end]:
            rows = _rows_at_once(group, wanted, stream, place)
            for batch in file.iter_batches(batch_size=rows, columns=wanted, row_groups=[number]):
                for piece in pieces(batch, f"{place}:{start}"):
                    yield block_of(piece, place, start)
                    start += piece.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{place}: this is not a readable Parquet file: {str(error).splitlines()[0][:300].rstrip('.')}.",
            remedy="Write it again, or set `format:`.",
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _rows_at_once(group: RowGroup, wanted: list[str], stream: BinaryIO, place: str) -> int:
    chunks = [chunk for chunk in group.chunks if chunk.column in wanted]
    unpacked = sum(chunk.unpacked_bytes for chunk in chunks)
    refuse_bomb(unpacked, sum(chunk.stored_bytes for chunk in chunks), place)
    if is_local(stream):
        for chunk in chunks:
            for stored, becomes in pages_of(stream, chunk):
                refuse_bomb(becomes, stored, place)
    return max(1, min(ROWS, BLOCK_BYTES * max(group.rows, 1) // max(unpacked, 1)))


def pieces(batch: pa.RecordBatch, place: str) -> Iterator[pa.RecordBatch]:
    """The batch in slices that stay bounded when repeated texts are unfolded."""
    size = _unfolded_bytes(batch)
    if size <= 2 * BLOCK_BYTES or batch.num_rows == 1:
        if size > LONGEST_ROW_BYTES and batch.num_rows == 1:
            raise too_long(place)
        yield batch
        return
    half = batch.num_rows // 2
    yield from pieces(batch.slice(0, half), place)
    yield from pieces(batch.slice(half), place)


def _unfolded_bytes(batch: pa.RecordBatch) -> int:
    total = 0
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            total += pc.sum(lengths).as_py() or 0
        else:
            total += column.get_total_buffer_size() if batch.num_rows == 1 else column.nbytes
    return total


def block_of(batch: pa.RecordBatch, place: str, start: int) -> Block:
    columns = {
        name: column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return Block(columns, place, range(start, start + batch.num_rows))


def count(stream: BinaryIO, place: str) -> int:
    return sum(group.rows for group in footer(stream, place))


def footer(stream: BinaryIO, place: str) -> list[RowGroup]:
    """What the file says of its row groups. Raises DataError for one that is none."""
    try:
        return row_groups(stream)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{place}: this is not a readable Parquet file: {str(error).splitlines()[0][:300].rstrip('.')}.",
            remedy="Write it again, or set `format:`.",
        ) from None
