"""Tombstones: which records are to be forgotten, who said so, when and why. Lines are added and never changed.

One line for each source in which a record was found: the source's fingerprint says which bytes, the origins where in
them. Of the record itself only its id is kept (a hash of its content), and of its group a hash: never a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from .audit import Act, Audit
from .database import Database
from .tables import tombstones

PAGE_ROWS = 1_000


@dataclass(frozen=True)
class Tombstone:
    """`within` is the hash of the group in which alone the record is forgotten, None: wherever it stands. `source` is what
    its records are called."""

    record: str
    within: str | None
    source: str
    fingerprint: str
    origins: tuple[str, ...]
    reason: str | None
    by: str
    time_s: float
    seq: int | None = None


class Tombstones:
    """Safe for several processes."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def add(self, new: Iterable[Tombstone], act: Act | None = None) -> int:
        """All or none, `act` with them; durable on return. How many lines were added."""
        rows = [
            {
                "record": one.record, "within": one.within, "source": one.source, "fingerprint": one.fingerprint,
                "origins": list(one.origins), "reason": one.reason, "by": one.by, "time_s": one.time_s,
            }
            for one in new
        ]  # fmt: skip
        if rows:
            with self._database.transaction() as connection:
                connection.execute(tombstones.insert(), rows)
                if act is not None:
                    self._audit.enter(connection, act)
        return len(rows)

    def any(self) -> bool:
        """Whether there is one at all; cheap."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(tombstones.c.seq).limit(1)).first() is not None

    def read(self, *, fingerprints: Iterable[str] | None = None) -> Iterator[Tombstone]:
        """In the order they were added, in bounded memory; of sources with these fingerprints, or all."""
        query = sa.select(tombstones).order_by(tombstones.c.seq).limit(PAGE_ROWS)
        if fingerprints is not None:
            query = query.where(tombstones.c.fingerprint.in_(sorted(set(fingerprints))))
        after = 0
        while True:
            with self._database.reading() as connection:
                page = connection.execute(query.where(tombstones.c.seq > after)).all()
            for row in page:
                yield Tombstone(
                    row.record, row.within, row.source, row.fingerprint, tuple(row.origins),
                    row.reason, row.by, row.time_s, row.seq,
                )  # fmt: skip
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].seq
