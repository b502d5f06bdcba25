"""Rows of a database: a table or a query, through SQLAlchemy, with a cursor on the server and a memory of a few megabytes.

    order      by `key`, always: which row comes first must not be the database's mood. A row's place is "orders?id=17"
    safety     a read-only transaction where the database has one, a read-only file where it is a file; values go in as
               bound parameters only; passwords stand in ${VAR} and are taken out of every message
    identity   the query, its parameters, and what is in the rows (see `_content`)

The reading and the fingerprint are two transactions: rows that change between them are read as they then are. An upper
bound (`until`) makes a table that grows stand still.

Not here: what columns mean (mapping), and remembering how far the last run came: `since` is written by whoever runs it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import Field, model_validator

from luthier.core.artifact import digest_of
from luthier.core.errors import DataError, did_you_mean
from luthier.core.spec import Spec

from .database import Database, holds_secret
from .protocol import BadRow, Block, Estimate, Head, Part, Secret
from .values import not_text, plain, size_of, typed

if TYPE_CHECKING:
    import sqlalchemy as sa

    from luthier.data.spec import SourceSpec

Value = str | int | float | bool | None

BLOCK_BYTES = 2_000_000
MOST_ROWS = 2_000
FIRST_ROWS = 50
LARGEST_CELL = 64_000_000

# As SQLAlchemy finds `:name` in a text; `::type` and `\\:` are no parameters.
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


class SqlSpec(Spec):
    url: str
    """Where the database is, as SQLAlchemy writes it: "postgresql+psycopg://user:${PW}@host/db", "sqlite:///tickets.db"; a file's path starts at the recipe's folder."""
    table: str | None = None
    """The table or view to read, with its schema where it needs one: "sales.orders"."""
    query: str | None = None
    """A query to read, in place of a table; `:name` stands for a parameter."""
    params: dict[str, Value] = Field(default_factory=dict)
    """What the query's parameters are bound to; ${VAR} is filled in when it is read."""
    key: str | list[str] | None = None
    """The column (or columns) that names every row once and gives the order; by default a table's primary key."""
    watermark: str | None = None
    """A column that grows with every new or changed row, such as the time of the change."""
    since: Value = None
    """Only rows whose watermark is greater than this are read."""
    until: Value = None
    """Only rows whose watermark is at most this are read, so that a table that grows gives the same rows again."""
    identity: str = Field(default="content", pattern="^(content|bounds)$")
    """How a changed table is noticed: `content` by a hash over all rows, `bounds` by their number and the ends of key and watermark alone, which is quick and does not see a row that was edited in place."""
    timeout_s: float | None = Field(default=None, gt=0, exclude=True)
    """How long the database may take to answer a statement; without it, as long as it likes."""

    @model_validator(mode="after")
    def _can_be(self) -> SqlSpec:
        if (self.table is None) == (self.query is None):
            raise ValueError("write either table: or query:, and one of them")
        if self.query is not None and self.key is None:
            raise ValueError(
                "a query needs key: the column that names every row once and gives the order, such as key: id"
            )
        if self.key == []:
            raise ValueError("key names no column; write for example key: id")
        if holds_secret(self.url):
            raise ValueError(
                "a password is written in the URL, and what is written is recorded; put it in an environment variable and write ${PASSWORD}"
            )
        wanted = _PARAMETER.findall(self.query or "")
        if lacking := next((name for name in wanted if name not in self.params), None):
            raise ValueError(
                f"the query asks for :{lacking}, and params does not give it; a colon that is no parameter is written \\:"
            )
        if odd := next((name for name in self.params if name not in wanted), None):
            raise ValueError(f"params gives {odd!r}, and the query does not ask for :{odd}")
        bounds = [name for name in ("since", "until") if getattr(self, name) is not None]
        if bounds and self.watermark is None:
            raise ValueError(f"{bounds[0]} bounds the watermark; name its column with watermark:")
        return self

    @property
    def default_name(self) -> str:
        return self.table or "query"


class SqlConnector:
    """Rows of a table or a query, from any database that SQLAlchemy reaches: PostgreSQL, SQLite, DuckDB and others."""

    spec = SqlSpec

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        assert isinstance(source.settings, SqlSpec)
        self._wish, self._secret = source.settings, secret
        self._place = source.name or source.settings.default_name
        self._keeps_bad_rows_out = source.map is not None and source.map.on_bad_row == "set_aside"
        self._database = Database(
            self._wish.url,
            self._place,
            base,
            secret,
            self._wish.timeout_s,
            self._wish.model_dump_json(include={"params", "since", "until"}),
        )
        self._done_bytes = 0

    def head(self, n: int) -> Head:
        with self._database.connection() as connection:
            rows = connection.execute(self._rows(connection).limit(n))
            names = self._names(rows.keys())
            found = [dict(zip(names, map(plain, row), strict=True)) for row in rows]
        if not found:
            raise self._empty()
        return Head(names, found, "sql")

    def parts(self) -> list[Part]:
        found = self.estimate()
        return [Part({"rows": found.rows}, found.size_bytes)]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        self._done_bytes = 0
        with self._database.connection() as connection:
            self._need(connection, columns)
            key = self._key(connection)
            wanted = list(dict.fromkeys([*columns, *key]))
            cursor = connection.execution_options(stream_results=True, max_row_buffer=FIRST_ROWS).execute(
                self._rows(connection, wanted)
            )
            before: tuple[Any, ...] | None = None
            number, count = 1, FIRST_ROWS
            while rows := cursor.fetchmany(count):
                block, size, before = self._block(rows, wanted, columns, key, number, before)
                yield block
                number += len(rows)
                self._done_bytes = min(
                    part.size_bytes, part.size_bytes * (number - 1) // max(part.at["rows"], 1)
                )
                count = max(1, min(MOST_ROWS, BLOCK_BYTES * len(rows) // max(size, 1)))

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        any_rows = False
        for part in self.parts():
            for block in self.read(part, columns):
                any_rows = True
                yield block
        if not any_rows:
            raise self._empty()

    def done_bytes(self) -> int:
        """As many of the estimate's bytes as rows are read of its rows."""
        return self._done_bytes

    def estimate(self) -> Estimate:
        """Rows are counted; bytes are those of the first rows as text, times the number."""
        import sqlalchemy as sa

        with self._database.connection() as connection:
            inner = self._rows(connection).order_by(None).subquery("luthier_rows")
            [rows] = connection.execute(sa.select(sa.func.count()).select_from(inner)).one()
            sample = connection.execute(self._rows(connection).limit(FIRST_ROWS)).fetchall()
        size = sum(size_of(row) for row in sample)
        return Estimate(1, size * rows // max(len(sample), 1), rows, True)

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        wish = self._wish
        with self._database.connection() as connection:
            key = self._key(connection)
            found = self._bounds(connection, key) if wish.identity == "bounds" else self._content(connection)
        asked = {name: self._value(value) for name, value in wish.params.items()}
        window = [wish.watermark, self._value(wish.since), self._value(wish.until)]
        return digest_of([wish.table, wish.query, asked, key, window, wish.identity, found])

    # asking

    def _rows(self, connection: sa.Connection, columns: Sequence[str] | None = None) -> sa.Select[Any]:
        """The rows in order, with the wanted columns or all."""
        import sqlalchemy as sa

        wish = self._wish
        what: list[Any] = [sa.text("*")] if columns is None else [sa.column(name) for name in columns]
        if wish.table is not None:
            schema, _, name = wish.table.rpartition(".")
            asked = sa.select(*what).select_from(sa.table(name, schema=schema or None))
        else:
            assert wish.query is not None
            inner = sa.text(f"(\n{wish.query.strip().rstrip(';')}\n) luthier_query")
            bound = [_bound(name, self._value(value)) for name, value in wish.params.items()]
            asked = sa.select(*what).select_from(inner.bindparams(*bound))
        if wish.watermark is not None:
            if wish.since is not None:
                asked = asked.where(
                    sa.column(wish.watermark) > _bound("luthier_since", self._value(wish.since))
                )
            if wish.until is not None:
                asked = asked.where(
                    sa.column(wish.watermark) <= _bound("luthier_until", self._value(wish.until))
                )
        return asked.order_by(*(sa.column(name) for name in self._key(connection)))

    def _key(self, connection: sa.Connection) -> list[str]:
        import sqlalchemy as sa

        wish = self._wish
        if wish.key is not None:
            return [wish.key] if isinstance(wish.key, str) else wish.key
        assert wish.table is not None
        schema, _, name = wish.table.rpartition(".")
        try:
            found = sa.inspect(connection).get_pk_constraint(name, schema=schema or None)[
                "constrained_columns"
            ]
        except sa.exc.NoSuchTableError:
            found = None
        if found:
            return list(found)
        tables = sa.inspect(connection).get_table_names(schema=schema or None)
        if found is None or name not in [
            *tables,
            *sa.inspect(connection).get_view_names(schema=schema or None),
        ]:
            raise DataError(
                f"{self._place}: there is no table {wish.table!r} in the database.",
                remedy=did_you_mean(name, tables) if tables else "The database has no tables.",
            )
        raise DataError(
            f"{self._place}: the table {wish.table!r} has no primary key, so its rows have no order and no names.",
            remedy="Name the column that is different in every row, for example key: id",
        )

    def _names(self, found: Any) -> list[str]:
        names = [str(name) for name in found]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(
                f"{self._place}: the column {twice!r} stands twice in the query.",
                remedy=f"Give one of them another name: select a.{twice} as first_{twice}",
            )
        return names

    def _need(self, connection: sa.Connection, columns: Sequence[str]) -> None:
        """Refuse a wanted column that is not there, in the same words as a file would."""
        import sqlalchemy as sa

        names = self._names(
            connection.execute(self._rows(connection).order_by(None).where(sa.false())).keys()
        )
        key = self._key(connection)
        for name in [*columns, *key]:
            if name not in names:
                what = "(see `map:`)" if name in columns else "(see `key:`)"
                raise DataError(
                    f"{self._place}: there is no column {name!r}.",
                    remedy=f"{did_you_mean(name, names)} {what}",
                )

    def _block(
        self,
        rows: Sequence[Any],
        wanted: list[str],
        columns: Sequence[str],
        key: list[str],
        number: int,
        before: tuple[Any, ...] | None,
    ) -> tuple[Block, int, tuple[Any, ...]]:
        """The rows as a block; how many bytes they are; the last one's key."""
        at = [wanted.index(name) for name in key]
        places = []
        for row in rows:
            told = tuple(row[i] for i in at)
            self._need_key(told, key, before)
            before = told
            places.append(
                "&".join(f"{n}={quote(str(plain(v)), safe=' :,+/')}" for n, v in zip(key, told, strict=True))
            )
        assert before is not None
        size = 0
        cells: dict[str, list[Any]] = {}
        bad: dict[int, BadRow] = {}
        for i, name in enumerate(wanted):
            column = [plain(row[i]) for row in rows]
            lengths = [len(cell) if isinstance(cell, str | bytes) else 8 for cell in column]
            size += sum(lengths)
            if max(lengths) > LARGEST_CELL:
                where = f"{self._place}?{places[lengths.index(max(lengths))]}"
                raise DataError(
                    f"{where}: the column {name!r} holds more than {LARGEST_CELL:,} characters.",
                    remedy="Is it the right column? If so, cut it in the query: substr(column, 1, 1000000)",
                )
            for row in not_text(column):
                bad[row] = BadRow(number + row, f"{name!r} is not UTF-8", ascii(column[row])[:200])
            if name in columns:
                cells[name] = column
        if bad and not self._keeps_bad_rows_out:
            row, first = next(iter(bad.items()))
            raise DataError(
                f"{self._place}?{places[row]}: {first.reason}.\n  {first.preview}",
                remedy="Correct the row, or set map: {on_bad_row: set_aside} to keep such rows out.",
            )
        good = [row for row in range(len(rows)) if row not in bad]
        if bad:
            cells = {name: [column[row] for row in good] for name, column in cells.items()}
        found: dict[str, Any] = {name: typed(column) for name, column in cells.items()}
        return (
            Block(
                found,
                self._place,
                [number + row for row in good],
                [places[row] for row in good],
                [BadRow(one.line, one.reason, one.preview, places[row]) for row, one in bad.items()],
            ),
            size,
            before,
        )

    def _need_key(self, told: tuple[Any, ...], key: list[str], before: tuple[Any, ...] | None) -> None:
        if any(value is None for value in told):
            raise DataError(
                f"{self._place}: the key {', '.join(key)} is empty (NULL) in a row.",
                remedy="Choose a column that is filled in every row, or leave such rows out: where ... is not null",
            )
        if told == before:
            shown = ", ".join(str(value)[:60] for value in told)
            raise DataError(
                f"{self._place}: two rows have the key {', '.join(key)} = {shown}, so their order is not defined.",
                remedy="Name a column, or several, that are different in every row: key: [day, line]",
            )

    # identity

    def _content(self, connection: sa.Connection) -> list[str]:
        """What all rows hold, in one answer. PostgreSQL and DuckDB add up a 64-bit hash of every row, so no row leaves the
        server: an edit is seen but for a chance of one in 2^64, though not one that was made to be missed. Any other
        database sends the rows, and SHA-256 is taken of them here."""
        import sqlalchemy as sa

        hashed: Mapping[str, Any] = {
            "postgresql": sa.func.hashtextextended(sa.literal_column("luthier_rows::text"), 0),
            "duckdb": sa.func.hash(sa.literal_column("luthier_rows")),
        }
        kind = connection.dialect.name
        if kind in hashed:
            inner = self._rows(connection).order_by(None).subquery("luthier_rows")
            total = sa.cast(sa.func.sum(hashed[kind]), sa.String)
            rows, mark = connection.execute(sa.select(sa.func.count(), total).select_from(inner)).one()
            return [kind, str(rows), str(mark)]
        every = hashlib.sha256()
        cursor = connection.execution_options(stream_results=True, yield_per=MOST_ROWS).execute(
            self._rows(connection)
        )
        every.update(repr(list(cursor.keys())).encode())
        for row in cursor:
            every.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
        return [kind, every.hexdigest()]

    def _bounds(self, connection: sa.Connection, key: list[str]) -> list[str]:
        """How many rows, and where key and watermark begin and end."""
        import sqlalchemy as sa

        ends: list[Any] = [
            sa.column(name) for name in [*key, *([self._wish.watermark] if self._wish.watermark else [])]
        ]
        inner = (
            self._rows(connection, [column.name for column in ends]).order_by(None).subquery("luthier_rows")
        )
        wanted: list[Any] = [f(sa.literal_column(f"luthier_rows.{connection.dialect.identifier_preparer.quote(c.name)}"))
                  for c in ends for f in (sa.func.min, sa.func.max)]  # fmt: skip
        return [
            str(plain(value))
            for value in connection.execute(sa.select(sa.func.count(), *wanted).select_from(inner)).one()
        ]

    def _value(self, value: Value) -> Value:
        return self._secret(value) if isinstance(value, str) else value

    def _empty(self) -> DataError:
        window = (
            " within the bounds of the watermark"
            if self._wish.since is not None or self._wish.until is not None
            else ""
        )
        return DataError(
            f"{self._place}: there are no rows in it{window}.", remedy="Point `table:` or `query:` at data."
        )


def _bound(name: str, value: Value) -> Any:
    """A parameter without a type of its own, so that the database compares a written time with a column of times."""
    import sqlalchemy as sa

    return sa.bindparam(name, value, type_=sa.types.NullType() if isinstance(value, str) else None)
