"""A database by a URL whose secrets are filled in at the last moment, and with errors in words that never hold a secret or a
row. As a source it is opened for reading only, with one time zone and one way to write dates; to take rows that leave, in one
transaction that is kept as a whole or not at all."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from luthier.core.errors import DataError, LuthierError, SpecError, missing_part
from luthier.core.spec import references

from .protocol import Secret
from .sql_faults import explain

if TYPE_CHECKING:
    import sqlalchemy as sa

CONNECT_S = 15
EXTRAS = {"psycopg": "postgres", "duckdb_engine": "duckdb"}
_IN_QUERY = r"[?&](?:password|passwd|(?:access_|auth_|x-amz-security-)?token|secret|sig|(?:x-amz-|x-goog-)?signature|(?:api_?)?key)=([^&]*)"
_WRITTEN_SECRET = re.compile(rf"://[^/@:]*:([^@]*)@|{_IN_QUERY}", re.IGNORECASE)
_WRITTEN_SECRET_OF_FILES = re.compile(rf"://[^/@:]*:([^@/]*)@|{_IN_QUERY}", re.IGNORECASE)
"""The path of a file may hold an @."""


def holds_secret(url: str, *, path: bool = False) -> bool:
    """Whether a password or a key is written in a URL, and not by reference. `path`: it is one of files.

    >>> holds_secret("postgresql://me:hunter2@db/x"), holds_secret("postgresql://me:${PW}@db/x")
    (True, False)
    >>> holds_secret("https://h:9000/b/a@1.csv", path=True), holds_secret("https://h/a?X-Amz-Signature=0af", path=True)
    (False, True)
    """
    written = _WRITTEN_SECRET_OF_FILES if path else _WRITTEN_SECRET
    found = [one[1] or one[2] for one in written.finditer(url)]
    return any(secret and not references(secret) for secret in found)


class Database:
    """Where `url` is written as in a recipe, `place` is what messages call the source, `base` where files' paths start."""

    def __init__(
        self, url: str, place: str, base: Path, secret: Secret, timeout_s: float | None, written: str = ""
    ) -> None:
        """`written`: what else is written as in a recipe and may come back in an error, such as parameters."""
        self._url, self._place, self._base, self._secret, self._timeout_s = (
            url,
            place,
            base,
            secret,
            timeout_s,
        )
        self._references = list(dict.fromkeys([*references(url), *references(written)]))

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """A transaction that cannot write, with one time zone and one way to write dates."""
        import sqlalchemy as sa

        try:
            engine = self._engine()
            with engine.connect() as connection:
                self._prepare(connection)
                yield connection
        except LuthierError:
            raise
        except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            self._fail(error)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write: what was done in it is kept when its block ends, and undone when that raises."""
        import sqlalchemy as sa

        try:
            with self._engine(write=True).begin() as connection:
                yield connection
        except LuthierError:
            raise
        except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            self._fail(error, write=True)

    def _engine(self, write: bool = False) -> sa.Engine:
        import sqlalchemy as sa

        url = self._address()
        kind = url.get_backend_name()
        options: dict[str, Any] = {}
        if write and kind in ("sqlite", "duckdb") and url.database not in (None, "", ":memory:"):
            url = url.set(database=str(self._base / Path(str(url.database)).expanduser()))
        elif kind == "sqlite" and url.database not in (None, "", ":memory:"):
            path = self._file(str(url.database).removeprefix("file:"))
            url = url.set(
                database=f"file:{quote(str(path))}", query={**url.query, "mode": "ro", "uri": "true"}
            )
        elif kind == "duckdb" and url.database not in (None, "", ":memory:"):
            url = url.set(database=str(self._file(str(url.database))))
            options = {"read_only": True}
        elif kind == "postgresql":
            options = {"connect_timeout": CONNECT_S}
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool, hide_parameters=True, connect_args=options)
        if (
            write and kind == "sqlite"
        ):  # Python's driver would keep a table that is made out of the transaction
            sa.event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
            sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def _address(self) -> sa.URL:
        import sqlalchemy as sa

        written = self._url
        user, at, rest = written.rpartition("@")
        scheme, sign, who = user.partition("://")
        if sign and not who.startswith(
            "/"
        ):  # a password may hold any character, and in an address some have a meaning
            for name in references(who):
                who = who.replace(f"${{{name}}}", quote(self._secret(f"${{{name}}}"), safe=""))
            written = f"{scheme}://{who}{at}{rest}"
        try:
            url = sa.make_url(self._secret(written))
        except (sa.exc.ArgumentError, ValueError):
            raise DataError(
                f"{self._place}: {self._url!r} is not a database URL.",
                remedy="Write for example postgresql+psycopg://user:${PGPASSWORD}@host/database",
            ) from None
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        return url

    def _file(self, written: str) -> Path:
        path = self._base / Path(written).expanduser()
        if not path.exists():
            raise DataError(
                f"{self._place}: there is no database file {written}.",
                remedy=f"Relative paths start at {self._base}",
            )
        return path.resolve()

    def _prepare(self, connection: sa.Connection) -> None:
        kind, timeout_s = connection.dialect.name, self._timeout_s
        if kind == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            for setting in ("TimeZone = 'UTC'", "DateStyle = 'ISO, YMD'", "IntervalStyle = 'postgres'"):
                connection.exec_driver_sql(f"SET LOCAL {setting}")
            if timeout_s is not None:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(timeout_s * 1000))}")
        elif kind == "sqlite":
            raw: Any = connection.connection.dbapi_connection
            raw.execute("PRAGMA query_only = ON")
            raw.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            if timeout_s is not None:
                end = time.monotonic() + timeout_s
                raw.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        elif kind in ("mysql", "mariadb", "oracle"):
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    def _fail(self, error: Exception, write: bool = False) -> NoReturn:
        """A library's error in our words: never with the statement's values, and never with a secret."""
        if isinstance(error, ImportError):
            package = (error.name or str(error)).partition(".")[0]
            raise missing_part(
                package, EXTRAS.get(package, package), f"the database of {self._place}"
            ) from None
        if type(error).__name__ == "NoSuchModuleError":
            raise DataError(
                f"{self._place}: no driver is installed for {self._url.partition(':')[0]!r}.",
                remedy="Install the database's SQLAlchemy dialect, or write postgresql+psycopg://, sqlite:/// or duckdb:///",
            ) from None
        told = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        reason = self._told(" ".join(told.split("\n\n")[0].split())[:400])
        why, remedy = explain(reason, self._timeout_s, references(self._url), write=write)
        raise DataError(f"{self._place}: {why}", remedy=remedy) from None

    def _told(self, text: str) -> str:
        import sqlalchemy as sa

        for name in self._references:
            with suppress(SpecError):  # a dollar sign in a query may be no reference
                value = self._secret(f"${{{name}}}")
                if not value:
                    continue
                text = text.replace(value, f"${{{name}}}")
                try:
                    password = sa.make_url(value).password
                except (sa.exc.ArgumentError, ValueError):
                    continue
                if password:
                    text = text.replace(str(password), "***")
        return text
