"""Tokenised rows on disk: one Arrow IPC file, memory-mapped, so that memory does not grow with the data.

    FOLDER/DIGEST.arrow    record batches in the order the rows came; about a million tokens each, not compressed
    FOLDER/DIGEST.json     its size and SHA-256; a file without it was not finished, one that differs is damaged

The folder is a cache that runs and trials share: everything in it can be made again and may be deleted. It is kept
below `KEEP_BYTES` by removing what was used longest ago.

Not here: what is in a row and whether it can be learnt from (`rows`).
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.testing import fault
from luthier.store.files import explained, fsync_file, fsync_folder, sha256_of, write_atomic

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("origin", pa.string()),
        ("group", pa.string()),
        ("weight", pa.float32()),
        ("tokens", pa.int32()),
        ("supervised_tokens", pa.int32()),  # null: the row is too long, and its lists are empty
        ("cuts", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.uint8())),  # a byte each: a bit would have to be unpacked at every reading
        ("signal", pa.float64()),
        ("answer", pa.string()),
    ]
)
BATCH_TOKENS = 1 << 20
BATCH_ROWS = 1 << 14
KEEP_BYTES = 10_000_000_000
RECENT_S = 3600.0
"""What was used within this time is never removed: a run that is going on may come back to it."""


class Damaged(Exception):
    """The file is not what was written. The message says how."""


@dataclass(frozen=True)
class Line:
    """A row as it is written. Without `ids` it is too long: only its number of tokens is known."""

    id: str
    origin: str
    group: str
    weight: float
    tokens: int
    cuts: tuple[int, ...] = ()
    ids: np.ndarray | None = None
    supervised: np.ndarray | None = None
    supervised_tokens: int | None = None
    signal: float | None = None
    answer: str | None = None


# -- writing ------------------------------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path) -> Iterator[Callable[[Line], None]]:
    """Gives a function that adds a row. The file is there, whole, once the block ends without an error."""
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                waiting = _Waiting(writer)
                yield waiting.add
                waiting.flush()
            fsync_file(partial)
            told = {"bytes": partial.stat().st_size, "sha256": sha256_of(partial)}
            fault("tokenfile.rename")
            os.replace(partial, path)
            fsync_folder(path.parent)
            write_atomic(path.with_suffix(".json"), json.dumps(told).encode())
        finally:
            partial.unlink(missing_ok=True)


@dataclass
class _Waiting:
    """Rows that do not yet fill a record batch."""

    writer: Any
    lines: list[Line] = field(default_factory=list)
    tokens: int = 0

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self.tokens += 0 if line.ids is None else line.tokens
        if self.tokens >= BATCH_TOKENS or len(self.lines) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        lines = self.lines
        if not lines:
            return
        columns = [
            pa.array([getattr(line, one.name) for line in lines], one.type)
            if one.name not in ("cuts", "ids", "supervised")
            else _lists([getattr(line, one.name) for line in lines], one.type.value_type)
            for one in SCHEMA
        ]
        self.writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self.lines, self.tokens = [], 0


def _lists(values: list[Any], kind: pa.DataType) -> pa.Array:
    arrays = [np.asarray(() if one is None else one, kind.to_pandas_dtype()) for one in values]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in arrays])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays), kind))


# -- reading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """Views into the mapped file: the values of the three lists end to end, and where each row's begin."""

    cuts: np.ndarray
    cut_starts: np.ndarray
    ids: np.ndarray
    supervised: np.ndarray
    starts: np.ndarray


class TokenFile:
    """A whole file, opened. Columns are Arrow's, in the order of the file; the three lists are read row by row.

    Immutable, and safe to read from several threads."""

    def __init__(self, source: Any) -> None:
        self.table: pa.Table = pa.ipc.open_file(source).read_all()
        if self.table.schema != SCHEMA:
            raise Damaged("it has other columns")
        batches = self.table.to_batches()
        self._firsts = list(accumulate((batch.num_rows for batch in batches), initial=0))
        self._batches = [_views(batch) for batch in batches]

    @classmethod
    def open(cls, path: Path) -> TokenFile:
        """Raises FileNotFoundError where there is no finished file, Damaged where it is not what was written."""
        beside = path.with_suffix(".json")
        try:
            told = json.loads(beside.read_bytes())
            wanted = (told["bytes"], told["sha256"])
        except (ValueError, KeyError, TypeError):
            raise Damaged("its digest cannot be read") from None
        found = path.stat().st_size
        if found != wanted[0]:
            raise Damaged(f"it has {found:,} bytes and not {wanted[0]:,}")
        if sha256_of(path) != wanted[1]:
            raise Damaged("its bytes are not those that were written")
        with suppress(OSError):  # a home that can only be read is no reason not to read
            os.utime(beside)
        return cls(pa.memory_map(str(path)))

    @classmethod
    def of(cls, lines: Iterator[Line]) -> TokenFile:
        """The same in memory; the plain twin of a mapped file, for tests."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            waiting = _Waiting(writer)
            for line in lines:
                waiting.add(line)
            waiting.flush()
        return cls(pa.BufferReader(sink.getvalue()))

    def __len__(self) -> int:
        return self.table.num_rows

    def sequences(self, row: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """(ids, supervised) of each sequence of a row: views into the file."""
        b = bisect_right(self._firsts, row) - 1
        batch, k = self._batches[b], row - self._firsts[b]
        at, found = int(batch.starts[k]), []
        for n in batch.cuts[batch.cut_starts[k] : batch.cut_starts[k + 1]].tolist():
            found.append((batch.ids[at : at + n], batch.supervised[at : at + n]))
            at += n
        return tuple(found)

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, copied into memory."""
        return self.table[name].to_numpy()

    def order_by_id(self) -> np.ndarray:
        """Rows that are not too long, sorted by id."""
        ids, kept = self.table["id"], self.table["supervised_tokens"].is_valid()
        order = np.arange(len(self))
        if len(self) > 1 and not pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
            order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        return order[kept.to_numpy()[order]]


def _views(batch: pa.RecordBatch) -> _Batch:
    def lists(name: str) -> tuple[np.ndarray, np.ndarray]:
        return batch[name].values.to_numpy(), batch[name].offsets.to_numpy()

    (cuts, cut_starts), (ids, starts), (supervised, _) = map(lists, ("cuts", "ids", "supervised"))
    return _Batch(cuts, cut_starts, ids, supervised.view(np.bool_), starts)


# -- the cache ----------------------------------------------------------------------------------------------------------


def evict(folder: Path, keep_bytes: int = KEEP_BYTES, now_s: float | None = None) -> list[str]:
    """Remove what was used longest ago until the rest fits, and what a killed process left behind. Returns the names."""
    now_s = time.time() if now_s is None else now_s
    gone: list[str] = []
    used = sorted((_used_s(path), path) for path in folder.glob("*.arrow"))
    held = size_bytes(folder)
    for when_s, path in used:
        if held <= keep_bytes or now_s - when_s < RECENT_S:
            break
        held -= _size(path)
        path.with_suffix(".json").unlink(
            missing_ok=True
        )  # first: what is left of a half removed file is unfinished
        path.unlink(missing_ok=True)
        gone.append(path.name)
    for path in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):
            if now_s - path.stat().st_mtime > 24 * RECENT_S:
                path.unlink()
    return gone


def size_bytes(folder: Path) -> int:
    """What the cache holds on disk."""
    return sum(_size(path) for path in folder.glob("*.arrow")) if folder.is_dir() else 0


def _size(path: Path) -> int:
    """0 of a file that another process has just removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _used_s(path: Path) -> float:
    for one in (path.with_suffix(".json"), path):
        with suppress(FileNotFoundError):
            return one.stat().st_mtime
    return 0.0
