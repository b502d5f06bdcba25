"""What keyed rules decide with. Each is a question in SQL over a table of keys, in words that DuckDB and Spark both know,
so that both give the same answer:

    Distinct    of rows with one key, the one with the lowest id stays
    AtMost      of rows of one part, the lowest few by rank stay
    Agree       of rows with one input, those that answer differently go, or those outvoted
    Sample      of all rows, n or a share by rank stay, of every part in proportion
    Top         of rows of one part, the n or the share with the highest score stay

    SELECT row, reason      one line for every row that must go, in any order

    Candidates  rows that agree on a band are a pair worth comparing, for rules of pairs

    SELECT a, b             row numbers, a before b in the order of who stays

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


@dataclass(frozen=True)
class Candidates:
    """Columns: rank (rows stay in the order of rank, then id), n (how many features a row has), whole (a hash of all its
    features), and the bands, null where a row has none. A pair must be equal in a band, and its smaller n at least `least`
    thousandths of the larger one.

    Rows of one `whole` are `twins` of the first of them, which alone is compared with others. A bucket, the rows of one value
    of a band, gives all its pairs up to 32 rows; in a larger one each row is paired with the first 8. What then stays of
    large buckets is asked again, each time with 8 more first rows: the first that stay are the same ones."""

    bands: tuple[str, ...]
    least: int
    most: int = 32
    first: int = 8
    rounds: int = 3

    def twins(self, rows: str) -> str:
        return (
            "SELECT head AS a, row AS b FROM (SELECT row, first_value(row) OVER (PARTITION BY whole ORDER BY rank, id) AS head "
            f"FROM {rows} WHERE n > 0 AND whole IN (SELECT whole FROM {rows} GROUP BY whole HAVING count(*) > 1)) AS told "
            "WHERE head <> row"
        )

    def compared(self, rows: str, twins: str) -> str:
        """The rows that stand for themselves."""
        columns = ", ".join(("row", "id", "rank", "n", *self.bands))
        return f"SELECT {columns} FROM {rows} AS r WHERE n > 0 AND NOT EXISTS (SELECT 1 FROM {twins} AS t WHERE t.b = r.row)"

    def buckets(self, compared: str, band: str, asked: int) -> str:
        """SELECT band, size of the buckets that matter in a round, counted from 0."""
        fewest = self.most if asked else 1
        return f"SELECT {band} AS band, count(*) AS size FROM {compared} WHERE {band} IS NOT NULL GROUP BY {band} HAVING count(*) > {fewest}"

    def pairs(self, compared: str, band: str, buckets: str, gone: str, asked: int) -> str:
        """`gone` has the column row: what has been found so far."""
        return (
            f"WITH placed AS (SELECT r.row, r.n, r.{band} AS band, row_number() OVER (PARTITION BY r.{band} ORDER BY rank, id) AS place, "
            f"count(*) OVER (PARTITION BY r.{band}) AS size FROM {compared} AS r JOIN {buckets} AS k ON k.band = r.{band} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {gone} AS g WHERE g.row = r.row)) "
            f"SELECT a.row AS a, b.row AS b FROM (SELECT * FROM placed WHERE size <= {self.most} OR place <= {self.first * (asked + 1)}) AS a "
            "JOIN placed AS b ON a.band = b.band WHERE a.place < b.place "
            f"AND CAST(least(a.n, b.n) AS BIGINT) * 1000 >= {self.least} * CAST(greatest(a.n, b.n) AS BIGINT)"
        )


@dataclass(frozen=True)
class Agree:
    """Columns: input, answer; rows whose input is null agree with all. `mark` only notes."""

    how: Literal["drop", "majority", "mark"]

    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        counted = (
            f"SELECT input, answer, count(*) AS n, min(id) AS first_id FROM {rows} WHERE input IS NOT NULL "
            "GROUP BY input, answer"
        )
        several = (
            "SELECT input, count(*) AS answers, sum(n) AS size, max(n) AS most, min(first_id) AS first_id "
            f"FROM ({counted}) AS c GROUP BY input HAVING count(*) > 1"
        )
        inputs, size, example = ask(f"SELECT count(*), sum(size), min(first_id) FROM ({several}) AS s")[0]
        if inputs:
            note(
                f"{inputs} inputs stand there with more than one answer, in {int(size)} rows; one of them is row:{example}"
            )
        if self.how == "mark":
            return f"SELECT row, '' AS reason FROM {rows} WHERE 1 = 0"
        if self.how == "drop":
            return (
                "SELECT r.row, 'one of ' || CAST(s.answers AS VARCHAR(20)) || ' answers to the same input' AS reason "
                f"FROM {rows} AS r JOIN ({several}) AS s ON r.input = s.input"
            )
        leading = f"SELECT input, answer, n, rank() OVER (PARTITION BY input ORDER BY n DESC) AS place FROM ({counted}) AS c"
        winners = f"SELECT input, count(*) AS leaders, min(answer) AS answer FROM ({leading}) AS l WHERE place = 1 GROUP BY input"
        return (
            "SELECT r.row, CASE WHEN w.leaders > 1 THEN 'no majority among ' || CAST(s.answers AS VARCHAR(20)) || "
            "' answers to the same input' ELSE CAST(s.most AS VARCHAR(20)) || ' of ' || CAST(s.size AS VARCHAR(20)) || "
            f"' rows with the same input answer otherwise' END AS reason FROM {rows} AS r "
            f"JOIN ({several}) AS s ON r.input = s.input JOIN ({winners}) AS w ON r.input = w.input "
            "WHERE w.leaders > 1 OR r.answer <> w.answer"
        )


@dataclass(frozen=True)
class Sample:
    """Columns: part, rank. One of `n` and `share` is given; a share counts in billionths.

    The k-th of a part's s rows stands at (k - 1/2) / s: the n lowest stay, or those below the share.
    """

    n: int | None
    share: float | None

    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        placed = (
            "SELECT row, id, part, rank, row_number() OVER (PARTITION BY part ORDER BY rank, id) AS place, "
            f"count(*) OVER (PARTITION BY part) AS size FROM {rows}"
        )
        total = int(ask(f"SELECT count(*) FROM {rows}")[0][0])
        if self.share is not None:
            billionths = round(self.share * 1_000_000_000)
            return (
                f"SELECT row, 'not drawn: {self.share:g} of the rows stay' AS reason FROM ({placed}) AS p "
                f"WHERE (2 * CAST(place AS BIGINT) - 1) * 1000000000 >= 2 * {billionths} * size"
            )
        if self.n is not None and self.n >= total:
            note(f"all {total} rows stay; the sample may have {self.n}")
        return (
            f"SELECT row, 'not drawn: {self.n} of {total} rows stay' AS reason FROM (SELECT row, row_number() OVER "
            "(ORDER BY CAST(2 * place - 1 AS DOUBLE) / CAST(size AS DOUBLE), rank, id) AS place "
            f"FROM ({placed}) AS p) AS q WHERE place > {self.n}"
        )


@dataclass(frozen=True)
class Top:
    """Columns: part, score (a whole number). One of `n` and `share` is given; a share counts in billionths, and the k-th of a
    part's s rows stays if (k - 1/2) / s is below it."""

    n: int | None
    share: float | None

    def decide(self, rows: str, ask: Ask, note: Callable[[str], None]) -> str:
        placed = (
            "SELECT row, score, row_number() OVER (PARTITION BY part ORDER BY score DESC, id) AS place, "
            f"count(*) OVER (PARTITION BY part) AS size FROM {rows}"
        )
        if self.n is not None:
            away, limit = f"place > {self.n}", f"the highest {self.n}"
        else:
            billionths = round((self.share or 0.0) * 1_000_000_000)
            away = f"(2 * CAST(place AS BIGINT) - 1) * 1000000000 >= 2 * {billionths} * size"
            limit = f"the highest {self.share:g} of the rows"
        why = f"'score ' || CAST(score AS VARCHAR(20)) || ' is not among {limit}'"
        return f"SELECT row, {why} AS reason FROM ({placed}) AS p WHERE {away}"


def _median(sizes: list[int]) -> int:
    """Rounded down.

    >>> _median([1, 2, 9]), _median([1, 4]), _median([])
    (2, 2, 0)
    """
    if not sizes:
        return 0
    middle = len(sizes) // 2
    return sizes[middle] if len(sizes) % 2 else (sizes[middle - 1] + sizes[middle]) // 2
