"""held_out: rows of train that say what a row of validation or test says go. The split keeps equal inputs and equal groups on
one side; this is for what is neither: a paragraph that a mail quotes, a text that was copied and signed by another.

    rows of validation and test ─▶ hashes of n words in a row, by the rows' ids
    rows of train               ─▶ hashes of n words in a row ─▶ looked up ─▶ the words themselves compared

It is the rule `decontaminate` with the dataset's own held-out rows as the benchmark, under quantity, where there are sides. Only
what is asked counts, or with `on: all` the answers too: a usual answer such as "Thank you, we will look into it and write to
you soon" stands on every side. Reasons name the held-out row, not its words.

Footers, forms and greetings are shared by honest neighbours, so half of what a row asks must stand in held-out rows: of 3,632 mails
(examples/spam-mail) 1,972 share thirteen words in a row with some held-out mail, often the foot of a mailing list. Where rows
have no such things, `share: 0` finds single passages.

Not here: leaks in other words (`near_duplicates` before the split finds those with the same ones), and leaks from one held-out
side into the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.spec import Spec
from luthier.core.units import Share

from .decontaminate import Benchmark, leaks_in
from .rule import GatherRule, Said

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from luthier.data.opened import Opened

    from .rule import Gathered


class HeldOut(Spec):
    ngram: int = Field(default=13, ge=2, le=100)
    """How many words in a row make a leak. What is asked in fewer words leaks if it is the same."""
    share: Share = 0.5
    """The least share of a row's windows of so many words that must stand in held-out rows; 0: one is enough."""
    on: Literal["user", "all"] = "user"
    """Whose texts count: what is asked (a plain text is), or everything but system messages."""
    do: Literal["drop", "mark"] = "drop"
    """`drop` removes the rows that leak; `mark` leaves them, and the report counts them."""


ROLES = {"user": ("user", "text"), "all": ("user", "text", "assistant", "rejected")}


def _features(rows: Opened, settings: HeldOut) -> pa.RecordBatch:
    """What a row that is held out says, its texts one after the other as they are judged."""
    import numpy as np
    import pyarrow as pa

    judged = rows.says(*ROLES[settings.on])
    edges = np.concatenate([[0], np.cumsum(np.bincount(rows.row[judged], minlength=len(rows)))])
    order = np.flatnonzero(judged)[np.argsort(rows.row[judged], kind="stable")]
    texts = pa.array(rows.text.gather(order).to_list(), pa.large_string())
    return pa.record_batch({"told": pa.LargeListArray.from_arrays(pa.array(edges), texts)})


def _learn(held: Gathered, settings: HeldOut, note: Callable[[str], None]) -> pa.Table:  # noqa: ARG001  as every rule
    """Columns: id, and told, one line for each text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = pa.schema([("id", pa.string()), ("told", pa.large_string())])
    parts = []
    for batch in held.read():
        flat = pc.list_parent_indices(batch["told"])
        parts.append(pa.table([batch["id"].take(flat), batch["told"].flatten()], schema=schema))
    if not parts:
        note("no row is held out")
    return pa.concat_tables(parts) if parts else schema.empty_table()


class _Same:
    """A table as what it is, not what it holds."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __hash__(self) -> int:
        return id(self.table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.table is other.table


@lru_cache(maxsize=2)
def _made(held: _Same, ngram: int) -> Benchmark:
    return Benchmark(held.table["told"].to_pylist(), held.table["id"].to_pylist(), ngram, 1)


def _run(rows: Opened, settings: HeldOut, held: pa.Table) -> Said:
    import numpy as np

    benchmark = _made(_Same(held), settings.ngram)
    why = {
        row: f"{what} in row:{other}, which is held out"
        for row, what, other in leaks_in(
            rows, benchmark, settings.ngram, rows.says(*ROLES[settings.on]), settings.share
        )
    }
    if settings.do == "drop":
        return Said(removed=rows.reasons(why))
    leaks = np.zeros(len(rows), np.int64)
    leaks[list(why)] = 1
    return Said(counts={"leaks": leaks})


held_out = GatherRule(
    "held_out", 1, HeldOut, "Removes rows of train that say what a held-out row says.", _features, _learn, _run,
    of="held", source="n-gram overlap after Brown et al. (2020), with comparison of the words",
)  # fmt: skip
