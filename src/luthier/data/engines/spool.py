"""Rows that wait on disk: as they came, or until a side of the dataset can be written sorted.

Not here: what the files of a dataset look like (data/shards).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.data import shards

HELD_BYTES = 32_000_000
"""Rows of so many bytes wait in memory between two steps."""
OPEN_AT_ONCE = 256
"""Shards that are filled in one pass over the rows; a side of more is passed over again."""
Batches = Iterator[pa.RecordBatch]


class Spool:
    """Record batches, written once, read from the start: on disk, but for those that together have no more than `held_bytes`."""

    def __init__(self, path: Path, schema: pa.Schema, held_bytes: int = 0) -> None:
        self.path, self.schema = path, schema
        self._held: list[pa.RecordBatch] = []
        self._room = held_bytes
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        if not held_bytes:
            self._open()

    def _open(self) -> pa.ipc.RecordBatchStreamWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(str(self.path), self.schema, options=options)
        return self._writer

    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._held.append(batch)
            self._room -= batch.nbytes
            if self._room >= 0:
                return
            waiting, self._held = self._held, []
            writer = self._open()
            for one in waiting:
                writer.write_batch(one)
            return
        self._writer.write_batch(batch)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def read(self) -> Batches:
        if self._writer is None:
            yield from self._held
            return
        self._writer.close()
        with pa.ipc.open_stream(str(self.path)) as reader:
            yield from reader

    def remove(self) -> None:
        self._held = []
        if self._writer is not None:
            self._writer.close()
            self.path.unlink()


class SortedSide:
    """A side of the dataset in the making, in bounded memory. Its bytes follow from the rows, whatever the order and the
    batches they came in. `path` is FOLDER/train.parquet; `more` orders rows of one id."""

    def __init__(self, path: Path, schema: pa.Schema, folder: Path, more: Sequence[str] = ()) -> None:
        self._path, self._schema, self._folder, self._more = path, schema, folder, more
        self._spool = Spool(folder / "all.arrow", schema)
        self._content_bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._spool.write(batch)
            self._content_bytes += shards.content_bytes(batch)
            self.rows += batch.num_rows

    def close(self) -> dict[str, Any]:
        """Write the files; returns what the manifest says of them."""
        bits = shards.bits_for(self._content_bytes)
        written = []
        for n, rows in self._shards(bits):
            path = shards.shard_path(self._path, bits, n)
            written.append((path, shards.write_shard(path, rows, self._schema, self._more)))
            pa.default_memory_pool().release_unused()
        self._spool.remove()
        return shards.manifest_of(self._path, self._schema, written)

    def _shards(self, bits: int) -> Iterator[tuple[int, Batches]]:
        if not bits:
            yield 0, self._spool.read()
            return
        for low in range(0, 1 << bits, OPEN_AT_ONCE):
            numbers = range(low, min(1 << bits, low + OPEN_AT_ONCE))
            spools = [Spool(self._folder / f"shard-{n}.arrow", self._schema) for n in numbers]
            for batch in self._spool.read():
                which = shards.shard_of(batch["id"], bits)
                for n in np.unique(which).tolist():
                    if n in numbers:
                        spools[n - low].write(batch.filter(pa.array(which == n)))
            for n, spool in zip(numbers, spools, strict=True):
                yield n, spool.read()
                spool.remove()
