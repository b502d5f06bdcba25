"""What is used, entered where it is used: by jobs while they run, by served models in batches. Alerts that are reached go with it, in the
same transaction; so each is told once, whoever enters.

    Spending(site)     the observer of the queue: started, metered, ended, may_run
    spend(...)         any use, with its alerts
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from luthier.core.event import Event
from luthier.cost.quota import MICRO, TOKENS, Standing, crossed, grown, month_of, plain, show, spent
from luthier.store.budgets import Budget, Hold, Use, Whose
from luthier.store.ledger import row_of
from luthier.store.tables import attempts, events

from .acting import SERVER

if TYPE_CHECKING:
    from luthier.store.jobs import Job

    from .jobs.observing import Halt
    from .site import Site

MACHINE = "LUTHIER_MACHINE"
"""The environment variable that names the kind of machine jobs run on, in the price table."""
CHUNK_S = 900.0
"""Where nobody can say how long a job takes, so much of its time is promised at once, and again while it runs."""
PRICES_S = 60.0
ALERT = "budget.alert"


def hourly_of(site: Site) -> tuple[float, str] | None:
    """What an hour of the server's machine costs, and the currency; None where that is not known."""
    from luthier.cost.prices import load_prices

    machine = site.environ.get(MACHINE, "local-cpu")
    price = load_prices(site.top.home / "prices.yaml", machine=machine)[0].find(machine)
    return None if price is None else (price.value, price.currency)


def whose_of(site: Site, job: Job) -> Whose:
    return Whose(site.store.accounts.organisation_of(job.project), job.project, job.by, job.key_id)


def gpus_of(connection: sa.Connection, job: Job) -> int:
    """Those that its newest attempt was given, whether it asked for them or not."""
    mine = (attempts.c.job == job.id) & (attempts.c.number == job.attempts)
    handle = connection.execute(sa.select(attempts.c.handle).where(mine)).scalar() or {}
    return len(handle["gpus"]) if "gpus" in handle else int(job.resources.get("gpus", 0))


def spend(site: Site, connection: sa.Connection, uses: Iterable[Use]) -> None:
    """Enter what was used, and the alerts that are reached by it."""
    rows = site.store.budgets
    totals = rows.use(connection, uses)
    if not totals:
        return
    scopes = sorted({scope for scope, _, _ in totals})
    for budget in rows.of_scopes(connection, scopes):
        for (scope, unit, month), (before, after) in totals.items():
            if (scope, unit) == (budget.scope, budget.unit):
                _alert(site, connection, budget, month, after - before)


def _alert(site: Site, connection: sa.Connection, budget: Budget, month: str, added_micro: int) -> None:
    used, _ = site.store.budgets.standing(connection, budget, month)
    for share in crossed(budget.alerts, used - added_micro, used, budget.amount_micro):
        told = {
            "scope": budget.scope, "unit": budget.unit, "share": share, "used": plain(used), "amount": plain(budget.amount_micro),
            "period": month if budget.period == "month" else "once",
            "message": f"{show(used, budget.unit)} of {show(budget.amount_micro, budget.unit)} are used ({share:.0%} reached)",
        }  # fmt: skip
        connection.execute(events.insert().values(row_of(Event(ALERT, budget.id, told))))
        site.store.audit.enter(connection, SERVER.act(ALERT, budget.id, told))


class Spending:
    """Of a site. Thread-safe."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.budgets
        self._priced: tuple[float, tuple[float, str] | None] | None = None

    def _hourly(self) -> tuple[float, str] | None:
        """Read anew once a minute."""
        now = time.monotonic()
        if self._priced is None or now - self._priced[0] > PRICES_S:
            self._priced = (now, hourly_of(self._site))
        return self._priced[1]

    def started(self, connection: sa.Connection, job: Job, attempt: Any) -> None:
        """Nothing is used yet; what it may use was promised when it was submitted."""

    def metered(self, connection: sa.Connection, job: Job, seconds: float) -> None:
        """Take what so much time uses out of the job's promises, and promise it more where that is used up and something is left."""
        self._meter(connection, job, spent(seconds, gpus_of(connection, job), self._hourly()))

    def ended(self, connection: sa.Connection, job: Job) -> None:
        """What was promised and not used is free again. Tokens that the job says it used are entered, where nobody counted them: what its result
        says, else what its story does, which is there of every attempt, however it ended."""
        open_ = self._rows.holds_of(connection, job.id)
        tokens = (used_tokens(job.result) or told_tokens(connection, job.id)) if open_ else None
        counted = sum(one.metered_micro for one in open_ if one.unit == TOKENS)
        if open_ and tokens is not None and (more := tokens * MICRO - counted) > 0:
            self._meter(connection, job, {TOKENS: more})
        self._rows.settle(connection, job.id, time.time())

    def may_run(self, job: Job) -> Halt | None:
        """Not where a promise is used up and nothing is left to promise."""
        from .jobs.observing import Halt  # jobs foresee what they will spend, and so need this module first

        now = month_of(time.time())
        with self._site.store.database.reading() as connection:
            for hold in self._rows.holds_of(connection, job.id, lock=False):
                if hold.metered_micro < hold.held_micro or hold.metered_micro == hold.held_micro == 0:
                    continue
                for budget in self._rows.applying(connection, hold.whose, lock=False):
                    if budget.unit == hold.unit and not self._standing(connection, budget, now).lets_in(0):
                        return Halt("paused", "budget_exhausted", _exhausted(budget))
        return None

    def _meter(self, connection: sa.Connection, job: Job, amounts: Mapping[str, int]) -> None:
        if not any(amounts.values()):
            return
        whose, now = whose_of(self._site, job), time.time()
        month, chunks = month_of(now), spent(CHUNK_S, max(gpus_of(connection, job), 1), self._hourly())
        budgets = self._rows.applying(connection, whose)
        held = {one.unit: one for one in self._rows.holds_of(connection, job.id)}
        for unit, amount in amounts.items():
            if (hold := held.get(unit)) is not None:
                metered = hold.metered_micro + amount
                self._rows.change_hold(connection, job.id, unit, metered_micro=metered)
        spend(self._site, connection, [
            Use(now, month, whose, job.kind, unit, amount, job.id, _model(job)) for unit, amount in amounts.items()
        ])  # fmt: skip
        for unit, amount in amounts.items():
            if (hold := held.get(unit)) is not None:
                mine = [one for one in budgets if one.unit == unit]
                self._grow(
                    connection, hold, hold.metered_micro + amount, chunks.get(unit, MICRO), mine, month
                )

    def _grow(
        self,
        connection: sa.Connection,
        hold: Hold,
        metered: int,
        chunk: int,
        budgets: list[Budget],
        month: str,
    ) -> None:
        wanted = grown(hold.held_micro, metered, chunk)
        if wanted is None:
            return
        left = [self._standing(connection, one, month).left_micro for one in budgets]
        more = min([wanted - max(hold.held_micro, metered), *left])
        if more > 0:
            self._rows.change_hold(
                connection, hold.job, hold.unit, held_micro=max(hold.held_micro, metered) + more
            )

    def _standing(self, connection: sa.Connection, budget: Budget, month: str) -> Standing:
        return Standing(budget.amount_micro, *self._rows.standing(connection, budget, month))


def settle_left_over(site: Site) -> int:
    """Promises of jobs that have ended, where whoever ended them did not say so; how many jobs."""
    found = site.store.budgets.unsettled_ended()
    for job in found:
        with site.store.database.transaction() as connection:
            site.store.budgets.settle(connection, job, time.time())
    return len(found)


def _model(job: Job) -> str | None:
    model = job.shown.get("model") or job.wish.get(
        "base"
    )  # first the name that it is offered under: a base may be a folder of the server's
    return model[:256] if isinstance(model, str) else None


def _exhausted(budget: Budget) -> str:
    what = "this month's budget" if budget.period == "month" else "the budget"
    return f"{what} of {budget.scope}, {show(budget.amount_micro, budget.unit)}, is used up or promised."


def used_tokens(result: Mapping[str, Any] | None) -> int | None:
    """What a job's result says that it learnt from, or that the models it asked have read and written."""
    return trained_tokens(result) or _count(result, "tokens")


def trained_tokens(result: Mapping[str, Any] | None) -> int | None:
    """What a job's result says that it learnt from."""
    return _count(result, "trained_tokens")


def told_tokens(connection: sa.Connection, job_id: str) -> int:
    """What a job's story says that it learnt from, step by step, and that models it asked have read and written (jobs/watching)."""
    said = sa.select(events.c.data).where(events.c.subject == job_id, events.c.kind == "job.told")
    found = 0
    for told in connection.execute(said).yield_per(1_000).scalars():
        data = told.get("data") or {}
        if told.get("type") == "metrics" and str(told.get("message")).startswith("Step"):
            found += _count(data, "tokens") or 0
        elif data.get("kind") == "asked":
            found += (_count(data, "tokens_in") or 0) + (_count(data, "tokens_out") or 0)
    return found


def _count(result: Mapping[str, Any] | None, name: str) -> int | None:
    told = (result or {}).get(name)
    return told if isinstance(told, int) and told > 0 else None
