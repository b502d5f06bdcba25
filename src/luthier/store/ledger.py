"""The ledger: events in, events out, in order. Nothing is ever changed or removed.

Loss curves, costs, who did what, what was answered: each is a reading of this one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.core.artifact import canonical
from luthier.core.event import Event

from .audit import Act, Audit
from .database import Database
from .tables import events

PAGE_ROWS = 1_000


def row_of(event: Event) -> dict[str, Any]:
    """An event as a row of the table. Raises TypeError for data without a plain form (NaN, sets, objects)."""
    canonical(event.data)
    return {"time_s": event.time_s, "kind": event.kind, "subject": event.subject, "data": dict(event.data)}


class Ledger:
    """Safe for several processes; `seq` never repeats; on PostgreSQL a slow writer may commit a lower `seq` after a higher one."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def append(self, *new: Event, act: Act | None = None) -> list[Event]:
        """Write all or none, `act` with them; durable on return. Raises TypeError for data without a plain form."""
        rows = [row_of(event) for event in new]
        with self._database.transaction() as connection:
            seqs = [
                connection.execute(events.insert().values(row).returning(events.c.seq)).scalar_one()
                for row in rows
            ]
            if act is not None:
                self._audit.enter(connection, act)
        return [Event(e.kind, e.subject, e.data, e.time_s, seq) for e, seq in zip(new, seqs, strict=True)]

    def read(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        subject: str | None = None,
        after: int = 0,
        since_s: float | None = None,
    ) -> Iterator[Event]:
        """Events with `seq` > `after`, oldest first, in bounded memory; `since_s`: not before that time."""
        query = sa.select(events).order_by(events.c.seq).limit(PAGE_ROWS)
        if kind is not None:
            query = query.where(events.c.kind.in_([kind] if isinstance(kind, str) else list(kind)))
        if subject is not None:
            query = query.where(events.c.subject == subject)
        if since_s is not None:
            query = query.where(events.c.time_s >= since_s)
        while True:
            with self._database.reading() as connection:
                page = connection.execute(query.where(events.c.seq > after)).all()
            for row in page:
                yield Event(row.kind, row.subject, row.data, row.time_s, row.seq)
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].seq

    def last(self, *, kind: str, subject: str | None = None) -> Event | None:
        """The newest event of a kind."""
        query = sa.select(events).where(events.c.kind == kind).order_by(events.c.seq.desc()).limit(1)
        if subject is not None:
            query = query.where(events.c.subject == subject)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return Event(row.kind, row.subject, row.data, row.time_s, row.seq) if row else None
