"""What is computed of every row once, before the first step, and kept for whoever goes on: in parts of PART_ROWS rows, so
that a stop or a crash costs one part at most.

    scratch/NAME-DIGEST-000000.parquet    the first part; the digest says of what data, by which model, in which format
    scratch/NAME-DIGEST-000000.json       its size and SHA-256, written last: a part without it was not finished

Parts begin at the same rows whether or not a run was stopped, so their bytes are the same. One whose bytes are not those
that were written is told by the event `prepared.damaged` and computed again. Not here: what is computed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import digest_of

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.core.stage import Context
    from luthier.training.method import Work
    from luthier.training.rows import Row, Rows

PART_ROWS = 256
ROWS_AT_ONCE = 64  # rows that are computed between two chances to stop

Compute = Callable[[Sequence["Row"]], Sequence[Mapping[str, Any]]]


def kept(
    split: str, rows: Rows, work: Work, name: str, what: str, schema: pa.Schema, begin: Callable[[], Compute]
) -> Iterator[pa.Table]:
    """The parts of a split in order: found, or computed and written. `what` is computed is part of their identity, beside
    the work and its number format. `begin` is called when a part is missing, before any progress is told, and gives
    what computes one line for each of some rows."""
    import pyarrow as pa

    told = {"work": work.identity, "split": split, "what": what, "rows": len(rows)}
    told["dtype"] = work.machine.dtype
    stem = f"{name}-{digest_of(told)[:16]}"
    for part, start in enumerate(range(0, len(rows), PART_ROWS)):
        path = work.scratch / f"{stem}-{part:06d}.parquet"
        if (table := _found(path, work.at)) is None:
            compute, end = begin(), min(start + PART_ROWS, len(rows))
            lines: list[Mapping[str, Any]] = []
            for first in range(start, end, ROWS_AT_ONCE):
                work.at.check()
                work.at.progress(f"{name}: {split} rows", first, len(rows))
                lines += compute(rows[first : min(first + ROWS_AT_ONCE, end)])
            table = pa.Table.from_pylist(lines, schema)
            _write(path, table)
        yield table


def _found(path: Path, at: Context) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.store.files import explained

    beside = path.with_suffix(".json")
    if not (path.exists() and beside.exists()):
        return None
    with explained(path.parent):
        data, told = path.read_bytes(), beside.read_bytes()
    if told != _seal(data):
        reason = f"{path.name} does not have the bytes that were written (SHA-256 differs); its rows are computed again"
        at.emit("prepared.damaged", file=path.name, reason=reason)
        return None
    return pq.read_table(pa.BufferReader(data))


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    from luthier.store.files import write_atomic

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())
    write_atomic(path.with_suffix(".json"), _seal(buffer.getvalue()))


def _seal(data: bytes) -> bytes:
    return json.dumps({"bytes": len(data), "sha256": sha256(data).hexdigest()}).encode()
