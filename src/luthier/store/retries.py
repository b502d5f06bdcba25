"""Which requests are the same one, sent again by a client that says only how often it tried.

    first try     remembered as the newest of its words (who asks, what is asked); two first tries are two requests
    later try     finds the newest request of the same words, within a day; where there is none, it is worked on itself, and then the
                  first try, if it was only slow, finds that

Everything happens in the transaction that enters the job, one after the other for the same words, so neither a restart nor two servers make
two of one. Requests with a key of their own (Idempotency-Key) are known by that alone (store/jobs).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa

from luthier.core.errors import Conflict

from .database import Database
from .jobs import known_as
from .tables import idempotency, jobs, schedules

WINDOW_S = 86_400.0


@dataclass(frozen=True)
class Try:
    """`words`: SHA-256 of who asks and what. `count`: 0 for a first try. `arrived_s`: when the request came."""

    words: str
    count: int
    arrived_s: float


class KnownJob(Exception):
    """The request was worked on before; the job it made."""

    def __init__(self, job: str) -> None:
        super().__init__(job)
        self.job = job


class Retries:
    """Over the rows of `idempotency`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def settle(self, connection: sa.Connection, project: str, one: Try, job: str, now_s: float) -> None:
        """In the transaction that enters `job`. Raises KnownJob where another job is what this request made, which undoes all."""
        if connection.dialect.name != "sqlite":  # there BEGIN IMMEDIATE has let nobody else in
            lock = int.from_bytes(hashlib.sha256(f"{project}:{one.words}".encode()).digest()[:8], signed=True)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
        first, later = (_key(which, one.words) for which in ("first", "later"))
        rows = connection.execute(
            sa.select(idempotency).where(
                idempotency.c.project == project, idempotency.c.key_sha256.in_([first, later])
            )
        ).all()
        since_s = now_s - WINDOW_S if one.count else one.arrived_s
        wanted = [row for row in rows if row.created_s >= since_s and (one.count or row.key_sha256 == later)]
        if wanted:
            raise KnownJob(max(wanted, key=lambda row: row.created_s).subject)
        mine = later if one.count else first
        connection.execute(
            idempotency.delete().where(idempotency.c.project == project, idempotency.c.key_sha256 == mine)
        )
        connection.execute(idempotency.insert().values(
            project=project, key_sha256=mine, body_sha256=one.words, subject=job, created_s=now_s,
        ))  # fmt: skip

    def forget(self, before_s: float) -> int:
        """Requests that came before then are not known any more; how many. One of a schedule is, until the schedule has moved on."""
        still = (
            sa.select(jobs.c.id)
            .join(schedules, schedules.c.id == jobs.c.schedule)
            .where(jobs.c.id == idempotency.c.subject)
            .where(schedules.c.ended_s.is_(None), schedules.c.next_s <= jobs.c.created_s)
        )
        with self._database.transaction() as connection:
            old = idempotency.delete().where(idempotency.c.created_s < before_s, ~still.exists())
            return connection.execute(old).rowcount

    def known(self, project: str, user: str, kind: str, once: tuple[str, str]) -> str | None:
        """The job of a user's request with a key of its own. Raises Conflict where it was another request then."""
        key = known_as(user, kind, once[0])
        query = sa.select(idempotency).where(
            idempotency.c.project == project, idempotency.c.key_sha256 == key
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if row.body_sha256 != once[1]:
            raise Conflict(
                "this idempotency key was used for another request.",
                remedy="Use a new key for a new request.",
            )
        return str(row.subject)


def _key(which: str, words: str) -> str:
    return hashlib.sha256(f"{which}:{words}".encode()).hexdigest()
