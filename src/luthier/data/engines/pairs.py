"""How a rule of pairs is carried out, over any database that knows the words of rules/primitives:

    keys ─▶ pairs that agree on a band ─▶ features of their rows, into a file ─▶ the rule solves ─▶ rows to remove
                    ▲                                                                │
                    └─ large buckets again, without what has been found, while it finds more ┘

Bands are asked one after the other, so that memory holds one at a time. Features stand in memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from luthier.data.opened import Opened
from luthier.data.plan import Step
from luthier.data.rules.rule import PairRule

from .arrow_file import ArrowFile

if TYPE_CHECKING:
    from .decide import Tables

Batches = Iterator[pa.RecordBatch]


Again = Callable[[Step, pa.Table], Batches]
"""Features of some rows, by their step: `wanted` has row and id, by row; the answer has row, id and the rule's columns."""


def decide(
    step: Step, rows: str, tables: Tables, again: Again, folder: Path, note: Callable[[str], None]
) -> str:
    """SQL that gives (row, reason) of the rows to remove. `rows` is the table of keys with row, id and the rule's own columns;
    `folder` is for features, and `note` tells people something."""
    rule, settings = step.rule, step.given
    assert isinstance(rule, PairRule)
    wish = rule.candidates(settings)
    features = Features(folder, lambda wanted: again(step, wanted))
    gone = pa.table({"row": pa.array([], pa.int64()), "reason": pa.array([], pa.string())})
    said: list[str] = []
    tables.keep("pair_twins", wish.twins(rows))
    tables.keep("pair_rows", wish.compared(rows, "pair_twins"))
    tables.keep("pair_found", "SELECT a, b FROM pair_twins")
    largest = known = 0
    for asked in range(wish.rounds):
        tables.put("pair_gone", gone.select(["row"]))
        for band in wish.bands:
            tables.keep("pair_buckets", wish.buckets("pair_rows", band, asked))
            size = tables.ask("SELECT max(size) FROM pair_buckets")[0][0] or 0
            largest = max(largest, size)
            if size:
                tables.insert("pair_found", wish.pairs("pair_rows", band, "pair_buckets", "pair_gone", asked))
        tables.keep("pair_found", "SELECT DISTINCT a, b FROM pair_found")
        ((found,),) = tables.ask("SELECT count(*) FROM pair_found")
        if found == known:
            break
        known = found
        tables.keep(
            "pair_order",
            f"SELECT r.row AS row, r.id AS id, row_number() OVER (ORDER BY r.rank, r.id) AS place FROM {rows} AS r "
            "JOIN (SELECT a AS row FROM pair_found UNION SELECT b FROM pair_found) AS p ON p.row = r.row",
        )
        features.look(tables.stream("SELECT row, id FROM pair_order ORDER BY row"))
        pairs = tables.stream(
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
    tables.put("pair_told", gone)
    return "SELECT row, reason FROM pair_told"


class Features:
    """The features of rows, each asked once, in memory-mapped Arrow files."""

    def __init__(self, folder: Path, again: Callable[[pa.Table], Batches]) -> None:
        self._folder, self._again = folder, again
        self._files: list[ArrowFile] = []
        self._known = np.zeros(0, np.int64)

    def look(self, wanted: Batches) -> None:
        """`wanted` are row and id, by row."""
        new = [batch.filter(pa.array(~np.isin(batch["row"].to_numpy(), self._known))) for batch in wanted]
        rows = pa.Table.from_batches(new) if new else None
        if rows is not None and rows.num_rows:
            self._known = np.union1d(self._known, rows["row"].to_numpy())
            file = ArrowFile(self._folder / f"features-{len(self._files)}.arrow")
            for batch in self._again(rows):
                file.write(batch)
            file.close()
            self._files.append(file)

    def read(self) -> Batches:
        for file in self._files:
            yield from file.read()


def features_of(step: Step, wanted: pa.Table, batches: Batches, start: int = 0) -> Batches:
    """`Again` where rows come again in the order of their numbers, the first of which is `start`."""
    assert isinstance(step.rule, PairRule)
    numbers, ids = wanted["row"].to_numpy(), wanted["id"].combine_chunks().cast(pa.string())
    for batch in batches:
        low, high = np.searchsorted(numbers, [start, start + batch.num_rows])
        if high > low:
            own = Opened(batch.take(pa.array(numbers[low:high] - start)))
            found = step.rule.features(own, step.given)
            yield found.append_column("row", pa.array(numbers[low:high])).append_column("id", ids[low:high])
        start += batch.num_rows
