"""What was laid down for a scope: one row each time, never changed; the newest of a scope holds. What it means: governance/site_policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from luthier.core.artifact import canonical
from luthier.core.errors import Conflict

from .audit import Act, Audit
from .database import Database
from .tables import policies


@dataclass(frozen=True)
class Laid:
    """`seq` names this very version of the scope's policy."""

    seq: int
    scope: str
    data: Mapping[str, Any]
    by: str
    reason: str
    time_s: float


class Policies:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def add(
        self,
        scope: str,
        data: Mapping[str, Any],
        by: str,
        reason: str,
        time_s: float,
        act: Act,
        *,
        after: int | None,
    ) -> Laid:
        """`after`: the version that whoever wrote this had before him (None: there was none). Raises Conflict where it is not the newest
        any more."""
        canonical(data)
        values = {"scope": scope, "data": dict(data), "by": by, "reason": reason, "time_s": time_s}
        with self._database.transaction() as connection:
            self._audit.enter(connection, act)  # the trail's lock keeps two writers apart
            newest = connection.execute(
                sa.select(sa.func.max(policies.c.seq)).where(policies.c.scope == scope)
            ).scalar()
            if newest != after:
                raise Conflict(
                    f"somebody else changed the policy of {scope} a moment before you.",
                    remedy="Look at it, and do it again.",
                )
            seq = connection.execute(policies.insert().values(values).returning(policies.c.seq)).scalar_one()
        return Laid(seq, scope, dict(data), by, reason, time_s)

    def newest(self, scopes: Sequence[str]) -> dict[str, Laid]:
        """Of each scope that has one."""
        latest = (
            sa.select(sa.func.max(policies.c.seq))
            .where(policies.c.scope.in_(list(scopes)))
            .group_by(policies.c.scope)
        )
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(policies).where(policies.c.seq.in_(latest))).all()
        return {row.scope: Laid(**row._mapping) for row in rows}

    def history(self, scope: str) -> list[Laid]:
        """Oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(policies).where(policies.c.scope == scope).order_by(policies.c.seq)
            )
            return [Laid(**row._mapping) for row in rows]
