"""Schedules: jobs that are to be submitted again and again. When the next time is, is reckoned by who calls; here it is kept, and moved on
once, whoever tries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from luthier.core.artifact import canonical
from luthier.core.errors import NotFound

from .audit import Act, Audit
from .database import Database
from .jobs import clean
from .tables import schedules


@dataclass(frozen=True)
class Schedule:
    """`job`: what is submitted, as plain JSON: {"kind", "wish", "priority", "resources", "most_attempts", "timezone"}."""

    id: str
    project: str
    title: str
    cron: str
    job: Mapping[str, Any]
    by: str
    created_s: float
    enabled: bool = True
    next_s: float | None = None
    last_s: float | None = None
    ended_s: float | None = None


class Schedules:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def add(self, schedule: Schedule, act: Act) -> Schedule:
        canonical(schedule.job)
        with self._database.transaction() as connection:
            connection.execute(schedules.insert().values({**vars(schedule), "job": dict(schedule.job)}))
            self._audit.enter(connection, act)
        return schedule

    def get(self, project: str, schedule_id: str) -> Schedule:
        """Raises NotFound, for another project's and for one that was removed too."""
        query = sa.select(schedules).where(
            schedules.c.id == clean(schedule_id), schedules.c.project == project
        )
        with self._database.reading() as connection:
            row = connection.execute(query.where(schedules.c.ended_s.is_(None))).first()
        if row is None:
            raise NotFound(
                f"there is no schedule {schedule_id!r} in this project.",
                remedy="`luthier job schedule list` shows them.",
            )
        return Schedule(**row._mapping)

    def due(self, now_s: float) -> list[Schedule]:
        """Of all projects."""
        query = sa.select(schedules).where(
            schedules.c.enabled.is_(True), schedules.c.ended_s.is_(None), schedules.c.next_s <= now_s
        )
        with self._database.reading() as connection:
            return [Schedule(**row._mapping) for row in connection.execute(query)]

    def list(self, project: str) -> list[Schedule]:
        """Oldest first."""
        query = sa.select(schedules).where(schedules.c.project == project, schedules.c.ended_s.is_(None))
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(schedules.c.created_s, schedules.c.id))
            return [Schedule(**row._mapping) for row in rows]

    def fired(self, schedule: Schedule, next_s: float | None) -> bool:
        """Move on to the next time; False where another has."""
        mine = sa.and_(
            schedules.c.id == schedule.id,
            schedules.c.next_s == schedule.next_s,
            schedules.c.enabled.is_(True),
        )
        with self._database.transaction() as connection:
            done = connection.execute(
                schedules.update().where(mine).values(next_s=next_s, last_s=schedule.next_s)
            )
        return done.rowcount == 1

    def change(self, schedule: Schedule, act: Act, **values: Any) -> Schedule:
        """`enabled`, `next_s` or `ended_s` of one that was found."""
        with self._database.transaction() as connection:
            connection.execute(schedules.update().where(schedules.c.id == schedule.id).values(values))
            self._audit.enter(connection, act)
        return Schedule(**{**vars(schedule), **values})
