"""Which version of a name answers: one line for each step, in order, never changed.

The key (name, step) is the lock: of two who take the same next step one gets it and the other a Conflict. A line and the event
that tells of it are written together or not at all. Not here: which step may follow which (deployment).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthier.core.artifact import canonical
from luthier.core.errors import Conflict
from luthier.core.event import Event

from .audit import Act, Audit
from .database import Database
from .ledger import row_of
from .tables import events, rollouts


@dataclass(frozen=True)
class Line:
    """`stable` and `candidate` are references (name@version); `detail` is plain JSON."""

    name: str
    step: int
    state: str
    action: str
    stable: str
    candidate: str
    detail: Mapping[str, Any]
    by: str
    reason: str
    time_s: float


class Rollouts:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def append(self, line: Line, event: Event, act: Act | None = None) -> None:
        """Raises Conflict where that step of the name is there already."""
        canonical(line.detail)
        told = row_of(event)
        try:
            with self._database.transaction() as connection:
                connection.execute(rollouts.insert().values({**asdict(line), "detail": dict(line.detail)}))
                connection.execute(events.insert().values(told))
                if act is not None:
                    self._audit.enter(connection, act)
        except IntegrityError:
            newest = self.newest(line.name)
            who = f"{newest.by} did: {newest.action.replace('_', ' ')}" if newest else "another process did"
            raise Conflict(
                f"{line.name}: somebody took the rollout's next step a moment before you ({who}).",
                remedy=f"Look at `luthier rollout status {line.name}`, and do it again if you still want to.",
            ) from None

    def newest(self, name: str) -> Line | None:
        """What holds now. One look at an index: cheap enough for each second."""
        query = sa.select(rollouts).where(rollouts.c.name == name).order_by(rollouts.c.step.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return _line(row) if row else None

    def history(self, name: str) -> list[Line]:
        """Oldest first."""
        query = sa.select(rollouts).where(rollouts.c.name == name).order_by(rollouts.c.step)
        with self._database.reading() as connection:
            return [_line(row) for row in connection.execute(query).all()]

    def names(self) -> list[str]:
        """Of which there is or was a rollout."""
        with self._database.reading() as connection:
            return list(
                connection.execute(sa.select(rollouts.c.name).distinct().order_by(rollouts.c.name)).scalars()
            )


def _line(row: sa.Row) -> Line:
    return Line(
        row.name, row.step, row.state, row.action, row.stable, row.candidate, row.detail, row.by, row.reason, row.time_s
    )  # fmt: skip
