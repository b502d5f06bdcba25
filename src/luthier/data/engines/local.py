"""The local engine: one process, bounded memory, any size that fits the disk.

    batches ─▶ group: row rules, keys ─▶ rows wait in a spool (Arrow IPC) ──▶ group ─▶ ...
                                      └ keys go to DuckDB, which spills; it answers one decision per row

A group whose rules need no keys streams on. One that does reads its input to the end: its keyed rules are decided one
after the other over the rows that the ones before have left. DuckDB never sees a text, only hashes, ids and labels.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from luthier.data import split
from luthier.data.plan import Group
from luthier.data.records import RECORD, replace
from luthier.data.report import Account
from luthier.data.rules.primitives import Ask

from .decide import decide
from .group import Grouped, remove, run_group

Batches = Iterator[pa.RecordBatch]
Discard = Callable[[pa.RecordBatch], None]
"""Keeps the lines of what was removed, or changed."""

MEMORY = "1GB"
KEYS_AT_ONCE = 100_000
ROW_GROUP = 10_000
IN_MEMORY_BYTES = 64_000_000  # on disk, compressed; sorting takes several times that


class Look(Protocol):
    """What the caller wants to see on the way, and may refuse."""

    def at_group(self, group: Group, batch: pa.RecordBatch) -> None:
        """A batch, after the group's row rules."""

    def settle(self, ask: Ask, rows: str) -> None:
        """The table of rows that are about to be divided; it has a column `label`."""

    def held(self, batch: pa.RecordBatch, side: str) -> None:
        """Rows of a side that is held out: they go no further."""


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
        self._database = duckdb.connect(
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
        self._database.register("waiting", pa.Table.from_batches(self._waiting))
        fill = (
            "INSERT INTO keys SELECT * FROM waiting"
            if self._made
            else "CREATE TABLE keys AS SELECT * FROM waiting"
        )
        self._database.execute(fill)
        self._database.unregister("waiting")
        self._waiting, self._made = [], True

    def ready(self) -> bool:
        """Whether there is any row; call once after the last `add`."""
        self._flush()
        return self._made

    @property
    def columns(self) -> list[str]:
        return [name for (name,) in self.ask("SELECT column_name FROM (DESCRIBE keys)")]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self._database.execute(sql).fetchall()

    def view(self, name: str, sql: str) -> None:
        self._database.execute(f"CREATE VIEW {name} AS {sql}")

    def keep(self, name: str, sql: str) -> None:
        self._database.execute(f"CREATE TABLE {name} AS {sql}")

    def decisions(self, sql: str) -> Decisions:
        """`sql` gives (row, ...) with exactly one line per row, in any order."""
        path = self._folder / "decisions.parquet"
        quoted = str(path).replace("'", "''")
        self._database.execute(f"COPY (SELECT * FROM ({sql}) ORDER BY row) TO '{quoted}' (FORMAT parquet)")
        self._database.close()
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


class LocalEngine:
    """`work` is a folder of its own, `discard` keeps what is removed, `trail` what was changed, `check` looks whether to
    stop."""

    def __init__(self, work: Path, discard: Discard, trail: Discard, check: Callable[[], None]) -> None:
        self._work, self._discard, self._trail, self._check = work, discard, trail, check
        self._groups = 0

    def run(
        self,
        group: Group,
        batches: Batches,
        accounts: Sequence[Account],
        look: Look,
    ) -> Batches:
        """The rows after a group, where it divides them those of train; batches without any vanish. `accounts` are of the
        group's steps, and of the sides if it has any, and are added to."""
        self._groups += 1
        passed = self._passed(group, batches, accounts, look)
        if not group.needs_keys:
            for found in passed:
                yield found.batch
            return
        folder = self._work / f"group-{self._groups}"
        spool, table = Spool(folder / "rows.arrow", RECORD), Keys(folder)
        for found in passed:
            table.add(found.keys)
            spool.write(found.batch)
        if table.ready():
            decisions = table.decisions(decide(group, table, accounts, look))
            for batch in spool.read():
                self._check()
                decided = decisions.take(batch.num_rows)
                kept = self._apply(group, batch, decided, accounts, look)
                if kept.num_rows:
                    yield kept
        spool.remove()
        shutil.rmtree(folder)

    def _passed(
        self,
        group: Group,
        batches: Batches,
        accounts: Sequence[Account],
        look: Look,
    ) -> Iterator[Grouped]:
        """Through the group's row rules."""
        for batch in batches:
            self._check()
            found = run_group(group, batch)
            for one, whole in zip(found.accounts, accounts, strict=False):  # that of the sides comes last
                whole.add(one)
            for lines in found.removed:
                self._discard(lines)
            for lines in found.trail:
                self._trail(lines)
            if found.batch.num_rows:
                look.at_group(group, found.batch)
                yield found

    def _apply(
        self,
        group: Group,
        batch: pa.RecordBatch,
        decided: pa.Table,
        accounts: Sequence[Account],
        look: Look,
    ) -> pa.RecordBatch:
        step, reasons, side, ids = (
            decided[name].combine_chunks() for name in ("step", "reason", "side", "id")
        )
        if group.numbers is not None:
            batch = replace(batch, id=ids.cast(pa.string()))
        ends: list[tuple[Account, bool]] = [
            (accounts[len(group.rows) + n], one.hidden) for n, one in enumerate(group.keyed)
        ]
        if group.sides is not None:
            ends.append((accounts[-1], group.hidden))
        for n, (account, hidden) in enumerate(ends):
            mine = pc.equal(step, n)
            why = pc.if_else(mine, reasons.cast(pa.string()), pa.scalar(None, pa.string()))
            batch, lines = remove(batch, why, account, hidden=hidden)
            if lines is not None:
                self._discard(lines)
                stays = why.is_null()
                step, reasons, side = (column.filter(stays) for column in (step, reasons, side))
        if group.sides is None:
            return batch
        for name in split.SIDES[1:]:
            look.held(batch.filter(pc.equal(side, name)), name)
        return batch.filter(pc.equal(side, split.SIDES[0]))


class SortedParquet:
    """A Parquet file whose rows are sorted by id, whatever the order they came in, in bounded memory.

    Ids are hashes, so their first digits divide rows evenly: what is too much to sort at once is sorted by parts.
    """

    def __init__(self, path: Path, schema: pa.Schema, folder: Path, then: Sequence[str] = ()) -> None:
        """`then`: what rows of the same id are sorted by."""
        self._path, self._schema, self._folder = path, schema, folder
        self._by = [(name, "ascending") for name in ("id", *then)]
        self._spool = Spool(folder / "all.arrow", schema)
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._spool.write(batch)
            self.rows += batch.num_rows

    def close(self) -> None:
        with pq.ParquetWriter(self._path, self._schema, compression="zstd") as writer:
            for part in self._parts():
                table = pa.Table.from_batches(part, self._schema).sort_by(self._by).combine_chunks()
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
