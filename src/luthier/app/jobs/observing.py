"""Who else must know when a job runs: budgets, meters, rules. One observer for the whole site; the queue calls it inside its own
transactions, so what it writes holds exactly when the job's change does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import sqlalchemy as sa

from luthier.store.attempts import AttemptRow
from luthier.store.jobs import Job

if TYPE_CHECKING:
    from luthier.app.site import Site


@dataclass(frozen=True)
class Halt:
    """Why a job may not run (any longer). One that runs saves a checkpoint first; then it is paused or has failed."""

    then: Literal["paused", "failed"]
    code: str
    message: str


class Observer(Protocol):
    """What is raised in the first three undoes the change that it is told of."""

    def started(self, connection: sa.Connection, job: Job, attempt: AttemptRow) -> None:
        """An attempt is entered and will be launched."""
        ...

    def metered(self, connection: sa.Connection, job: Job, seconds: float) -> None:
        """A running attempt has taken so much more time; no second is told twice, and none is left out."""
        ...

    def ended(self, connection: sa.Connection, job: Job) -> None:
        """The job has succeeded, failed or been cancelled; once for each job, also for those that never ran."""
        ...

    def may_run(self, job: Job) -> Halt | None:
        """Asked before a job starts and every few seconds while it runs. Quick, and without side effects."""
        ...


class Nobody:
    """No budgets, no rules."""

    def started(self, connection: sa.Connection, job: Job, attempt: AttemptRow) -> None:
        pass

    def metered(self, connection: sa.Connection, job: Job, seconds: float) -> None:
        pass

    def ended(self, connection: sa.Connection, job: Job) -> None:
        pass

    def may_run(self, job: Job) -> Halt | None:
        return None


class Ours:
    """Budgets (app/spending), whoever wants to be told over HTTP (store/webhooks), and what the job waited for (store/approvals)."""

    def __init__(self, site: Site) -> None:
        from luthier.app.spending import Spending

        self._approvals = site.store.approvals
        self._spending = Spending(site)
        self.started, self.metered, self.may_run = (
            self._spending.started, self._spending.metered, self._spending.may_run,
        )  # fmt: skip

    def ended(self, connection: sa.Connection, job: Job) -> None:
        from luthier.app.acting import SERVER
        from luthier.app.approvals import facts_of
        from luthier.store.webhooks import entered

        self._spending.ended(connection, job)
        entered(connection, job)
        self._approvals.close(
            connection, job, lambda one: SERVER.act("approval.withdrawn", one.id, facts_of(one))
        )


def observer_of(site: Site) -> Observer:
    """The one that every part of the queue asks for."""
    return site.observer or Ours(site)
