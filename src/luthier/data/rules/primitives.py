"""What keyed rules decide with. Each is a question in SQL over a table of keys, in words that DuckDB and Spark both know,
so that both give the same answer:

    Distinct   of rows with one key, the one with the lowest id stays
    AtMost     of rows of one part, the lowest few by rank stay

    SELECT row, reason     one line for every row that must go, in any order

Columns of the table `rows`: row (its number in the stream), id, and those that the primitive names. Sums are of whole
numbers only, statistics are made here of a small table of counts, and ties go by id: nothing depends on order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Ask = Callable[[str], list[tuple[Any, ...]]]
"""SQL to its answer, for small ones."""


class Primitive(Protocol):
    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        """SQL that gives (row, reason) of the rows to remove; `rows` is the table, `note` tells people something."""


@dataclass(frozen=True)
class Distinct:
    """Columns: key, input, answer. The last two only feed the report: how many inputs stand there with several answers."""

    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        disagreeing = ask(
            f"SELECT count(*), min(first_id) FROM (SELECT min(id) AS first_id FROM {rows} GROUP BY input "
            "HAVING count(DISTINCT answer) > 1) AS told"
        )
        if disagreeing and disagreeing[0][0]:
            found, example = disagreeing[0]
            note(
                f"{found} inputs stand there with more than one answer or label; one of them is row:{example}"
            )
        return (
            "SELECT row, 'the same as ' || keep AS reason FROM "
            f"(SELECT row, id, min(id) OVER (PARTITION BY key) AS keep FROM {rows}) AS told WHERE id <> keep"
        )


@dataclass(frozen=True)
class AtMost:
    """Columns: part, rank. `limit` may be the median or the smallest of the sizes of all parts."""

    limit: int | Literal["median", "smallest"]

    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        limit = self.limit
        if not isinstance(limit, int):
            sizes = sorted(int(n) for (n,) in ask(f"SELECT count(*) FROM {rows} GROUP BY part"))
            limit = _median(sizes) if limit == "median" else min(sizes, default=0)
            note(f"at most {limit} rows each ({self.limit})")
        return (
            f"SELECT row, part || ' has more than {limit} rows' AS reason FROM (SELECT row, part, "
            f"row_number() OVER (PARTITION BY part ORDER BY rank, id) AS place FROM {rows}) AS told WHERE place > {limit}"
        )


def _median(sizes: list[int]) -> int:
    """Rounded down.

    >>> _median([1, 2, 9]), _median([1, 4]), _median([])
    (2, 2, 0)
    """
    if not sizes:
        return 0
    middle = len(sizes) // 2
    return sizes[middle] if len(sizes) % 2 else (sizes[middle - 1] + sizes[middle]) // 2
