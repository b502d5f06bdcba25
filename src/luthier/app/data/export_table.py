"""Rows of an export in one new table of a database: made, filled, counted and kept in one transaction, or not at all.

    position  1, 2, ... in the order of the dataset: the key          side  train, validation, test
    then every column of the dataset: texts, numbers, and JSON for messages

PostgreSQL takes them by COPY; any other database by inserts of some hundred rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, SpecError, StoreError
from luthier.data.connectors.database import Database

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

KEEPS_TABLES = ("mysql", "mariadb", "oracle")
"""Where a table that is made stays, whatever becomes of the transaction."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?")


def check_name(table: str) -> None:
    """Raises SpecError."""
    if not NAME.fullmatch(table):
        raise SpecError(
            f"--table {table!r} is no name of a table.",
            remedy="Write letters, digits and _, with the schema before a point where it needs one: training.tickets",
        )


def write(
    database: Database, name: str, schema: pa.Schema, rows: Iterable[tuple[str, pa.RecordBatch]]
) -> dict[str, int]:
    """Make the table and fill it with (side, batch)es; rows by side, as the database counts them. Raises SpecError when there
    is a table of that name."""
    import sqlalchemy as sa

    within, _, plain = name.rpartition(".")
    table = sa.Table(plain, sa.MetaData(), *_columns(schema), schema=within or None)
    wanted: dict[str, int] = {}
    with database.writing() as connection:
        if sa.inspect(connection).has_table(plain, schema=within or None):
            raise SpecError(
                f"there is a table {name} already, and nothing is ever overwritten.",
                remedy="Name another table with --table.",
            )
        table.create(connection, checkfirst=False)
        lines = _counted(_lines(rows, connection.dialect.name), wanted)
        try:
            if connection.dialect.name == "postgresql" and connection.dialect.driver == "psycopg":
                _copy(connection, table, lines)
            else:
                _insert(connection, table, lines)
            asked = sa.select(table.c.side, sa.func.count()).group_by(table.c.side)
            found = {str(line[0]): int(line[1]) for line in connection.execute(asked)}
            if found != wanted:
                raise StoreError(
                    f"the table {name} holds {found}, and {wanted} was written to it.",
                    remedy="Does a trigger or a rule of the database take rows away? Nothing was kept.",
                )
        except BaseException:
            if connection.dialect.name in KEEPS_TABLES:
                with suppress(Exception):  # the error that is on its way matters more
                    table.drop(connection)
            raise
    return wanted


def _columns(schema: pa.Schema) -> list[sa.Column[Any]]:
    import pyarrow as pa
    import sqlalchemy as sa

    def kind(type_: pa.DataType) -> Any:
        if pa.types.is_nested(type_):
            return sa.JSON(none_as_null=True)
        if pa.types.is_floating(type_):
            return sa.Double()
        if pa.types.is_integer(type_):
            return sa.BigInteger()
        return sa.Boolean() if pa.types.is_boolean(type_) else sa.Text()

    return [
        sa.Column("position", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("side", sa.String(16), nullable=False),
        *(sa.Column(field.name, kind(field.type)) for field in schema),
    ]


def _lines(rows: Iterable[tuple[str, pa.RecordBatch]], kind: str) -> Iterator[list[dict[str, Any]]]:
    position = 0
    for side, batch in rows:
        lines = []
        for row in batch.to_pylist():
            position += 1
            if kind == "postgresql" and (name := _with_nul(row)):
                raise DataError(
                    f"the row {row['id'][:12]} has a NUL character in {name!r}, which no text of PostgreSQL can hold.",
                    remedy="Take such characters out with the rule `normalize`, or export files.",
                )
            lines.append({"position": position, "side": side, **row})
        yield lines


def _with_nul(row: Mapping[str, Any]) -> str | None:
    return next((name for name, cell in row.items() if isinstance(cell, str) and "\0" in cell), None)


def _counted(
    blocks: Iterable[list[dict[str, Any]]], wanted: dict[str, int]
) -> Iterator[list[dict[str, Any]]]:
    for lines in blocks:
        for line in lines:
            wanted[line["side"]] = wanted.get(line["side"], 0) + 1
        yield lines


def _copy(connection: sa.Connection, table: sa.Table, blocks: Iterable[list[dict[str, Any]]]) -> None:
    import psycopg
    import sqlalchemy as sa

    raw: Any = connection.connection.dbapi_connection
    quote = connection.dialect.identifier_preparer
    columns = ", ".join(quote.format_column(column) for column in table.columns)
    said = f"COPY {quote.format_table(table)} ({columns}) FROM STDIN"
    try:
        with raw.cursor() as cursor, cursor.copy(said) as copy:
            for lines in blocks:
                for line in lines:
                    copy.write_row([_json(cell) for cell in line.values()])
    except psycopg.Error as error:
        raise sa.exc.DatabaseError(said, None, error) from None


def _json(cell: Any) -> Any:
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict) else cell


def _insert(connection: sa.Connection, table: sa.Table, blocks: Iterable[list[dict[str, Any]]]) -> None:
    for lines in blocks:
        if lines:
            connection.execute(table.insert(), lines)
