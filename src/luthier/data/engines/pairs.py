"""How a rule of pairs is carried out, over any database that knows the words of rules/primitives:

    keys ─▶ pairs that agree on a band ─▶ features of their rows, into a file ─▶ the rule solves ─▶ rows to remove
                    ▲                                                                │
                    └─ large buckets again, without what has been found, while it finds more ┘

Bands are asked one after the other, so that memory holds one at a time. Features stand in a memory-mapped Arrow file: the
system takes their memory back when it is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from luthier.data.opened import Opened
from luthier.data.rules.rule import PairRule

FEATURES_BYTES = 32_000_000
Batches = Iterator[pa.RecordBatch]


class Database(Protocol):
    """Temporary tables, by the names that are given here."""

    def make(self, name: str, sql: str) -> None:
        """A table from a question; one of that name is replaced."""

    def insert(self, name: str, sql: str) -> None:
        """Rows to a table."""

    def keep(self, name: str, table: pa.Table) -> None:
        """A table from Arrow; one of that name is replaced."""

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """A small answer."""

    def stream(self, sql: str) -> Batches:
        """A large one, read to its end before the next is asked for."""


def decide(
    rule: PairRule,
    settings: Any,
    rows: str,
    database: Database,
    batches: Callable[[], Batches],
    folder: Path,
    note: Callable[[str], None],
) -> pa.Table:
    """(row, reason) of the rows to remove. `rows` is the table of keys with row, id and the rule's own columns; `batches`
    gives all rows again, in the order of their numbers."""
    wish = rule.candidates(settings)
    features = Features(folder, rule, settings)
    gone = pa.table({"row": pa.array([], pa.int64()), "reason": pa.array([], pa.string())})
    said: list[str] = []
    database.make("pair_twins", wish.twins(rows))
    database.make("pair_rows", wish.compared(rows, "pair_twins"))
    database.make("pair_found", "SELECT a, b FROM pair_twins")
    largest = known = 0
    for asked in range(wish.rounds):
        database.keep("pair_gone", gone.select(["row"]))
        for band in wish.bands:
            database.make("pair_buckets", wish.buckets("pair_rows", band, asked))
            size = database.ask("SELECT max(size) FROM pair_buckets")[0][0] or 0
            largest = max(largest, size)
            if size:
                database.insert(
                    "pair_found", wish.pairs("pair_rows", band, "pair_buckets", "pair_gone", asked)
                )
        database.make("pair_found", "SELECT DISTINCT a, b FROM pair_found")
        ((found,),) = database.ask("SELECT count(*) FROM pair_found")
        if found == known:
            break
        known = found
        database.make(
            "pair_order",
            f"SELECT r.row AS row, r.id AS id, row_number() OVER (ORDER BY r.rank, r.id) AS place FROM {rows} AS r "
            "JOIN (SELECT a AS row FROM pair_found UNION SELECT b FROM pair_found) AS p ON p.row = r.row",
        )
        features.look(database.stream("SELECT row, id FROM pair_order ORDER BY row"), batches)
        pairs = database.stream(
            "SELECT p.a AS a, p.b AS b FROM pair_found AS p JOIN pair_order AS x ON x.row = p.a "
            "JOIN pair_order AS y ON y.row = p.b ORDER BY y.place, x.place"
        )
        said = []
        before, gone = gone.num_rows, rule.solve(features.read(), pairs, settings, said.append)
        if largest <= wish.most or gone.num_rows == before:
            break
    for sentence in said:
        note(sentence)
    if largest > wish.most:
        note(
            f"as many as {largest} rows looked alike at first sight: in such a crowd rows are compared with the first few "
            f"that stay, at most {wish.first * wish.rounds}, not each with each"
        )
    return gone


class Features:
    """The features of rows, each asked once, in memory-mapped Arrow files."""

    def __init__(self, folder: Path, rule: PairRule, settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rule, self._settings = folder, rule, settings
        self._files: list[Path] = []
        self._known = np.zeros(0, np.int64)

    def look(self, wanted: Batches, batches: Callable[[], Batches]) -> None:
        """`wanted` are row and id, by row."""
        new = []
        for batch in wanted:
            fresh = ~np.isin(batch["row"].to_numpy(), self._known)
            new.append(batch.filter(pa.array(fresh)))
        rows = pa.concat_batches(new) if new else None
        if rows is not None and rows.num_rows:
            numbers = rows["row"].to_numpy()
            self._known = np.union1d(self._known, numbers)
            self._write(self._of(numbers, rows["id"], batches()))

    def _of(self, numbers: np.ndarray, ids: pa.Array, batches: Batches) -> Batches:
        start = 0
        for batch in batches:
            low, high = np.searchsorted(numbers, [start, start + batch.num_rows])
            if high > low:
                own = batch.take(pa.array(numbers[low:high] - start))
                found = self._rule.features(Opened(own), self._settings)
                yield found.append_column("row", pa.array(numbers[low:high])).append_column(
                    "id", ids[low:high].cast(pa.string())
                )
            start += batch.num_rows

    def _write(self, found: Iterable[pa.RecordBatch]) -> None:
        """In batches that are large enough to be few."""
        path = self._folder / f"features-{len(self._files)}.arrow"
        writer = None
        for batch in _joined(found):
            writer = writer or pa.ipc.new_file(str(path), batch.schema)
            writer.write_batch(batch)
        if writer:
            writer.close()
            self._files.append(path)

    def read(self) -> Batches:
        for path in self._files:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            for n in range(file.num_record_batches):
                yield file.get_batch(n)


def _joined(batches: Iterable[pa.RecordBatch]) -> Batches:
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.nbytes for one in held) >= FEATURES_BYTES:
            yield pa.concat_batches(held)
            held = []
    if held:
        yield pa.concat_batches(held)
