"""What becomes of the queue when a project or a user ends, in the transaction that ends it: the trail, the stories of the jobs and whoever
must hear of a job's end (webhooks, budgets) are told of each.

    jobs         what waits is cancelled; what runs is asked to save and stop, where the project itself ends
    schedules    submit nothing more
    approvals    what nobody has decided is withdrawn
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from .approvals import withdrawn
from .audit import Act, Audit
from .jobs import ENDED, Ended, all_locked, cancelled, told
from .ledger import row_of
from .tables import approvals, events, jobs, schedules


def end_project(
    connection: sa.Connection, audit: Audit, project: str, by: str, act: Act, now_s: float, ended: Ended
) -> None:
    why = "its project was ended"
    cancel_waiting(connection, audit, jobs.c.project == project, act, why, now_s, ended)
    running = (jobs.c.project == project) & (jobs.c.state == "running") & (jobs.c.wanted != "cancel")
    for row in connection.execute(sa.select(jobs).where(running).order_by(jobs.c.seq)).all():
        connection.execute(jobs.update().where(jobs.c.id == row.id).values(wanted="cancel"))
        message = f"Job cancelled, once its attempt has saved and stopped: {why}"
        connection.execute(events.insert().values(row_of(told(row.id, message, level="warn"))))
        audit.enter(connection, _of(act, "job.cancel", row.id, project, kind=row.kind))
    mine = (schedules.c.project == project) & schedules.c.ended_s.is_(None)
    for name in connection.execute(sa.select(schedules.c.id).where(mine)).scalars().all():
        over = schedules.update().where(schedules.c.id == name)
        connection.execute(over.values(enabled=False, ended_s=now_s))
        audit.enter(connection, _of(act, "schedule.removed", name, project))
    open_ = (approvals.c.project == project) & (approvals.c.state == "open")
    for row in connection.execute(sa.select(approvals).where(open_).order_by(approvals.c.id)).all():
        if withdrawn(connection, row.id, by, why, now_s):
            facts = {"kind": row.kind, "subject": row.subject}
            audit.enter(connection, _of(act, "approval.withdrawn", row.id, project, **facts))


def cancel_waiting(
    connection: sa.Connection, audit: Audit, which: sa.ColumnElement[bool], act: Act, why: str, now_s: float, ended: Ended
) -> None:  # fmt: skip
    """All jobs' rows are locked first, those that run too: what comes behind them in the order of locks (store/attempts) comes behind all."""
    living = all_locked(connection, which & jobs.c.state.not_in(ENDED))
    for job in (one for one in living if one.state != "running"):
        cancelled(connection, job, why, now_s, ended)
        audit.enter(connection, _of(act, "job.cancelled", job.id, job.project, kind=job.kind))


def _of(act: Act, action: str, subject: str, project: str, **facts: str) -> Act:
    """Who ended the whole has ended its parts."""
    return replace(
        act, action=action, subject=subject, data={"project": project, **facts, "with": act.subject}
    )
