"""Webhooks and what is to be delivered to them: rows in the server's home.

    entered     when a job ends, in the transaction of that end: one event, one delivery for each webhook that wants it
    claimed     by one deliverer at a time: a claim counts a try and puts the next one off, so that a deliverer that dies loses nothing
    settled     delivered, to be tried again later, or given up

A delivery keeps its id over all tries; who receives it may see it twice and can tell by that. No secret is kept here, only how often it
was renewed (`generation`); it follows from the site's key (app/webhooks).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from luthier.core.errors import Conflict, NotFound
from luthier.core.event import Event

from .audit import Act, Audit
from .database import Database
from .jobs import Job
from .ledger import row_of
from .tables import deliveries, events, webhooks

State = Literal["waiting", "delivered", "given_up"]
EVENTS: dict[tuple[str, str], str] = {
    ("fine_tune", "succeeded"): "fine_tuning.job.succeeded",
    ("fine_tune", "failed"): "fine_tuning.job.failed",
    ("fine_tune", "cancelled"): "fine_tuning.job.cancelled",
    ("eval_run", "succeeded"): "eval.run.succeeded",
    ("eval_run", "failed"): "eval.run.failed",
    ("eval_run", "cancelled"): "eval.run.canceled",
}
"""(kind of job, state it ended in) -> the type of the event, as OpenAI calls it."""
TYPES: tuple[str, ...] = tuple(EVENTS.values())


@dataclass(frozen=True)
class Webhook:
    """`events`: the types that it wants. `generation` of its secret, the one before of which also signs until `previous_until_s`."""

    id: str
    project: str
    title: str
    url: str
    events: Sequence[str]
    by: str
    created_s: float
    changed_s: float
    generation: int = 1
    previous_until_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Delivery:
    """`event` is what is sent. `status`: of the last answer, None where there was none."""

    id: str
    webhook: str
    event: Mapping[str, Any]
    state: State
    tries: int
    status: int | None
    next_s: float
    created_s: float
    seq: int | None = None


class Webhooks:
    """Safe for several processes; durable on return."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    # -- webhooks -----------------------------------------------------------------------------------------------------

    def add(self, webhook: Webhook, act: Act, most: int) -> None:
        """Raises Conflict where the project has `most` of them already."""
        with self._database.transaction() as connection:
            live = sa.select(sa.func.count()).where(
                webhooks.c.project == webhook.project, webhooks.c.ended_s.is_(None)
            )
            if connection.execute(live.select_from(webhooks)).scalar_one() >= most:
                raise Conflict(
                    f"this project has {most} webhooks, and no room for another.",
                    remedy="Delete one that is not needed.",
                )
            connection.execute(webhooks.insert().values({**vars(webhook), "events": list(webhook.events)}))
            self._audit.enter(connection, act)

    def get(self, project: str, webhook_id: str) -> Webhook:
        """Raises NotFound, for another project's too."""
        query = sa.select(webhooks).where(
            webhooks.c.id == webhook_id, webhooks.c.project == project, webhooks.c.ended_s.is_(None)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"there is no webhook {webhook_id[:80]!r} in this project.")
        return Webhook(**row._mapping)

    def list(self, project: str) -> list[Webhook]:
        """Newest first."""
        query = (
            sa.select(webhooks)
            .where(webhooks.c.project == project, webhooks.c.ended_s.is_(None))
            .order_by(webhooks.c.created_s.desc(), webhooks.c.id)
        )
        with self._database.reading() as connection:
            return [Webhook(**row._mapping) for row in connection.execute(query)]

    def change(self, project: str, webhook_id: str, values: Mapping[str, Any], act: Act) -> Webhook:
        """Raises NotFound."""
        with self._database.transaction() as connection:
            done = connection.execute(
                webhooks.update()
                .where(
                    webhooks.c.id == webhook_id, webhooks.c.project == project, webhooks.c.ended_s.is_(None)
                )
                .values({**values, "changed_s": time.time()})
            )
            if not done.rowcount:
                raise NotFound(f"there is no webhook {webhook_id[:80]!r} in this project.")
            self._audit.enter(connection, act)
            row = connection.execute(sa.select(webhooks).where(webhooks.c.id == webhook_id)).one()
        return Webhook(**row._mapping)

    def renew(self, project: str, webhook_id: str, previous_until_s: float | None, act: Act) -> Webhook:
        """Another generation of its secret."""
        return self.change(
            project,
            webhook_id,
            {"generation": webhooks.c.generation + 1, "previous_until_s": previous_until_s},
            act,
        )

    # -- deliveries ---------------------------------------------------------------------------------------------------

    def deliveries(self, webhook: Webhook, limit: int = 100) -> Sequence[Delivery]:
        """Of a webhook that was found, newest first."""
        query = (
            sa.select(deliveries)
            .where(deliveries.c.webhook == webhook.id)
            .order_by(deliveries.c.seq.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Delivery(**row._mapping) for row in connection.execute(query)]

    def claim(
        self, now_s: float, lease_s: float, limit: int, of_each: int, without: Collection[str] = ()
    ) -> Sequence[tuple[Delivery, Webhook]]:
        """What is due, at most `of_each` project and of none in `without`, each for this deliverer alone for `lease_s`; what its webhook no
        longer wants is given up."""
        place = sa.func.row_number().over(partition_by=webhooks.c.project, order_by=deliveries.c.next_s)
        ranked = (
            sa.select(deliveries.c.seq, deliveries.c.next_s, place.label("place"))
            .join_from(deliveries, webhooks, webhooks.c.id == deliveries.c.webhook)
            .where(deliveries.c.state == "waiting", deliveries.c.next_s <= now_s)
            .where(webhooks.c.project.not_in(list(without)))
            .subquery()
        )
        first = (
            sa.select(ranked.c.seq).where(ranked.c.place <= of_each).order_by(ranked.c.next_s).limit(limit)
        )
        due = sa.select(deliveries).where(deliveries.c.seq.in_(first), deliveries.c.state == "waiting")
        due = due.where(deliveries.c.next_s <= now_s).order_by(deliveries.c.next_s)
        with self._database.reading() as connection:  # looking takes no lock
            if connection.execute(due.limit(1)).first() is None:
                return []
        found = []
        with self._database.transaction() as connection:
            for row in connection.execute(due.with_for_update(skip_locked=True)).all():
                whose = connection.execute(sa.select(webhooks).where(webhooks.c.id == row.webhook)).one()
                values: dict[str, Any] = {"tries": row.tries + 1, "next_s": now_s + lease_s}
                if whose.ended_s is not None:
                    values = {"state": "given_up"}
                connection.execute(deliveries.update().where(deliveries.c.seq == row.seq).values(values))
                if whose.ended_s is None:
                    found.append((Delivery(**{**row._mapping, **values}), Webhook(**whose._mapping)))
        return found

    def settle(self, delivery: Delivery, state: State, status: int | None, next_s: float, why: str) -> bool:
        """False where the claim ran out and somebody else tries, whose word counts. Giving up is told in the ledger."""
        with self._database.transaction() as connection:
            done = connection.execute(
                deliveries.update()
                .where(
                    deliveries.c.id == delivery.id,
                    deliveries.c.tries == delivery.tries,
                    deliveries.c.state == "waiting",
                )
                .values(state=state, status=status, next_s=next_s)
            )
            if done.rowcount and state == "given_up":
                data = {"delivery": delivery.id, "event": delivery.event["type"], "tries": delivery.tries}
                told = Event("webhook.given_up", delivery.webhook, {**data, "status": status, "why": why})
                connection.execute(events.insert().values(row_of(told)))
        return bool(done.rowcount)

    def forget(self, *, settled_before_s: float, ended_before_s: float) -> int:
        """Deliveries that were made or given up, and were entered before the one time; all of webhooks that ended before the other. How
        many."""
        over = sa.select(webhooks.c.id).where(webhooks.c.ended_s < ended_before_s)
        settled = (deliveries.c.state != "waiting") & (deliveries.c.created_s < settled_before_s)
        with self._database.transaction() as connection:
            gone = deliveries.delete().where(sa.or_(settled, deliveries.c.webhook.in_(over)))
            return connection.execute(gone).rowcount


def entered(connection: sa.Connection, job: Job) -> int:
    """To be called in the transaction in which a job ends, with what it ended as: how many deliveries its event became."""
    kind = EVENTS.get((job.kind, job.state))
    if kind is None:
        return 0
    query = sa.select(webhooks).where(webhooks.c.project == job.project, webhooks.c.ended_s.is_(None))
    wanting = [row.id for row in connection.execute(query) if kind in row.events]
    now_s = time.time()
    event = event_of(kind, job.id, now_s)
    for webhook_id in wanting:
        connection.execute(
            deliveries.insert().values(
                id=f"wh_{secrets.token_hex(16)}",
                webhook=webhook_id,
                event=event,
                state="waiting",
                tries=0,
                status=None,
                next_s=now_s,
                created_s=now_s,
            )
        )
    return len(wanting)


def event_of(kind: str, subject: str, now_s: float) -> dict[str, Any]:
    """As OpenAI's clients read it.

    >>> event_of("eval.run.failed", "evalrun_1", 5.7) | {"id": ""}
    {'id': '', 'object': 'event', 'created_at': 5, 'type': 'eval.run.failed', 'data': {'id': 'evalrun_1'}}
    """
    return {
        "id": f"evt_{secrets.token_hex(16)}",
        "object": "event",
        "created_at": int(now_s),
        "type": kind,
        "data": {"id": subject},
    }
