"""The local engine: one process, bounded memory, any size that fits the disk.

    batches ─▶ map rule ─▶ map rule ─▶ keyed rule ────────────────▶ map rule ─▶ ...
                                        │ rows wait in a spool (Arrow IPC)
                                        └ keys go to DuckDB, which spills; it answers one decision per row

Map rules are generators chained one after the other, so adjacent ones run on a batch while it is warm. A keyed step
reads its input to the end, then streams on. DuckDB never sees a text, only hashes, ids and labels.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from luthier.data.records import RECORD
from luthier.data.report import Tally
from luthier.data.rules.rule import AtMost, Distinct, KeyedRule, MapRule
from luthier.data.spec import RuleSpec

Batches = Iterator[pa.RecordBatch]
Discard = Callable[[pa.RecordBatch, str, pa.Array], None]
"""(rows, rule, reasons): keeps what a rule removed."""

MEMORY = "1GB"
KEYS_AT_ONCE = 100_000
ROW_GROUP = 10_000
IN_MEMORY_BYTES = 64_000_000  # on disk, compressed; sorting takes several times that


class Spool:
    """Record batches on disk, written once, read from the start."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.schema = path, schema
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(str(path), schema, options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def read(self) -> Batches:
        self._writer.close()
        with pa.ipc.open_stream(str(self.path)) as reader:
            yield from reader

    def size_bytes(self) -> int:
        self._writer.close()
        return self.path.stat().st_size

    def remove(self) -> None:
        self._writer.close()
        self.path.unlink()


class Keys:
    """A DuckDB table `keys` of the key columns and `row`, the number of the row in its stream."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.database = duckdb.connect(
            str(folder / "keys.duckdb"),
            config={
                "memory_limit": MEMORY,
                "temp_directory": str(folder / "spill"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._made = False

    def add(self, batch: pa.RecordBatch) -> None:
        rows = pa.array(range(self._rows, self._rows + batch.num_rows), pa.int64())
        self._waiting.append(batch.append_column("row", rows))
        self._rows += batch.num_rows
        if sum(b.num_rows for b in self._waiting) >= KEYS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        self.database.register("waiting", pa.Table.from_batches(self._waiting))
        fill = (
            "INSERT INTO keys SELECT * FROM waiting"
            if self._made
            else "CREATE TABLE keys AS SELECT * FROM waiting"
        )
        self.database.execute(fill)
        self.database.unregister("waiting")
        self._waiting, self._made = [], True

    def ready(self) -> bool:
        """Whether there is any row; call once after the last `add`."""
        self._flush()
        return self._made

    def decisions(self, sql: str) -> Decisions:
        """`sql` gives (row, ...) with exactly one line per row, in any order."""
        path = self._folder / "decisions.parquet"
        quoted = str(path).replace("'", "''")
        self.database.execute(f"COPY (SELECT * FROM ({sql}) ORDER BY row) TO '{quoted}' (FORMAT parquet)")  # noqa: S608
        self.database.close()
        return Decisions(path)


class Decisions:
    """The answers in the order of the rows, taken as the rows stream by."""

    def __init__(self, path: Path) -> None:
        self._batches = pq.ParquetFile(path).iter_batches()
        self._held: pa.Table | None = None

    def take(self, n: int) -> pa.Table:
        while self._held is None or self._held.num_rows < n:
            more = pa.Table.from_batches([next(self._batches)])
            self._held = more if self._held is None else pa.concat_tables([self._held, more])
        taken, self._held = self._held.slice(0, n), self._held.slice(n)
        return taken.combine_chunks()


def keyed(
    batches: Batches,
    folder: Path,
    keys: Callable[[pa.RecordBatch], pa.RecordBatch],
    decide: Callable[[duckdb.DuckDBPyConnection], str],
) -> Iterator[tuple[pa.RecordBatch, pa.Table]]:
    """Every batch again, with the decision for each of its rows, once all rows have been seen."""
    spool = Spool(folder / "rows.arrow", RECORD)
    table = Keys(folder)
    for batch in batches:
        table.add(keys(batch))
        spool.write(batch)
    if table.ready():
        decisions = table.decisions(decide(table.database))
        for batch in spool.read():
            yield batch, decisions.take(batch.num_rows)
    spool.remove()
    shutil.rmtree(folder)


def apply(
    rule: MapRule | KeyedRule, wish: RuleSpec, batches: Batches, tally: Tally, discard: Discard, folder: Path
) -> Batches:
    """The batches after one rule; empty batches vanish."""
    if isinstance(rule, MapRule):
        return _map(rule, wish, batches, tally, discard)
    return _keyed_rule(rule, wish, batches, tally, discard, folder)


def _map(rule: MapRule, wish: RuleSpec, batches: Batches, tally: Tally, discard: Discard) -> Batches:
    for batch in batches:
        start = time.perf_counter()
        done = rule.function(batch, wish.settings)
        if done.batch.num_rows != batch.num_rows:
            raise AssertionError(
                f"{rule.name} gave {done.batch.num_rows} rows for {batch.num_rows}; a map rule marks rows, it drops none"
            )
        if done.changed is not None:
            tally.see_changes(batch, done.batch, done.changed)
        kept = done.batch if done.removed is None else remove(done.batch, done.removed, tally, discard)
        tally.count(batch.num_rows, kept.num_rows)
        tally.seconds += time.perf_counter() - start
        if kept.num_rows:
            yield kept


def remove(batch: pa.RecordBatch, reasons: pa.Array, tally: Tally, discard: Discard) -> pa.RecordBatch:
    """The rows without a reason; the others go to `discard`."""
    if reasons.null_count == len(reasons):
        return batch
    tally.see_removals(batch, reasons)
    gone = reasons.is_valid()
    discard(batch.filter(gone), tally.rule, reasons.filter(gone))
    return batch.filter(reasons.is_null())


def _keyed_rule(
    rule: KeyedRule, wish: RuleSpec, batches: Batches, tally: Tally, discard: Discard, folder: Path
) -> Batches:
    def keys(batch: pa.RecordBatch) -> pa.RecordBatch:
        start = time.perf_counter()
        columns = rule.keys(batch, wish.settings)
        tally.seconds += time.perf_counter() - start
        return columns

    def decide(database: duckdb.DuckDBPyConnection) -> str:
        start = time.perf_counter()
        primitive = rule.primitive(wish.settings)
        sql = (
            _distinct(database, tally)
            if isinstance(primitive, Distinct)
            else _at_most(database, tally, primitive)
        )
        tally.seconds += time.perf_counter() - start
        return sql

    for batch, decisions in keyed(batches, folder, keys, decide):
        kept = remove(batch, decisions["reason"].combine_chunks().cast(pa.string()), tally, discard)
        tally.count(batch.num_rows, kept.num_rows)
        if kept.num_rows:
            yield kept


def _distinct(database: duckdb.DuckDBPyConnection, tally: Tally) -> str:
    disagreeing = database.execute(
        "SELECT count(*), min(first_id) FROM (SELECT min(id) AS first_id FROM keys GROUP BY input HAVING count(DISTINCT answer) > 1)"
    ).fetchone()
    if disagreeing and disagreeing[0]:
        tally.notes.append(
            f"{disagreeing[0]} inputs stand there with more than one answer or label; one of them is row:{disagreeing[1]}"
        )
    return """
        SELECT row, CASE WHEN id != keep THEN 'the same as ' || keep END AS reason
        FROM (SELECT row, id, min(id) OVER (PARTITION BY key) AS keep FROM keys)"""


def _at_most(database: duckdb.DuckDBPyConnection, tally: Tally, wish: AtMost) -> str:
    if isinstance(wish.limit, int):
        limit = wish.limit
    else:
        measure = "floor(median(n))" if wish.limit == "median" else "min(n)"
        sizes = "(SELECT count(*) AS n FROM keys GROUP BY part)"
        found = database.execute(f"SELECT {measure} FROM {sizes}").fetchone()  # noqa: S608  both are written above
        limit = int(found[0]) if found else 0
        tally.notes.append(f"at most {limit} rows each ({wish.limit})")
    return f"""
        SELECT row, CASE WHEN place > {limit} THEN part || ' has more than {limit} rows' END AS reason
        FROM (SELECT row, part, row_number() OVER (PARTITION BY part ORDER BY rank, id) AS place FROM keys)"""  # noqa: S608  the limit is a number


class SortedParquet:
    """A Parquet file whose rows are sorted by id, whatever the order they came in, in bounded memory.

    Ids are hashes, so their first digits divide rows evenly: what is too much to sort at once is sorted by parts.
    """

    def __init__(self, path: Path, schema: pa.Schema, folder: Path) -> None:
        self._path, self._schema, self._folder = path, schema, folder
        self._spool = Spool(folder / "all.arrow", schema)
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._spool.write(batch)
            self.rows += batch.num_rows

    def close(self) -> None:
        with pq.ParquetWriter(self._path, self._schema, compression="zstd") as writer:
            for part in self._parts():
                table = pa.Table.from_batches(part, self._schema).sort_by("id").combine_chunks()
                writer.write_table(table, row_group_size=ROW_GROUP)
        self._spool.remove()

    def _parts(self) -> Iterator[Iterable[pa.RecordBatch]]:
        size_bytes = self._spool.size_bytes()
        if size_bytes <= IN_MEMORY_BYTES:
            yield list(self._spool.read())
            return
        digits = 1 if size_bytes <= 16 * IN_MEMORY_BYTES else 2
        names = ["".join(name) for name in itertools.product("0123456789abcdef", repeat=digits)]
        spools = {name: Spool(self._folder / f"part-{name}.arrow", self._schema) for name in names}
        for batch in self._spool.read():
            first = pc.utf8_slice_codeunits(batch["id"], 0, digits)
            for name in pc.unique(first).to_pylist():
                spools[name].write(batch.filter(pc.equal(first, name)))
        for name in names:
            yield list(spools[name].read())
            spools[name].remove()
