"""What a process of the pool does with one task: the rows of some parts, or rows with what was decided over them, through the
groups of a program (spark_worker), into files.

    into-0.rows into-0.keys    rows that go on, and their keys, in the order of the rows; a new pair for each CHUNK_BYTES
    into.told                  what leaves: rows of sides, lines of removed.parquet

Everything is a function of its arguments and of files. Not here: the processes (pool), the order of tasks (parallel).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.data.records import RECORD

from .pairs import features_of
from .spark_worker import ACCOUNTS, DECIDED, FAILED, KEY, PARTS, ROW, TOLD, step_of, work
from .spool import Spool

CHUNK_BYTES = 32_000_000


def worked(
    program: str,
    into: str,
    parts: list[dict[str, Any]] | None = None,
    rows: str | None = None,
    decided: str | None = None,
) -> dict[str, Any]:
    """`parts` are lines of PARTS; or else `rows` and `decided` are files. {"chunks": rows in each, "told": whether anything
    leaves, "accounts"} or {"failed": an error that people can mend}."""
    if parts is not None:
        given: Iterator[pa.RecordBatch] = iter([pa.RecordBatch.from_pylist(parts, PARTS)])
    else:
        assert rows is not None and decided is not None
        given = _with_decisions(Path(rows), Path(decided))
    chunks, told = Chunks(into), Later(Path(f"{into}.told"), TOLD)
    answer: dict[str, Any] = {}
    for batch in work(program, given):
        what = batch["what"][0].as_py()
        if what == ROW:
            chunks.write(batch)
        elif what == ACCOUNTS:
            answer["accounts"] = json.loads(batch["said"][0].as_py())["accounts"]
        elif what == FAILED:
            answer["failed"] = json.loads(batch["said"][0].as_py())
        else:
            told.write(batch.select(TOLD.names))
    chunks.close()
    pa.default_memory_pool().release_unused()
    return {**answer, "chunks": chunks.counts, "told": told.close()}


class Later:
    """A spool that is there once something is written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._spool: Spool | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._spool is None:
            self._spool = Spool(self._path, self._schema)
        self._spool.write(batch)

    def close(self) -> bool:
        """Whether there is one."""
        if self._spool is not None:
            self._spool.close()
        return self._spool is not None


class Chunks:
    """Rows and their keys, in pairs of files."""

    def __init__(self, into: str) -> None:
        self._into = into
        self._open: tuple[Spool, Spool] | None = None
        self._bytes = 0
        self.counts: list[int] = []

    def write(self, batch: pa.RecordBatch) -> None:
        rows = batch.select(RECORD.names)
        keys = pa.record_batch(
            {f.name.removeprefix(KEY): batch[f.name] for f in batch.schema if f.name.startswith(KEY)}
        )
        if self._open is None:
            rows_path, keys_path = chunk_files(self._into, len(self.counts))
            self._open = Spool(rows_path, RECORD), Spool(keys_path, keys.schema)
            self._bytes = 0
            self.counts.append(0)
        self._open[0].write(rows)
        self._open[1].write(keys)
        self.counts[-1] += rows.num_rows
        self._bytes += rows.nbytes
        if self._bytes >= CHUNK_BYTES:
            self.close()

    def close(self) -> None:
        for spool in self._open or ():
            spool.close()
        self._open = None


def chunk_files(into: str, n: int) -> tuple[Path, Path]:
    return Path(f"{into}-{n}.rows"), Path(f"{into}-{n}.keys")


def _with_decisions(rows: Path, decided: Path) -> Iterator[pa.RecordBatch]:
    """Rows as spark_worker wants them; a row's number is its place in the file."""
    with pa.ipc.open_stream(str(decided)) as reader:
        told = reader.read_all().combine_chunks()
    start = 0
    for batch in read(rows):
        own = told.slice(start, batch.num_rows)
        columns = {"seq": pa.array(np.arange(start, start + batch.num_rows))}
        columns |= {name: batch[name] for name in RECORD.names}
        for field, name in zip(DECIDED, ("id", "step", "reason", "side"), strict=True):
            columns[field.name] = own[name].combine_chunks().cast(field.type)
        yield pa.record_batch(columns)
        start += batch.num_rows


def featured(program: str, into: str, rows: str, wanted: str, start: int) -> dict[str, Any]:
    """Features of the `wanted` rows (row, id) of a file whose first row is number `start`. `program` is the step, as JSON."""
    with pa.ipc.open_stream(wanted) as reader:
        asked = reader.read_all()
    found = None
    for batch in features_of(step_of(program), asked, read(Path(rows)), start):
        found = found or Spool(Path(into), batch.schema)
        found.write(batch)
    if found is not None:
        found.close()
    pa.default_memory_pool().release_unused()
    return {"told": found is not None}


def read(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(str(path)) as reader:
        yield from reader


CHORES: dict[str, Callable[..., dict[str, Any]]] = {"work": worked, "features": featured}
