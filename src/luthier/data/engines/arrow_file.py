"""Record batches in a memory-mapped Arrow file, written once and read as often as wanted: the system takes their memory back
when it is short. Small batches are joined to larger ones.

Not here: compression, which could not be mapped; rows that only pass through (local.Spool)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

BATCH_BYTES = 32_000_000


class ArrowFile:
    """First `write`, then `close`, then `read`. There is no file where no batch came. Of what is written about `waiting_bytes` are in
    memory until the end."""

    def __init__(self, path: Path, waiting_bytes: int = BATCH_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._most_bytes = waiting_bytes
        self.path = path
        self.size_bytes = 0
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        self.size_bytes += batch.nbytes
        if self._waiting_bytes >= self._most_bytes:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def read(self) -> Iterator[pa.RecordBatch]:
        if self.path.exists():
            file = pa.ipc.open_file(pa.memory_map(str(self.path)))
            for n in range(file.num_record_batches):
                yield file.get_batch(n)

    def remove(self) -> None:
        """What has been read of it stays readable."""
        self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        batch = pa.concat_batches(self._waiting)
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self.path), batch.schema)
        self._writer.write_batch(batch)
        self._waiting, self._waiting_bytes = [], 0
