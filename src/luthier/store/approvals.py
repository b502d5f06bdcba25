"""What somebody asked for that another person must agree to: the rows.

    open ──▶ granted | declined | withdrawn | expired          one step, never back; who took it and why stays

Who may take which step is said elsewhere (app/approvals). A job that waits for one stands in state `held`; granting it queues the job
where no other approval is waited for, and every other end cancels it, in the same transaction. A job that ends while it waits has its
request withdrawn. Whoever changes a request for a job locks the job's row first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from luthier.core.artifact import canonical
from luthier.core.errors import Conflict, NotFound

from .audit import Act, Audit
from .database import Database
from .jobs import ENDED, Ended, Job, cancelled, job_of, told
from .ledger import row_of
from .tables import approvals, events, jobs

Step = Literal["granted", "declined", "withdrawn", "expired"]
JOB = "job"
"""The kind of an approval whose subject is a job that waits for it."""


@dataclass(frozen=True)
class Approval:
    """`subject`: a job's id, a release as name@version, or what else the kind says. `data`: plain JSON, with `expires_s` and `roles`."""

    id: str
    project: str
    kind: str
    subject: str
    data: Mapping[str, Any]
    by: str
    reason: str
    created_s: float
    state: str = "open"
    decided_by: str | None = None
    decided_reason: str | None = None
    decided_s: float | None = None

    @property
    def expires_s(self) -> float:
        return float(self.data["expires_s"])


class Approvals:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def add(self, approval: Approval, act: Act) -> Approval:
        """Raises Conflict where the same is asked for already."""
        with self._database.transaction() as connection:
            self._audit.enter(connection, act)  # the trail's lock keeps two that ask for one thing apart
            same = sa.and_(
                approvals.c.project == approval.project, approvals.c.kind == approval.kind,
                approvals.c.subject == approval.subject, approvals.c.state == "open",
            )  # fmt: skip
            there = connection.execute(sa.select(approvals.c.id).where(same)).scalar()
            if there is not None:
                raise Conflict(
                    f"that is asked for already, as {there}.", remedy=f"`luthier approval show {there}`"
                )
            self.enter(connection, approval)
        return approval

    def enter(self, connection: sa.Connection, approval: Approval) -> None:
        """In the transaction of what waits for it."""
        canonical(approval.data)
        connection.execute(approvals.insert().values({**asdict(approval), "data": dict(approval.data)}))

    def get(self, project: str, approval_id: str) -> Approval:
        """Raises NotFound, for another project's too."""
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(approvals).where(approvals.c.id == approval_id, approvals.c.project == project)
            ).first()
        if row is None:
            raise NotFound(
                f"there is no approval {approval_id[:64]!r} in this project.",
                remedy="`luthier approval list` shows them.",
            )
        return _approval(row)

    def list(
        self, project: str, *, states: Sequence[str] = (), before_s: float | None = None, limit: int = 100
    ) -> list[Approval]:
        """Newest first."""
        query = (
            sa.select(approvals)
            .where(approvals.c.project == project)
            .order_by(approvals.c.created_s.desc(), approvals.c.id)
            .limit(limit)
        )
        if states:
            query = query.where(approvals.c.state.in_(list(states)))
        if before_s is not None:
            query = query.where(approvals.c.created_s < before_s)
        with self._database.reading() as connection:
            return [_approval(row) for row in connection.execute(query)]

    def of(self, project: str, kind: str, subject: str, state: str = "granted") -> Approval | None:
        """The newest in this state."""
        query = (
            sa.select(approvals)
            .where(
                approvals.c.project == project, approvals.c.kind == kind,
                approvals.c.subject == subject, approvals.c.state == state,
            )
            .order_by(approvals.c.decided_s.desc())
            .limit(1)
        )  # fmt: skip
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _approval(row)

    def expired(self, now_s: float) -> Sequence[Approval]:
        """Open ones whose time is over."""
        query = sa.select(approvals).where(approvals.c.state == "open").order_by(approvals.c.created_s)
        with self._database.reading() as connection:
            found = [_approval(row) for row in connection.execute(query)]
        return [one for one in found if one.expires_s <= now_s]

    def decide(
        self, approval: Approval, step: Step, by: str, reason: str, now_s: float, act: Act, *, ended: Ended
    ) -> Approval:
        """`ended`: called where the job that waits for it is cancelled. Raises Conflict where somebody else decided a moment before."""
        with self._database.transaction() as connection:
            job = self._job(connection, approval.subject) if approval.kind == JOB else None
            still = sa.and_(approvals.c.id == approval.id, approvals.c.state == "open")
            values = {"state": step, "decided_by": by, "decided_reason": reason, "decided_s": now_s}
            if connection.execute(approvals.update().where(still).values(values)).rowcount != 1:
                raise Conflict(f"{approval.id} was decided a moment before you.", remedy="Look at it.")
            if job is not None and job.state not in ENDED:
                if step == "granted":
                    self._free(connection, job)
                else:
                    cancelled(connection, job, f"{_HOW[step]}: {reason}", now_s, ended)
                    facts = {"project": job.project, "kind": job.kind, "approval": approval.id}
                    self._audit.enter(
                        connection, replace(act, action="job.cancelled", subject=job.id, data=facts)
                    )
            self._audit.enter(connection, act)
            return _approval(
                connection.execute(sa.select(approvals).where(approvals.c.id == approval.id)).one()
            )

    def close(self, connection: sa.Connection, job: Job, act: Callable[[Approval], Act]) -> None:
        """In the transaction in which a job ends: what nobody has decided yet is withdrawn with it."""
        mine = sa.and_(approvals.c.kind == JOB, approvals.c.subject == job.id, approvals.c.state == "open")
        for row in connection.execute(sa.select(approvals).where(mine)).all():
            told = act(_approval(row))
            if withdrawn(connection, row.id, told.actor, f"the job has ended: {job.state}", job.finished_s):
                self._audit.enter(connection, told)

    @staticmethod
    def _job(connection: sa.Connection, job_id: str) -> Job:
        return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).one())

    @staticmethod
    def _free(connection: sa.Connection, job: Job) -> None:
        """Queue the job that waited for this."""
        connection.execute(events.insert().values(row_of(told(job.id, "Job approved"))))
        if job.state == "held" and not waits(connection, job.id):
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(state="queued"))


_HOW: Mapping[str, str] = {
    "declined": "its approval was declined", "withdrawn": "the request for its approval was withdrawn",
    "expired": "its approval was not given in time",
}  # fmt: skip


def withdrawn(connection: sa.Connection, approval_id: str, by: str, reason: str, at_s: float | None) -> bool:
    """With what it was asked for, in the caller's transaction; False where somebody decided a moment before."""
    still = sa.and_(approvals.c.id == approval_id, approvals.c.state == "open")
    values = {"state": "withdrawn", "decided_by": by, "decided_reason": reason, "decided_s": at_s}
    return connection.execute(approvals.update().where(still).values(values)).rowcount == 1


def waits(connection: sa.Connection, job_id: str) -> bool:
    """Whether a job waits for an approval that is not granted."""
    query = sa.select(approvals.c.id).where(
        approvals.c.kind == JOB, approvals.c.subject == job_id, approvals.c.state != "granted"
    )
    return connection.execute(query.limit(1)).first() is not None


def _approval(row: sa.Row) -> Approval:
    return Approval(**row._mapping)
