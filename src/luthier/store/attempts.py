"""Attempts: what a reconciler and the process that runs a job write of it. What people ask for is in store/jobs.

    starting ──▶ running ──▶ succeeded | failed
        ╲           │  ╲──▶ stopped        asked to save what it has and end: a pause, a cancel, a job that goes first
         ╲──▶ stopping ─╯──▶ lost          its process is gone and said nothing

A reconciler writes under the job's lease. The process that runs an attempt writes under the fence that the attempt was given when it was
entered: while it is the job's newest attempt and has not ended, it may; else it gets Stale. Each write locks the job's row first, so what
is told of one job has the order of its numbers for whoever reads along.

Rows are locked in one order in all transactions of a server's home, so that two wait for each other never: jobs (by their numbers), their
leases, requests for approval, budgets, sums of usage; the trail last, which it sees to itself (store/audit). What is of one job alone (its
attempts, its promises) is locked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from luthier.core.artifact import canonical
from luthier.core.errors import NotFound, Stale
from luthier.core.event import Event
from luthier.core.testing import fault

from .audit import Act, Audit
from .database import Database, insert_once
from .jobs import ENDED, Job, State, all_locked, cancelled, job_of, told
from .leases import Lease, advance, alone, held, release, take
from .ledger import row_of
from .tables import attempts, events, job_needs, job_steps, jobs

AttemptState = Literal["starting", "running", "stopping", "succeeded", "failed", "stopped", "lost"]
LIVE: tuple[AttemptState, ...] = ("starting", "running", "stopping")
COUNTED: tuple[AttemptState, ...] = ("failed", "lost")
"""What counts towards a job's most attempts. Who was stopped did nothing wrong."""
OF_A_PROJECT = 50
"""How many waiting jobs of one project are looked at in a pass, so that one that enters thousands hides nobody's."""


@dataclass(frozen=True)
class AttemptRow:
    """`handle`: {"host": ..., "gpus": [...]} from the beginning, more from its process once that runs."""

    job: str
    number: int
    fence: int
    launcher: str
    state: AttemptState
    created_s: float
    handle: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    started_s: float | None = None
    finished_s: float | None = None


@dataclass(frozen=True)
class Queue:
    """What is decided from: jobs that may start (all that they need is done, their time has come), and what runs, everywhere."""

    waiting: Sequence[Job]
    running: Sequence[tuple[Job, AttemptRow]]


@dataclass(frozen=True)
class Choice:
    """By job: where it starts (its handle), why it is stopped, why it has to wait."""

    start: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stop: Mapping[str, str] = field(default_factory=dict)
    waits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What becomes of a job whose attempt has ended. `act` where that is entered into the trail."""

    attempt: AttemptState
    reason: str | None
    job: State
    message: str
    level: Literal["info", "warn", "error"] = "info"
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    not_before_s: float | None = None
    act: Act | None = None


Also = Callable[[sa.Connection, Job], None]
Metered = Callable[[sa.Connection, Job, float], None]


class Attempts:
    """Safe for several processes; durable on return. `also` runs in the same transaction; what it raises undoes all."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    # -- reading ------------------------------------------------------------------------------------------------------

    def of(self, job_id: str) -> list[AttemptRow]:
        """Of a job that was found, oldest first."""
        query = sa.select(attempts).where(attempts.c.job == job_id).order_by(attempts.c.number)
        with self._database.reading() as connection:
            return [_attempt(row) for row in connection.execute(query)]

    def running(self) -> list[tuple[Job, AttemptRow]]:
        """Every job that runs, with its newest attempt."""
        with self._database.reading() as connection:
            return _running(connection)

    def any_waiting(self, now_s: float) -> bool:
        with self._database.reading() as connection:
            return connection.execute(_ready(now_s).limit(1)).first() is not None

    def used(self, since_s: float) -> list[tuple[str, Mapping[str, Any], float, float | None]]:
        """(project, handle, began, ended) of attempts since then, ended ones and others: what a fair share follows from."""
        query = (
            sa.select(jobs.c.project, attempts.c.handle, attempts.c.started_s, attempts.c.finished_s)
            .join(jobs, jobs.c.id == attempts.c.job)
            .where(attempts.c.started_s.is_not(None))
            .where(sa.or_(attempts.c.finished_s.is_(None), attempts.c.finished_s > since_s))
        )
        with self._database.reading() as connection:
            return [(r.project, r.handle or {}, r.started_s, r.finished_s) for r in connection.execute(query)]

    def steps(self, job_id: str) -> dict[str, Mapping[str, Any]]:
        """The journal: what was finished, and what it gave."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(job_steps).where(job_steps.c.job == job_id))
            return {row.name: row.data for row in rows}

    # -- a reconciler -------------------------------------------------------------------------------------------------

    def start(
        self, choose: Callable[[Queue], Choice], *, owner: str, launcher: str, now_s: float, lease_s: float,
        also: Callable[[sa.Connection, Job, AttemptRow], None],
    ) -> list[tuple[Job, AttemptRow, Lease]]:  # fmt: skip
        """Decide what starts and what stops for it, one reconciler at a time, and enter both: a job that is returned runs from now
        on and is the caller's to launch."""
        started = []
        with self._database.transaction() as connection:
            alone(connection, "queue")
            waiting = [job_of(row) for row in connection.execute(_ready(now_s))]
            if not waiting:
                return []
            queue = Queue(waiting, _running(connection))
            choice = choose(queue)
            stopping = [job.id for job, _ in queue.running if job.id in choice.stop]
            all_locked(connection, jobs.c.id.in_([*(job.id for job in waiting), *stopping]))
            for job in waiting:
                if job.id in choice.start:
                    one = self._enter(connection, job, choice.start[job.id], owner, launcher, now_s, lease_s)
                    started += [] if one is None else [one]
                elif (job.progress or {}).get("waits") != (why := choice.waits.get(job.id)):
                    waits = sa.null() if why is None else {"waits": why}
                    connection.execute(jobs.update().where(jobs.c.id == job.id).values(progress=waits))
            for job, attempt in queue.running:
                if (why := choice.stop.get(job.id)) is not None:
                    _stopping(connection, job.id, attempt.number, why)
            for job, attempt, _ in started:
                also(connection, job, attempt)
            fault("jobs.start")
        fault("jobs.started")
        return started

    def _enter(
        self, connection: sa.Connection, job: Job, handle: Mapping[str, Any], owner: str, launcher: str, now_s: float, lease_s: float
    ) -> tuple[Job, AttemptRow, Lease] | None:  # fmt: skip
        number = job.attempts + 1
        mine = connection.execute(
            jobs.update()
            .where(jobs.c.id == job.id, jobs.c.state == "queued", jobs.c.wanted == "run")
            .values(state="running", attempts=number, progress=sa.null(), not_before_s=None,
                    started_s=job.started_s if job.started_s is not None else now_s)
        )  # fmt: skip
        if mine.rowcount != 1:
            return None
        name = lease_of(job.id)
        lease = take(connection, name, owner, now_s=float("inf"), for_s=0.0)
        assert lease is not None
        lease = advance(connection, Lease(name, owner, lease.fence, now_s + lease_s))
        row = AttemptRow(job.id, number, lease.fence, launcher, "starting", now_s, dict(handle))
        connection.execute(attempts.insert().values(vars(row)))
        _tell(connection, told(job.id, f"Attempt {number} begins", data={"attempt": number}))
        return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job.id)).one()), row, lease

    def ask_to_stop(self, lease: Lease, job_id: str, number: int, why: str) -> None:
        """Raises Stale."""
        with self._database.transaction() as connection:
            _locked(connection, job_id)
            held(connection, lease)
            _stopping(connection, job_id, number, why)

    def meter(self, lease: Lease, job_id: str, number: int, until_s: float, also: Metered) -> None:
        """Count what an attempt has run since it was last counted. Raises Stale."""
        with self._database.transaction() as connection:
            job = _locked(connection, job_id)
            held(connection, lease)
            _meter(connection, job, _living(connection, job, number), until_s, also)

    def end(
        self, lease: Lease, job_id: str, number: int, decide: Callable[[Job, AttemptRow, int], Change], *, now_s: float,
        metered: Metered, ended: Also, ran_until_s: float | None = None,
    ) -> Job:  # fmt: skip
        """Enter what became of an attempt, and so of its job; once, whoever tries. `decide` is given the job, the attempt and how
        many failed before it. `ended` is called where the job has ended. Raises Stale."""
        if (
            ran_until_s is not None
        ):  # by itself: it and `ended` both go from budgets to the trail, and once each
            self.meter(lease, job_id, number, ran_until_s, metered)
            fault("jobs.end.metered")
        with self._database.transaction() as connection:
            job = _locked(connection, job_id)
            held(connection, lease)
            attempt = _living(connection, job, number)
            failed = sa.select(sa.func.count()).where(attempts.c.job == job_id, attempts.c.state.in_(COUNTED))
            change = decide(job, attempt, connection.execute(failed).scalar_one())
            over = change.job in ENDED
            connection.execute(
                attempts.update()
                .where(attempts.c.job == job_id, attempts.c.number == number)
                .values(state=change.attempt, reason=change.reason, finished_s=ran_until_s if ran_until_s is not None else now_s)
            )  # fmt: skip
            fault("jobs.end.attempt")
            connection.execute(
                jobs.update().where(jobs.c.id == job_id).values(
                    state=change.job, result=_or_null(change.result), error=_or_null(change.error), not_before_s=change.not_before_s,
                    finished_s=now_s if over else None,
                )
            )  # fmt: skip
            _tell(connection, told(job_id, change.message, level=change.level, data={"attempt": number}))
            job = _locked(connection, job_id)
            if over:
                ended(connection, job)
            release(connection, lease)
            if change.act is not None:
                self._audit.enter(connection, change.act)
            fault("jobs.end")
        fault("jobs.ended")
        return job

    def halt(self, job_id: str, decide: Callable[[Job], Change], *, now_s: float, ended: Also) -> None:
        """A job that waits and may not start is paused or has failed; nothing where it does not wait any more."""
        with self._database.transaction() as connection:
            job = _locked(connection, job_id)
            if job.state != "queued":
                return
            change = decide(job)
            over = change.job in ENDED
            values = {
                "state": change.job,
                "error": _or_null(change.error),
                "finished_s": now_s if over else None,
            }
            wanted = {} if over else {"wanted": "pause"}
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values, **wanted))
            _tell(connection, told(job_id, change.message, level=change.level))
            if over:
                ended(connection, _locked(connection, job_id))
            if change.act is not None:
                self._audit.enter(connection, change.act)

    def cancel_unmet(self, act: Callable[[Job], Act], now_s: float, ended: Also) -> int:
        """Jobs that wait for one that failed or was cancelled are cancelled, with the reason; what waits for them, next time."""
        needed = jobs.alias("needed")
        query = (
            sa.select(jobs.c.id, needed.c.id.label("needs"), needed.c.state.label("how"))
            .join(job_needs, job_needs.c.job == jobs.c.id)
            .join(needed, needed.c.id == job_needs.c.needs)
            .where(
                jobs.c.state.in_(("queued", "held", "paused")), needed.c.state.in_(("failed", "cancelled"))
            )
        )
        with self._database.reading() as connection:
            found = {row.id: row for row in connection.execute(query)}
        for row in found.values():
            with self._database.transaction() as connection:
                job = _locked(connection, row.id)
                if job.state not in ("queued", "held", "paused"):
                    continue
                how = "has failed" if row.how == "failed" else "was cancelled"
                why = f"the job {row.needs}, which it waited for, {how}."
                error = {"code": "need_not_met", "message": why, "param": None}
                cancelled(connection, job, why, now_s, ended, error)
                self._audit.enter(connection, act(job))
        return len(found)

    def abandon(self, host: str, act: Act, now_s: float, ended: Also) -> list[str]:
        """Somebody says that a host is gone for good: what ran there is lost, and begins again elsewhere, where it is still wanted."""
        found: list[str] = []
        why = "its host was said to be gone"
        with self._database.transaction() as connection:
            there = [job.id for job, attempt in _running(connection) if attempt.handle.get("host") == host]
            for job in all_locked(connection, jobs.c.id.in_(there)):
                attempt = _newest(connection, job)
                here = attempt is not None and attempt.state in LIVE and attempt.handle.get("host") == host
                if attempt is None or job.state != "running" or not here:
                    continue  # it ended a moment before
                lease = take(connection, lease_of(job.id), "", now_s=float("inf"), for_s=0.0)
                assert lease is not None
                release(connection, advance(connection, lease))
                mine = sa.and_(attempts.c.job == job.id, attempts.c.number == attempt.number)
                connection.execute(
                    attempts.update().where(mine).values(state="lost", reason=why, finished_s=now_s)
                )
                state = {"run": "queued", "pause": "paused", "cancel": "cancelled"}[job.wanted]
                over = {"finished_s": now_s} if state in ENDED else {}
                connection.execute(jobs.update().where(jobs.c.id == job.id).values(state=state, **over))
                _tell(connection, told(job.id, f"Attempt {attempt.number} was given up: {why}", level="warn"))
                found.append(job.id)
                if over:
                    ended(connection, _locked(connection, job.id))
            self._audit.enter(connection, act)
        return found

    # -- the process that runs an attempt ---------------------------------------------------------------------------------

    def began(
        self, job_id: str, fence: int, handle: Mapping[str, Any], now_s: float
    ) -> tuple[Job, AttemptRow]:
        """Its process says that it runs. Raises Stale."""
        with self._database.transaction() as connection:
            job, attempt = _mine(connection, job_id, fence)
            values = {"handle": {**attempt.handle, **handle}, "started_s": attempt.started_s or now_s}
            state = "running" if attempt.state == "starting" else attempt.state
            mine = sa.and_(attempts.c.job == job_id, attempts.c.number == attempt.number)
            connection.execute(attempts.update().where(mine).values(state=state, **values))
            return job, AttemptRow(**{**vars(attempt), **values, "state": state})

    def write(
        self, job_id: str, fence: int, *, told: Sequence[Event] = (), progress: Mapping[str, Any] | None = None,
        step: tuple[str, Mapping[str, Any]] | None = None, now_s: float,
    ) -> None:  # fmt: skip
        """What an attempt tells, how far it is, and a step that it has finished: all of it or nothing. Raises Stale."""
        rows = [row_of(one) for one in told]
        with self._database.transaction() as connection:
            _, attempt = _mine(connection, job_id, fence)
            if step is not None:
                name, data = step
                canonical(data)
                connection.execute(job_steps.insert().values(
                    job=job_id, name=name, attempt=attempt.number, data=dict(data), time_s=now_s,
                ))  # fmt: skip
            for row in rows:
                connection.execute(events.insert().values(row))
            if progress is not None:
                connection.execute(jobs.update().where(jobs.c.id == job_id).values(progress=dict(progress)))
            fault("jobs.write")

    def asked(self, job_id: str, fence: int) -> Literal["go on", "stop", "stale"]:
        """What an attempt shall do."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).first()
            attempt = None if row is None else _newest(connection, job_of(row))
        if row is None or row.state != "running" or attempt is None or attempt.fence != fence:
            return "stale"
        if attempt.state not in LIVE:
            return "stale"
        return "stop" if attempt.state == "stopping" or row.wanted != "run" else "go on"


def lease_of(job_id: str) -> str:
    return f"job:{job_id}"


def _ready(now_s: float) -> sa.Select[Any]:
    """Of each project the first few that may start."""
    needed = jobs.alias("needed")
    unmet = (
        sa.select(job_needs.c.needs)
        .join(needed, needed.c.id == job_needs.c.needs)
        .where(job_needs.c.job == jobs.c.id, needed.c.state != "succeeded")
    )
    place = sa.func.row_number().over(
        partition_by=jobs.c.project, order_by=(jobs.c.priority.desc(), jobs.c.seq)
    )
    few = (
        sa.select(jobs.c.id, place.label("place"))
        .where(jobs.c.state == "queued", jobs.c.wanted == "run")
        .where(sa.or_(jobs.c.not_before_s.is_(None), jobs.c.not_before_s <= now_s))
        .where(~unmet.exists())
        .subquery()
    )
    return (
        sa.select(jobs)
        .join(few, few.c.id == jobs.c.id)
        .where(few.c.place <= OF_A_PROJECT)
        .order_by(jobs.c.seq)
    )


def _running(connection: sa.Connection) -> list[tuple[Job, AttemptRow]]:
    query = (
        sa.select(attempts, jobs.c.seq)
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job, jobs.c.attempts == attempts.c.number))
        .where(jobs.c.state == "running")
        .order_by(jobs.c.seq)
    )
    rows = connection.execute(query).all()
    found = {
        row.id: job_of(row)
        for row in connection.execute(sa.select(jobs).where(jobs.c.id.in_([row.job for row in rows])))
    }
    return [(found[row.job], _attempt(row)) for row in rows if row.job in found]


def _locked(connection: sa.Connection, job_id: str) -> Job:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).first()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}.", remedy="`luthier job list` shows them.")
    return job_of(row)


def _newest(connection: sa.Connection, job: Job) -> AttemptRow | None:
    mine = sa.and_(attempts.c.job == job.id, attempts.c.number == job.attempts)
    row = connection.execute(sa.select(attempts).where(mine)).first()
    return None if row is None else _attempt(row)


def _living(connection: sa.Connection, job: Job, number: int) -> AttemptRow:
    """Raises Stale where that is not the newest attempt, or has ended."""
    attempt = _newest(connection, job)
    if attempt is None or attempt.number != number or attempt.state not in LIVE:
        raise Stale(f"attempt {number} of {job.id} has ended before.", remedy="Nothing is to be done.")
    return attempt


def _mine(connection: sa.Connection, job_id: str, fence: int) -> tuple[Job, AttemptRow]:
    job = _locked(connection, job_id)
    attempt = _newest(connection, job)
    if job.state != "running" or attempt is None or attempt.fence != fence or attempt.state not in LIVE:
        raise Stale(
            f"another attempt at {job_id} has taken over, or it has ended.", remedy="End this process."
        )
    return job, attempt


def _stopping(connection: sa.Connection, job_id: str, number: int, why: str) -> None:
    """Told once; nothing where it has ended or was asked before."""
    asked = connection.execute(
        attempts.update()
        .where(
            attempts.c.job == job_id,
            attempts.c.number == number,
            attempts.c.state.in_(("starting", "running")),
        )
        .values(state="stopping", reason=why)
    )
    if asked.rowcount == 1:
        _tell(
            connection,
            told(job_id, f"Attempt {number} is asked to save and stop: {why}", data={"attempt": number}),
        )


def _meter(connection: sa.Connection, job: Job, attempt: AttemptRow, until_s: float, also: Metered) -> None:
    """The row of the journal says until when an attempt was counted, so that no second is counted twice."""
    if attempt.started_s is None:
        return
    name = f"metered-{attempt.number}"
    mine = sa.and_(job_steps.c.job == job.id, job_steps.c.name == name)
    known = connection.execute(sa.select(job_steps.c.data).where(mine)).scalar()
    seconds = until_s - (known["until_s"] if known else attempt.started_s)
    if seconds <= 0:
        return
    connection.execute(
        insert_once(connection, job_steps).values(
            job=job.id, name=name, attempt=attempt.number, data={}, time_s=until_s
        )
    )
    connection.execute(job_steps.update().where(mine).values(data={"until_s": until_s}, time_s=until_s))
    also(connection, job, seconds)


def _tell(connection: sa.Connection, event: Event) -> None:
    connection.execute(events.insert().values(row_of(event)))


def _or_null(value: Mapping[str, Any] | None) -> Any:
    return sa.null() if value is None else dict(value)


def _attempt(row: sa.Row) -> AttemptRow:
    values = {k: row._mapping[k] for k in AttemptRow.__dataclass_fields__}
    return AttemptRow(**{**values, "handle": values["handle"] or {}})
