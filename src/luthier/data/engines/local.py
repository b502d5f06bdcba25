"""The local engine: one process, bounded memory, any size that fits the disk.

    batches ─▶ group: row rules, keys ─▶ rows wait in a spool (Arrow IPC) ──▶ group ─▶ ...
                                      └ keys go to DuckDB, which spills; it answers one decision per row

A group whose rules need no keys streams on. One that does reads its input to the end: its keyed rules are decided one
after the other over the rows that the ones before have left. DuckDB never sees a text, only hashes, ids and labels. One with
a rule that learns from all rows reads its input to the end, too, and then once more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from luthier.data import split
from luthier.data.connectors.protocol import Part
from luthier.data.plan import Group, Step
from luthier.data.reading import Job, read_part
from luthier.data.records import RECORD
from luthier.data.report import Account
from luthier.data.rules.rule import GatherRule, MakeRule

from .decide import decide
from .gather import AllFeatures, features_of_all, learn
from .group import Grouped, carry_out, run_group
from .making import make_rows
from .pairs import features_of
from .protocol import At, LocalEngineSpec, Look
from .spool import Spool

Batches = Iterator[pa.RecordBatch]

KEYS_AT_ONCE = 100_000


class Keys:
    """A DuckDB table `keys` of the key columns and `row`, the number of the row in its stream."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._database = duckdb.connect(
            str(folder / "keys.duckdb"),
            config={
                "memory_limit": f"{memory_bytes}B",
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
        self._database.execute(f"CREATE OR REPLACE TABLE {name} AS {sql}")

    def insert(self, name: str, sql: str) -> None:
        self._database.execute(f"INSERT INTO {name} {sql}")

    def put(self, name: str, table: pa.Table) -> None:
        self._database.register("brought", table)
        self.keep(name, "SELECT * FROM brought")
        self._database.unregister("brought")

    def stream(self, sql: str) -> Batches:
        yield from pq.ParquetFile(self._answered("answer", sql)).iter_batches()

    def _answered(self, name: str, sql: str) -> Path:
        path = self._folder / f"{name}.parquet"
        quoted = str(path).replace("'", "''")
        self._database.execute(f"COPY ({sql}) TO '{quoted}' (FORMAT parquet)")
        return path

    def decisions(self, sql: str) -> Decisions:
        """`sql` gives (row, ...) with exactly one line per row, in any order."""
        path = self._answered("decisions", f"SELECT * FROM ({sql}) ORDER BY row")
        self._database.close()
        return Decisions(path)


class Decisions:
    """The answers in the order of the rows, taken as the rows stream by."""

    def __init__(self, path: Path) -> None:
        self._batches = pq.ParquetFile(path).iter_batches()
        self._held: pa.Table | None = None

    def take(self, n: int) -> pa.RecordBatch:
        while self._held is None or self._held.num_rows < n:
            more = pa.Table.from_batches([next(self._batches)])
            self._held = more if self._held is None else pa.concat_tables([self._held, more])
        taken, self._held = self._held.slice(0, n), self._held.slice(n)
        columns = [column.combine_chunks() for column in taken.columns]
        return pa.record_batch(columns, schema=taken.schema)


class LocalEngine:
    """protocol.Engine. Its frames are generators: nothing runs before the rows are drawn."""

    write_errors: ClassVar[tuple[type[Exception], ...]] = (duckdb.IOException, duckdb.OutOfMemoryException)

    def __init__(self, settings: LocalEngineSpec, at: At) -> None:
        self._settings, self._at = settings, at
        self._groups = 0

    def read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Batches:
        passed_bytes = 0
        for job, part in work:
            parts = read_part(job, part)
            while True:
                with account.clock():
                    found = next(parts, None)
                if found is None:
                    break
                self._at.check()
                account.add(found.account)
                if found.removed is not None:
                    self._at.discard(found.removed)
                look.seen(passed_bytes + found.done_bytes, account.rows_in)
                if found.records.num_rows:
                    yield found.records
            passed_bytes += part.size_bytes

    def run(self, group: Group, frame: Batches, accounts: Sequence[Account], look: Look) -> Batches:
        """Batches without a row vanish."""
        self._groups += 1
        passed = self._passed(group, frame, accounts)
        if group.grows is not None and isinstance(group.grows.rule, MakeRule):
            alone = self._passed(replace(group, grows=None), frame, accounts)
            yield from self._made(group.grows, alone, accounts[-1], look)
            return
        if group.learns is not None:
            yield from self._learnt(group.learns, passed, accounts[-1], look)
            return
        if not group.needs_keys:
            for found in passed:
                yield found.batch
            return
        folder = self._at.work / f"group-{self._groups}"
        spool, table = Spool(folder / "rows.arrow", RECORD), Keys(folder, self._settings.memory)
        for found in passed:
            table.add(found.keys)
            spool.write(found.batch)
        if table.ready():

            def again(step: Step, wanted: pa.Table) -> Batches:
                return features_of(step, wanted, self._stoppable(spool.read()))

            decisions = table.decisions(decide(group, table, accounts, look, again, folder))
            for batch in spool.read():
                self._at.check()
                decided = carry_out(group, batch, decisions.take(batch.num_rows))
                self._account(decided.accounts, accounts[len(group.rows) :], decided.removed)
                train, *held = split.SIDES
                for name in held if group.sides is not None else ():
                    look.held(decided.sides[name], name)
                if decided.sides[train].num_rows:
                    yield decided.sides[train]
        spool.remove()
        shutil.rmtree(folder)

    def _learnt(self, step: Step, passed: Iterator[Grouped], account: Account, look: Look) -> Batches:
        """All rows to the end, then each again with what they, or those that are held out, have taught."""
        assert isinstance(step.rule, GatherRule)
        folder = self._at.work / f"group-{self._groups}"
        spool, features = Spool(folder / "rows.arrow", RECORD), AllFeatures(folder, self._at.check)
        any_rows = False
        for found in passed:
            any_rows = True
            spool.write(found.batch)
            if step.rule.of == "rows":
                with account.clock():
                    features.add(features_of_all(step, found.batch))
        if any_rows:
            with account.clock():
                for batch in look.held_rows() if step.rule.of == "held" else ():
                    features.add(features_of_all(step, batch))
                told = learn(step, features, account)
            yield from (
                found.batch
                for found in self._passed(Group(rows=(replace(step, learnt=told),)), spool.read(), [account])
            )
        spool.remove()
        shutil.rmtree(folder)

    def _made(self, step: Step, passed: Iterator[Grouped], account: Account, look: Look) -> Batches:
        """All rows, and then those that were made of them."""
        folder = self._at.work / f"group-{self._groups}"
        spool = Spool(folder / "rows.arrow", RECORD)
        for found in passed:
            spool.write(found.batch)
        yield from spool.read()
        yield from make_rows(step, lambda: self._stoppable(spool.read()), look.held_rows, account)
        spool.remove()
        shutil.rmtree(folder)

    def _stoppable(self, batches: Batches) -> Batches:
        for batch in batches:
            self._at.check()
            yield batch

    def rows(self, frame: Batches) -> Batches:
        return frame

    def close(self) -> None:
        """Everything is in the folder that the caller removes."""

    def _passed(self, group: Group, batches: Batches, accounts: Sequence[Account]) -> Iterator[Grouped]:
        """Through the group's row rules."""
        for batch in batches:
            self._at.check()
            found = run_group(group, batch)
            self._account(found.accounts, accounts, found.removed)  # that of the sides comes last
            if found.batch.num_rows:
                yield found

    def _account(
        self, found: Sequence[Account], whole: Sequence[Account], removed: Sequence[pa.RecordBatch]
    ) -> None:
        for one, all_ in zip(found, whole, strict=False):
            all_.add(one)
        for lines in removed:
            self._at.discard(lines)
