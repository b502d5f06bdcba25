"""Jobs: what is to be done, by whom, how far it is. One row a job, one row an attempt, one lease, and a journal of finished steps.

    queued ──▶ running ──▶ succeeded | failed | cancelled
      ▲  ╲        │ ▲
      │   ▶ paused ◀╯ (with a checkpoint)             held: waits for an approval

`wanted` is what people ask for (run, pause, cancel) and `state` what is; only a reconciler that holds the job's lease turns one into the
other (store/attempts). Every write of an attempt names the fence that it was given, and a smaller one than the newest is refused, so a
process that was taken for dead can change nothing when it wakes. What happened to a job is told in the ledger (subject: the job's id).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthier.core.artifact import canonical
from luthier.core.errors import Conflict, NotFound
from luthier.core.event import Event

from .audit import Act, Audit
from .database import Database
from .ledger import row_of
from .tables import events, idempotency, job_needs, jobs, projects

Wanted = Literal["run", "pause", "cancel"]
State = Literal["held", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("succeeded", "failed", "cancelled")
FORMAT = 1
"""Of `wish` and `result`. A newer program reads what an older one wrote, so that what waits in the queue outlives an upgrade."""


@dataclass(frozen=True)
class Job:
    """`wish` says what to do (by its kind), `shown` is the dialect's that it was asked in; both are plain JSON and hold no secret.
    `resources`: {"cores": 2, "memory_bytes": ..., "gpus": 0}. `result` and `error` ({"code", "message", "param"}) come at the end."""

    id: str
    project: str
    kind: str
    wish: Mapping[str, Any]
    by: str
    created_s: float
    key_id: str | None = None
    state: State = "queued"
    wanted: Wanted = "run"
    priority: int = 0
    shown: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    most_attempts: int = 3
    attempts: int = 0
    progress: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    schedule: str | None = None
    not_before_s: float | None = None
    started_s: float | None = None
    finished_s: float | None = None
    seq: int | None = None


LARGE = ("wish", "shown", "result")
"""What of a job may be large; a list of many is read without."""
MATCHED_ROWS = 200
"""How many jobs at least are read at once where a condition of ours chooses among them."""


class Jobs:
    """Safe for several processes; durable on return. `also` runs in the same transaction: what must hold together with the change
    (a budget's reservation) is written there, and what it raises undoes all."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def submit(
        self,
        job: Job,
        act: Act,
        *,
        needs: Sequence[str] = (),
        once: tuple[str, str] | None = None,
        also: Callable[[sa.Connection], None] | None = None,
    ) -> Job:
        """Enter a job. `once`: (what the caller calls this request, SHA-256 of it as hexadecimal): where the same user sent that before in
        the project, for a job of this kind, the job of then is returned and nothing is entered. Raises Conflict where it was another request then, NotFound for a need that
        is not of the project, and for a project that has ended."""
        for value in (job.wish, job.shown, job.resources):
            canonical(value)
        try:
            with self._database.transaction() as connection:
                _going_on(connection, job.project)
                if once is not None:
                    known = self._once(connection, job, once)
                    if known is not None:
                        return known
                values = {k: _plain(v) for k, v in vars(job).items() if k != "seq"}
                seq = connection.execute(jobs.insert().values(values).returning(jobs.c.seq)).scalar_one()
                for needed in dict.fromkeys(needs):
                    query = sa.select(jobs.c.id).where(
                        jobs.c.id == clean(needed), jobs.c.project == job.project
                    )
                    if connection.execute(query).first() is None:
                        raise NotFound(f"there is no job {needed!r} to wait for.")
                    connection.execute(job_needs.insert().values(job=job.id, needs=needed))
                if also is not None:
                    also(connection)
                self._audit.enter(connection, act)
                connection.execute(events.insert().values(row_of(told(job.id, "Created job"))))
        except IntegrityError:
            if once is None:
                raise
            with self._database.transaction() as connection:  # another process entered it a moment ago
                known = self._once(connection, job, once)
            if known is None:
                raise
            return known
        return Job(**{**vars(job), "seq": seq})

    def _once(self, connection: sa.Connection, job: Job, once: tuple[str, str]) -> Job | None:
        key = known_as(job.by, job.kind, once[0])
        row = connection.execute(
            sa.select(idempotency).where(
                idempotency.c.project == job.project, idempotency.c.key_sha256 == key
            )
        ).first()
        if row is None:
            connection.execute(idempotency.insert().values(
                project=job.project, key_sha256=key, body_sha256=once[1], subject=job.id, created_s=job.created_s,
            ))  # fmt: skip
            return None
        if row.body_sha256 != once[1]:
            raise Conflict(
                "this idempotency key was used for another request.",
                remedy="Use a new key for a new request.",
            )
        return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == row.subject)).one())

    def get(self, project: str, job_id: str) -> Job:
        """Raises NotFound, for another project's too."""
        with self._database.reading() as connection:
            row = connection.execute(_JOB, {"job": clean(job_id), "project": project}).first()
        if row is None:
            raise NotFound(
                f"there is no job {job_id!r} in this project.", remedy="`luthier job list` shows them."
            )
        return job_of(row)

    def list(
        self,
        project: str,
        *,
        kinds: Sequence[str] = (),
        states: Sequence[str] = (),
        before: str | None = None,
        limit: int = 20,
        matching: Callable[[Job], bool] | None = None,
        brief: bool = False,
    ) -> tuple[list[Job], bool]:
        """(newest first, whether there are more). `before`: only those older than this job. `brief`: what is LARGE is left empty, but
        for which verb a wish is of. Raises NotFound where `before` is none."""
        found: list[Job] = []
        seq = None if before is None else self.get(project, before).seq
        rows = limit + 1 if matching is None else max(limit + 1, MATCHED_ROWS)
        columns, as_job = (_BRIEF, _brief_job) if brief else (tuple(jobs.c), job_of)
        while True:
            query = (
                sa.select(*columns).where(jobs.c.project == project).order_by(jobs.c.seq.desc()).limit(rows)
            )
            if kinds:
                query = query.where(jobs.c.kind.in_(list(kinds)))
            if states:
                query = query.where(jobs.c.state.in_(list(states)))
            if seq is not None:
                query = query.where(jobs.c.seq < seq)
            with self._database.reading() as connection:
                page = [as_job(row) for row in connection.execute(query)]
            found += [one for one in page if matching is None or matching(one)]
            if len(found) > limit or len(page) < rows:
                return found[:limit], len(found) > limit
            seq = page[-1].seq

    def ask(
        self, project: str, job_id: str, wanted: Wanted, act: Act, *, message: str,
        ended: Ended | None = None,
    ) -> Job:  # fmt: skip
        """Say what is wanted of a job. What waits is paused or cancelled at once (`ended` is called for the latter); what runs, when its
        attempt has stopped. Nothing is entered where nothing changes. Raises Conflict for a job that has ended, and for pausing one
        that is held."""
        with self._database.transaction() as connection:
            job = self._locked(connection, project, job_id)
            if job.state == "held" and wanted == "pause":
                raise Conflict(
                    f"the job {job_id} waits for an approval and does not run.",
                    remedy="Cancel it, or leave it.",
                )
            changed: dict[str, Any] = {"wanted": wanted}
            if job.state != "running":
                changed["state"] = {"pause": "paused", "cancel": "cancelled", "run": "queued"}[wanted]
                if job.state == "held" and wanted == "run":
                    changed["state"] = "held"
                if wanted == "cancel":
                    changed["finished_s"] = time.time()
            if all(getattr(job, name) == value for name, value in changed.items()):
                return job
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(changed))
            waits_for_it = job.state == "running" and wanted != "run"
            said = f"{message}, once its attempt has saved and stopped" if waits_for_it else message
            connection.execute(events.insert().values(row_of(told(job_id, said))))
            job = job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())
            if job.state in ENDED and ended is not None:
                ended(connection, job)
            self._audit.enter(connection, act)
            return job

    def prioritise(self, project: str, job_id: str, priority: int, act: Act) -> Job:
        """What waits starts sooner or later. Raises Conflict for a job that has ended."""
        with self._database.transaction() as connection:
            job = self._locked(connection, project, job_id)
            if job.priority == priority:
                return job
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(priority=priority))
            self._audit.enter(connection, act)
            message = f"Priority changed from {job.priority} to {priority}"
            connection.execute(events.insert().values(row_of(told(job_id, message))))
            return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())

    @staticmethod
    def _locked(connection: sa.Connection, project: str, job_id: str) -> Job:
        row = connection.execute(
            sa.select(jobs).where(jobs.c.id == clean(job_id), jobs.c.project == project).with_for_update()
        ).first()
        if row is None:
            raise NotFound(
                f"there is no job {job_id!r} in this project.", remedy="`luthier job list` shows them."
            )
        job = job_of(row)
        if job.state in ENDED:
            raise Conflict(
                f"the job {job_id} has {_ENDED_AS[job.state]}.",
                remedy="Submit it again if it is still wanted.",
            )
        return job

    def over(self, job_ids: Sequence[str], before_s: float) -> set[str]:
        """Of these, of whichever project, those that have ended before then."""
        gone = jobs.c.state.in_(ENDED) & (jobs.c.finished_s < before_s)
        with self._database.reading() as connection:
            return set(
                connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(list(job_ids)), gone)).scalars()
            )

    def events(self, job_id: str, *, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """Of a job that was found, oldest first, from behind the number `after` on."""
        query = (
            sa.select(events).where(events.c.subject == job_id, events.c.seq > after).order_by(events.c.seq)
        )
        with self._database.reading() as connection:
            page = connection.execute(query.limit(limit)).all()
        for row in page:
            yield Event(row.kind, row.subject, row.data, row.time_s, row.seq)

    def newest(self, job_id: str) -> int:
        """The number of the newest event of a job; 0: it has none."""
        with self._database.reading() as connection:
            query = sa.select(sa.func.max(events.c.seq)).where(events.c.subject == job_id)
            return connection.execute(query).scalar_one() or 0

    def newest_told(self, job_id: str, *, before: int | None = None, limit: int) -> Sequence[Event]:
        """Lines of the story of a job that was found, newest first, those in front of the line `before`. Raises NotFound for one that
        is none of its lines."""
        asked = {"job": job_id, "limit": limit}
        with self._database.reading() as connection:
            if before is not None:
                if connection.execute(_TOLD_AT, {"job": job_id, "seq": before}).first() is None:
                    raise NotFound("the job has no such event to go on after.")
                page = connection.execute(_TOLD_BEFORE, {**asked, "seq": before}).all()
            else:
                page = connection.execute(_TOLD, asked).all()
        return [Event(row.kind, row.subject, row.data, row.time_s, row.seq) for row in page]


def _going_on(connection: sa.Connection, project: str) -> None:
    """Keeps the project from ending until the transaction is over, so that its end cancels what is entered here. Raises NotFound."""
    query = sa.select(projects.c.ended_s).where(projects.c.id == project).with_for_update(read=True)
    if connection.execute(query).scalar() is not None:
        raise NotFound(f"the project {project!r} has ended.")


_JOB = sa.select(jobs).where(jobs.c.id == sa.bindparam("job"), jobs.c.project == sa.bindparam("project"))
_LINE = (events.c.subject == sa.bindparam("job")) & (events.c.kind == "job.told")
_TOLD = sa.select(events).where(_LINE).order_by(events.c.seq.desc()).limit(sa.bindparam("limit"))
_TOLD_AT = sa.select(events.c.seq).where(_LINE, events.c.seq == sa.bindparam("seq"))
_TOLD_BEFORE = _TOLD.where(events.c.seq < sa.bindparam("seq"))
_ENDED_AS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "been cancelled"}


def told(job_id: str, message: str, *, level: Literal["info", "warn", "error"] = "info",
         type: Literal["message", "metrics"] = "message", data: Mapping[str, Any] | None = None) -> Event:  # fmt: skip
    """A line of a job's story, as people read it and as OpenAI's events show it."""
    return Event(
        "job.told", job_id, {"level": level, "message": message, "type": type, "data": dict(data or {})}
    )


Ended = Callable[[sa.Connection, Job], None]
"""Who must hear that a job has ended (app/jobs/observing), in the transaction in which it does."""


def cancelled(
    connection: sa.Connection, job: Job, why: str, now_s: float, ended: Ended, error: Mapping[str, Any] | None = None
) -> None:  # fmt: skip
    """In the caller's transaction, which has locked the job's row: a job that waits ends."""
    mine = jobs.c.id == job.id
    values = {"state": "cancelled", "wanted": "cancel", "finished_s": now_s} | (
        {"error": error} if error else {}
    )
    connection.execute(jobs.update().where(mine).values(values))
    connection.execute(events.insert().values(row_of(told(job.id, f"Job cancelled: {why}", level="warn"))))
    ended(connection, job_of(connection.execute(sa.select(jobs).where(mine)).one()))


def known_as(user: str, kind: str, key: str) -> str:
    """How a request with a key of its own is kept: what somebody calls his is nobody else's, and of no other kind of job.

    >>> known_as("user_a", "verb", "1") == known_as("user_b", "verb", "1")
    False
    """
    return hashlib.sha256(canonical([user, kind, key.encode("utf-8", "surrogatepass").hex()])).hexdigest()


def clean(name: str) -> str:
    """A name that was asked for, as PostgreSQL takes it: no text there holds a NUL, and so no name does."""
    return name.replace("\0", "\ufffd")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def job_of(row: sa.Row) -> Job:
    return Job(**row._mapping)


def all_locked(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Job]:
    """In the order in which everybody locks several."""
    query = sa.select(jobs).where(which).order_by(jobs.c.seq).with_for_update()
    return [job_of(row) for row in connection.execute(query)]


def in_brief(job: Job) -> dict[str, Any]:
    """A job as a row of a list that people see."""
    small = {k: v for k, v in vars(job).items() if k not in (*LARGE, "seq", "format")}
    return small | ({"verb": job.wish["verb"]} if "verb" in job.wish else {})


_BRIEF: tuple[sa.ColumnElement[Any], ...] = (
    *(column for column in jobs.c if column.name not in LARGE),
    jobs.c.wish["verb"].as_string().label("verb"),
)


def _brief_job(row: sa.Row) -> Job:
    told = dict(row._mapping)
    verb = told.pop("verb")
    return Job(**told, wish={} if verb is None else {"verb": verb})
