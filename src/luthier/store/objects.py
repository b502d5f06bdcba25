"""Small things that people make in a project and that have an id: evals, their runs' items, names of fine-tuned models, permissions.

One table for all kinds: `kind` and `id` name one, `parent` is what it belongs to, `data` its plain JSON. What is ended is no longer
found but keeps its place, so that a list can go on after it. Not here: what a kind's data means (the app).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from luthier.core.artifact import canonical
from luthier.core.errors import NotFound

from .audit import Act, Audit
from .database import Database
from .tables import objects

PAGE_ROWS = 200
"""Looked at together where only some match."""


@dataclass(frozen=True)
class Object:
    kind: str
    id: str
    data: Mapping[str, Any]
    by: str
    created_s: float
    parent: str | None = None
    changed_s: float | None = None
    ended_s: float | None = None
    seq: int | None = None


class Objects:
    """Safe for several processes; durable on return. `act` None: part of a change whose entry somebody else makes."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def add(self, *new: Object, act: Act | None) -> None:
        """All or none, in this order. Raises sqlalchemy's IntegrityError for an id that was used before, TypeError for data without a
        plain form."""
        rows = [_row(one) for one in new]
        with self._database.transaction() as connection:
            for row in rows:
                connection.execute(objects.insert().values(row))
            if act is not None:
                self._audit.enter(connection, act)

    def get(self, kind: str, object_id: str) -> Object:
        """Raises NotFound, for what was ended too."""
        found = self.find(kind, object_id)
        if found is None or found.ended_s is not None:
            raise NotFound(f"there is no {kind} {object_id!r} here.")
        return found

    def find(self, kind: str, object_id: str) -> Object | None:
        """What was ended too."""
        query = sa.select(objects).where(objects.c.kind == kind, objects.c.id == object_id)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else Object(**row._mapping)

    def list(
        self,
        kind: str,
        *,
        parent: str | None = None,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = True,
        matching: Callable[[Object], bool] | None = None,
    ) -> tuple[Sequence[Object], bool]:
        """(those that were not ended, whether there are more). `after`: only what follows this one, which may have been ended since.
        Raises NotFound where that never was."""
        size = limit + 1 if matching is None else max(limit + 1, PAGE_ROWS)
        query = sa.select(objects).where(objects.c.kind == kind, objects.c.ended_s.is_(None)).limit(size)
        query = query.order_by(objects.c.seq.desc() if newest_first else objects.c.seq)
        if parent is not None:
            query = query.where(objects.c.parent == parent)
        seq = None
        if after is not None:
            if (last := self.find(kind, after)) is None:
                raise NotFound(f"there is no {kind} {after[:80]!r} to go on after.")
            seq = last.seq
        found: list[Object] = []
        while True:
            page_query = query
            if seq is not None:
                page_query = query.where(objects.c.seq < seq if newest_first else objects.c.seq > seq)
            with self._database.reading() as connection:
                page = [Object(**row._mapping) for row in connection.execute(page_query)]
            found += [one for one in page if matching is None or matching(one)]
            if len(found) > limit or len(page) < size:
                return found[:limit], len(found) > limit
            seq = page[-1].seq

    def change(self, kind: str, object_id: str, data: Mapping[str, Any], act: Act | None) -> Object:
        """Put other data in its place. Raises NotFound."""
        canonical(data)
        self._update(kind, object_id, {"data": dict(data), "changed_s": time.time()}, act)
        return self.get(kind, object_id)

    def end(self, kind: str, object_id: str, act: Act | None) -> None:
        """Raises NotFound."""
        self._update(kind, object_id, {"ended_s": time.time()}, act)

    def _update(self, kind: str, object_id: str, values: Mapping[str, Any], act: Act | None) -> None:
        with self._database.transaction() as connection:
            done = connection.execute(
                objects.update()
                .where(objects.c.kind == kind, objects.c.id == object_id, objects.c.ended_s.is_(None))
                .values(values)
            )
            if not done.rowcount:
                raise NotFound(f"there is no {kind} {object_id!r} here.")
            if act is not None:
                self._audit.enter(connection, act)


def _row(one: Object) -> dict[str, Any]:
    canonical(one.data)
    told = {name: value for name, value in vars(one).items() if name != "seq"}
    return {**told, "data": dict(one.data), "changed_s": one.changed_s or one.created_s}
