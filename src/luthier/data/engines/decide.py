"""What a group's keyed rules, the numbering and the sides decide over the keys of all rows: the order of the questions,
the same for every engine. An engine brings `Tables`, which answers SQL.

    keys     row (the number of the row in its stream), id, and each step's columns: k0_.., k1_.., u_.. (numbering), s_..
    named    row, id                     ids after numbering
    gone_n   row, step, reason           what the first n keyed rules remove; each sees the rows that are left
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luthier.data import numbering, split
from luthier.data.plan import Group
from luthier.data.report import Account
from luthier.data.rules.primitives import Ask
from luthier.data.rules.rule import KeyedRule

from . import pairs

if TYPE_CHECKING:
    import pyarrow as pa


class Tables(Protocol):
    """`keys` is there. SQL is of the kind that DuckDB and Spark both know."""

    @property
    def columns(self) -> Sequence[str]:
        """Of `keys`."""

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """A small answer."""

    def view(self, name: str, sql: str) -> None:
        """A name for a question."""

    def keep(self, name: str, sql: str) -> None:
        """A table with the answer; one of that name is replaced."""

    def insert(self, name: str, sql: str) -> None:
        """More rows for a table that is kept."""

    def put(self, name: str, table: pa.Table) -> None:
        """A table that is brought; one of that name is replaced."""

    def stream(self, sql: str) -> Iterator[pa.RecordBatch]:
        """A long answer, read to its end before the next is asked for."""


class Settles(Protocol):
    """Wants to see the rows before they are divided."""

    def settle(self, ask: Ask, rows: str) -> None: ...


def decide(
    group: Group, tables: Tables, accounts: Sequence[Account], look: Settles, again: pairs.Again, folder: Path
) -> str:
    """SQL that gives (row, id, step, reason, side) for every row. `step` is the keyed rule that removes it, their number
    where the sides set it aside, -1 where it stays. `again` gives features of rows, which may lie in `folder` for a while.
    Raises DataError."""
    ids = "SELECT row, id FROM keys" if group.numbers is None else numbering.decide(tables.ask)
    tables.keep("named", ids)
    tables.view("gone_0", "SELECT row, 0 AS step, id AS reason FROM named WHERE row < 0")
    for n, step in enumerate(group.keyed):
        account = accounts[len(group.rows) + n]
        rows, note = f"rows_{n}", account.notes.append
        with account.clock():
            _left(tables, n, f"k{n}_", rows)
            if isinstance(step.rule, KeyedRule):
                sql = step.rule.primitive(step.given).decide(rows, tables.ask, note)
            else:
                sql = pairs.decide(step, rows, tables, again, folder / f"pairs-{n}", note)
            more = f"SELECT row, {n} AS step, reason FROM ({sql}) AS told"
            tables.keep(f"gone_{n + 1}", f"SELECT row, step, reason FROM gone_{n} UNION ALL {more}")
    last = len(group.keyed)
    if group.sides is None:
        sides = "SELECT row, id AS side, id AS reason FROM named WHERE row < 0"
    else:
        with accounts[-1].clock():
            _left(tables, last, "s_", "rows_side")
            look.settle(tables.ask, "rows_side")
            if group.sides.own and (cut := split.cut_groups("rows_side", tables.ask)):
                accounts[-1].notes.append(cut)
            tables.keep("divided", split.decide("rows_side", group.sides, tables.keep))
            sides = "SELECT row, side, reason FROM divided"
    return (
        f"SELECT n.row, n.id, coalesce(g.step, CASE WHEN s.reason IS NOT NULL THEN {last} ELSE -1 END) AS step, "
        "coalesce(g.reason, s.reason) AS reason, s.side FROM named AS n "
        f"LEFT JOIN gone_{last} AS g ON g.row = n.row LEFT JOIN ({sides}) AS s ON s.row = n.row"
    )


def _left(tables: Tables, after: int, prefix: str, name: str) -> None:
    """The rows that are still there after some keyed rules, with the columns of one step under their own names."""
    own = [f"k.{c} AS {c.removeprefix(prefix)}" for c in tables.columns if c.startswith(prefix)]
    tables.view(
        name,
        f"SELECT {', '.join(['k.row', 'n.id', *own])} FROM keys AS k JOIN named AS n ON n.row = k.row "
        f"WHERE NOT EXISTS (SELECT 1 FROM gone_{after} AS g WHERE g.row = k.row)",
    )
