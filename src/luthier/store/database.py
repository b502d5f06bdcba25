"""How a connection is opened. SQLite (WAL) by default, PostgreSQL by URL; the same statements on both."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from luthier.core.errors import Busy, LuthierError, SpecError, StoreError, missing_part
from luthier.core.spec import redact, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HEAD = "0008"  # the newest migration; a test compares it with the migrations folder

_LAST = "luthier.last"  # what a transaction does at its end: in `info` of its connection

_NO_BEGIN = "luthier.no_begin"
"""Of what only reads SQLite, where AUTOCOMMIT would cost two more statements each time."""

_MIGRATING = threading.Lock()  # Alembic keeps what it works on in globals of a module
_MIGRATION_LOCK = 0x6C757468  # of PostgreSQL: processes that start together migrate one after the other


class Database:
    """One engine, and transactions whose failures are told in our words.

    `url` may hold ${VAR}; it is shown without what they stand for, and without a password that is written out.
    """

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self._written, self._environ = url, environ
        address, self.shown = address_of(url, environ, "LUTHIER_DATABASE")
        self.is_sqlite = address.get_backend_name() == "sqlite"
        self._reading: dict[str, Any] = (
            {_NO_BEGIN: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        )
        try:
            if (
                "options" in address.query
            ):  # a project's schema: many of them share a server, and none holds a connection it does not use
                self.engine = sa.create_engine(address, poolclass=sa.pool.NullPool)
            else:
                # the connection that was used last: what it remembers is still in the processor's caches
                self.engine = sa.create_engine(address, pool_pre_ping=not self.is_sqlite, pool_use_lifo=True)
        except ModuleNotFoundError as error:
            raise missing_part(str(error.name), "postgres", "a PostgreSQL store") from None
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin)
        self._migrate()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing. Raises Busy when another process holds the database too long, SpecError for a text that it keeps none of,
        StoreError otherwise, and sqlalchemy's IntegrityError when another process entered the same key first."""
        try:
            with self.engine.begin() as connection:
                last = connection.info[_LAST] = []
                try:
                    yield connection
                    for work in last:
                        work()
                finally:
                    del connection.info[_LAST]
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise self._explain(error) from error

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for reading only; never waits for a writer."""
        try:
            with self.engine.connect().execution_options(**self._reading) as connection:
                yield connection
        except DBAPIError as error:
            raise self._explain(error) from error

    def rest(self) -> None:
        """Close the connections that nobody uses just now; the next use opens one."""
        self.engine.dispose()

    def forget_removed(self) -> None:
        """What was removed is gone from SQLite's log beside the file too, as far as no other process is reading just now."""
        if self.is_sqlite:
            with self.reading() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def _explain(self, error: DBAPIError) -> LuthierError:
        if isinstance(error, DataError):  # of PostgreSQL: a NUL in a text, a text longer than its column
            return SpecError(
                "a text holds a NUL, or is longer than what is kept of such.", remedy="Send another one."
            )
        text = redact(str(getattr(error, "orig", error)), self._written, self._environ)
        if "locked" in text:
            return Busy(
                "another process is writing to this home and did not finish in 30 s.",
                remedy="Wait for it, or stop it, and run the command again.",
            )
        if "full" in text:
            return StoreError(f"the disk under {self.shown} is full. Nothing that was finished is lost.",
                              remedy="Free some space, or point LUTHIER_HOME at a larger disk, and run the same command again.")  # fmt: skip
        if "readonly" in text or "read-only" in text or "unable to open" in text:
            return StoreError(f"the database {self.shown} cannot be written.",
                              remedy="Give yourself the right to write there, or set LUTHIER_HOME to a folder that is yours.")  # fmt: skip
        return StoreError(
            f"the database {self.shown} failed: {text.strip()}.",
            remedy="Check that it runs and that the address and credentials are right.",
        )

    def _migrate(self) -> None:
        try:
            with self.reading() as connection:
                if "alembic_version" in sa.inspect(connection).get_table_names():
                    found = connection.execute(sa.text("select version_num from alembic_version")).scalar()
                    if found == HEAD:
                        return
                    if found is not None and found > HEAD:
                        raise StoreError(
                            f"this home was written by a newer Luthier (schema {found}; this one knows {HEAD}).",
                            remedy="Upgrade: pip install -U luthier",
                        )
            _upgrade(self.engine)
        except DBAPIError as error:
            raise self._explain(error) from error


def address_of(
    written: str, environ: Mapping[str, str], what: str, wrong: type[LuthierError] = StoreError
) -> tuple[sa.URL, str]:
    """(the address with what its ${VAR} stand for, the address as it may be shown). Raises `wrong`, which calls it `what`, where it
    leads to no database that records are kept in."""
    try:
        address = sa.make_url(resolve(written, environ))
    except sa.exc.ArgumentError:
        raise wrong(
            f"{what} is not a database URL.",
            remedy="Write for example postgresql://user:${PGPASSWORD}@host/luthier",
        ) from None
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() not in ("sqlite", "postgresql"):
        raise wrong(
            f"{what}: {address.get_backend_name()} is not a database Luthier keeps records in.",
            remedy="Use PostgreSQL, or SQLite where one host is enough.",
        )
    return address, redact(address.render_as_string(hide_password=True), written, environ)


def _upgrade(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _MIGRATING, engine.begin() as connection:  # SQLite's BEGIN IMMEDIATE lets one process in at a time
        if connection.dialect.name != "sqlite":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def at_its_end(connection: sa.Connection, work: Callable[[], object]) -> None:
    """Do it as the last thing of a transaction, before it is committed: what locks something that everybody needs."""
    connection.info[_LAST].append(work)


def insert_once(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that leaves a row that is already there as it is."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert

        return insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.postgresql import insert as insert_postgresql

    return insert_postgresql(table).on_conflict_do_nothing()


def _begin(connection: sa.Connection) -> None:
    """Writers queue up at the start of their transaction; readers take no lock at all."""
    if _NO_BEGIN not in connection.get_execution_options():
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, BEGIN IMMEDIATE, never half-way through
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
