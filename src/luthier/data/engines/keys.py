"""The keys of all rows, in DuckDB, which spills: the local engine's decide.Tables. Those of few rows never see a disk.

Not here: what is asked of them (decide, rules/primitives), and the rows themselves (spool).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Batches = Iterator[pa.RecordBatch]

KEYS_AT_ONCE = 100_000


class Keys:
    """A DuckDB table `keys` of the key columns and `row`, the number of the row in its stream."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._memory_bytes = folder, memory_bytes
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._few = False
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._waiting_rows = 0
        self._made = False

    @property
    def _database(self) -> duckdb.DuckDBPyConnection:
        """A file's, once rows did not fit into one flush."""
        if self._opened is None:
            config: dict[str, str | bool | int] = {
                "memory_limit": f"{self._memory_bytes}B",
                "temp_directory": str(self._folder / "spill"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
            name = ":memory:" if self._few else str(self._folder / "keys.duckdb")
            self._opened = duckdb.connect(name, config=config | ({"threads": 1} if self._few else {}))
        return self._opened

    def add(self, batch: pa.RecordBatch) -> None:
        rows = pa.array(np.arange(self._rows, self._rows + batch.num_rows, dtype=np.int64))
        self._waiting.append(batch.append_column("row", rows))
        self._rows += batch.num_rows
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= KEYS_AT_ONCE:
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
        self._waiting, self._waiting_rows, self._made = [], 0, True

    def ready(self) -> bool:
        """Whether there is any row; call once after the last `add`."""
        self._few = not self._made
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
        ordered = f"SELECT * FROM ({sql}) ORDER BY row"
        if self._few:
            batches = iter(self._database.sql(ordered).to_arrow_table().to_batches())
        else:
            batches = pq.ParquetFile(self._answered("decisions", ordered)).iter_batches()
        self._database.close()
        return Decisions(batches)


class Decisions:
    """The answers in the order of the rows, taken as the rows stream by."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._held: pa.Table | None = None

    def take(self, n: int) -> pa.RecordBatch:
        while self._held is None or self._held.num_rows < n:
            more = pa.Table.from_batches([next(self._batches)])
            self._held = more if self._held is None else pa.concat_tables([self._held, more])
        taken, self._held = self._held.slice(0, n), self._held.slice(n)
        columns = [column.combine_chunks() for column in taken.columns]
        return pa.record_batch(columns, schema=taken.schema)
