"""Budgets, what is promised to jobs out of them, and what was used: the rows. What fits into a budget is reckoned elsewhere (cost/quota).

    budgets        so much of a unit for a scope, each month or once
    holds          what is promised to a job, by unit, and how much of it was metered
    usage          every use, append-only; the ground of all reports
    usage_totals   the same added up by scope, unit and month, so that a check reads one row

Who decides reads and writes in one transaction of his own, in this order: `applying` (which locks the budgets that count, so that of
two who want the last of one only one gets it), `standing`, `hold`. Uses are added up in the order of their keys, so two writers wait for
each other and never both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from luthier.core.errors import NotFound

from .audit import Act, Audit
from .database import Database
from .tables import budgets, holds, jobs, usage, usage_totals

SITE = "site"


@dataclass(frozen=True)
class Whose:
    """Who uses, and for which month it counts."""

    organisation: str
    project: str
    user: str
    key_id: str | None

    @property
    def scopes(self) -> list[str]:
        """Whose budgets count, the widest first."""
        return [SITE, self.organisation, self.project, self.user, *([self.key_id] if self.key_id else [])]


@dataclass(frozen=True)
class Budget:
    """`period`: month or once. `before_micro`: what the scope had used when it was made, which `once` does not count."""

    id: str
    scope: str
    unit: str
    amount_micro: int
    period: str
    alerts: Sequence[float]
    before_micro: int
    by: str
    created_s: float
    ended_s: float | None = None


@dataclass(frozen=True)
class Hold:
    job: str
    unit: str
    held_micro: int
    metered_micro: int
    organisation: str
    project: str
    user: str
    key_id: str | None
    month: str
    created_s: float
    settled_s: float | None = None

    @property
    def whose(self) -> Whose:
        return Whose(self.organisation, self.project, self.user, self.key_id)


@dataclass(frozen=True)
class Use:
    time_s: float
    month: str
    whose: Whose
    kind: str
    unit: str
    amount_micro: int
    job: str | None = None
    model: str | None = None


class Budgets:
    """Safe for several processes; durable on return. What takes a `connection` is part of the caller's transaction."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    # -- budgets ----------------------------------------------------------------------------------------------------

    def add(self, budget: Budget, act: Act) -> Budget:
        """`before_micro` is filled in."""
        with self._database.transaction() as connection:
            made = Budget(
                **{**asdict(budget), "before_micro": self._total(connection, budget.scope, budget.unit)}
            )
            connection.execute(budgets.insert().values({**asdict(made), "alerts": list(made.alerts)}))
            self._audit.enter(connection, act)
        return made

    def change(self, budget_id: str, act: Act, **values: object) -> Budget:
        """Another amount, other alerts, or its end. Raises NotFound where it has ended."""
        with self._database.transaction() as connection:
            there = sa.and_(budgets.c.id == budget_id, budgets.c.ended_s.is_(None))
            if connection.execute(budgets.update().where(there).values(values)).rowcount != 1:
                raise _no_budget(budget_id)
            self._audit.enter(connection, act)
            return _budget(connection.execute(sa.select(budgets).where(budgets.c.id == budget_id)).one())

    def get(self, budget_id: str) -> Budget:
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(budgets).where(budgets.c.id == budget_id, budgets.c.ended_s.is_(None))
            ).first()
        if row is None:
            raise _no_budget(budget_id)
        return _budget(row)

    def list(self, scopes: Sequence[str] | None = None) -> list[Budget]:
        """Those that have not ended; of these scopes, or all."""
        query = (
            sa.select(budgets).where(budgets.c.ended_s.is_(None)).order_by(budgets.c.created_s, budgets.c.id)
        )
        if scopes is not None:
            query = query.where(budgets.c.scope.in_(list(scopes)))
        with self._database.reading() as connection:
            return [_budget(row) for row in connection.execute(query)]

    def applying(self, connection: sa.Connection, whose: Whose, *, lock: bool = True) -> Sequence[Budget]:
        """The budgets that count for this use; locked until the transaction ends."""
        return self.of_scopes(connection, whose.scopes, lock=lock)

    def of_scopes(
        self, connection: sa.Connection, scopes: Sequence[str], *, lock: bool = False
    ) -> Sequence[Budget]:
        query = (
            sa.select(budgets)
            .where(budgets.c.scope.in_(scopes), budgets.c.ended_s.is_(None))
            .order_by(budgets.c.id)
        )
        return [_budget(row) for row in connection.execute(query.with_for_update() if lock else query)]

    def standing(self, connection: sa.Connection, budget: Budget, month: str) -> tuple[int, int]:
        """(used, promised and not used yet). A promise counts until its job is settled, whichever month that is in."""
        if budget.period == "month":
            used = self._total(connection, budget.scope, budget.unit, month)
        else:
            used = self._total(connection, budget.scope, budget.unit) - budget.before_micro
        left = holds.c.held_micro - holds.c.metered_micro
        query = sa.select(sa.func.coalesce(sa.func.sum(sa.case((left > 0, left), else_=0)), 0)).where(
            holds.c.settled_s.is_(None), holds.c.unit == budget.unit
        )
        if (column := _column(holds, budget.scope)) is not None:
            query = query.where(column == budget.scope)
        return used, int(connection.execute(query).scalar_one())

    def _total(self, connection: sa.Connection, scope: str, unit: str, month: str | None = None) -> int:
        query = sa.select(sa.func.coalesce(sa.func.sum(usage_totals.c.amount_micro), 0)).where(
            usage_totals.c.scope == scope, usage_totals.c.unit == unit
        )
        if month is not None:
            query = query.where(usage_totals.c.month == month)
        return int(connection.execute(query).scalar_one())

    # -- jobs -------------------------------------------------------------------------------------------------------

    def hold(self, connection: sa.Connection, *new: Hold) -> None:
        for one in new:
            connection.execute(holds.insert().values(asdict(one)))

    def holds_of(self, connection: sa.Connection, job: str, *, lock: bool = True) -> Sequence[Hold]:
        """Those that are not settled."""
        query = sa.select(holds).where(holds.c.job == job, holds.c.settled_s.is_(None)).order_by(holds.c.unit)
        return [
            Hold(**row._mapping) for row in connection.execute(query.with_for_update() if lock else query)
        ]

    def held_by(self, job: str) -> Sequence[Hold]:
        """All, settled ones too; for showing."""
        with self._database.reading() as connection:
            query = sa.select(holds).where(holds.c.job == job).order_by(holds.c.unit)
            return [Hold(**row._mapping) for row in connection.execute(query)]

    def change_hold(self, connection: sa.Connection, job: str, unit: str, **values: object) -> None:
        connection.execute(holds.update().where(holds.c.job == job, holds.c.unit == unit).values(values))

    def settle(self, connection: sa.Connection, job: str, at_s: float) -> int:
        """What a job was promised and did not use is free again; how many promises that were. Doing it twice does nothing."""
        open_ = sa.and_(holds.c.job == job, holds.c.settled_s.is_(None))
        return connection.execute(holds.update().where(open_).values(settled_s=at_s)).rowcount

    def unsettled_ended(self) -> Sequence[str]:
        """Jobs that have ended and whose promises nobody settled."""
        from .jobs import ENDED

        query = (
            sa.select(holds.c.job)
            .join(jobs, jobs.c.id == holds.c.job)
            .where(holds.c.settled_s.is_(None), jobs.c.state.in_(ENDED))
            .distinct()
        )
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    # -- use --------------------------------------------------------------------------------------------------------

    def use(
        self, connection: sa.Connection, uses: Iterable[Use]
    ) -> dict[tuple[str, str, str], tuple[int, int]]:
        """Enter what was used. (scope, unit, month) -> (the total before, after) of each that it counts for."""
        added: dict[tuple[str, str, str], int] = {}
        for one in uses:
            if one.amount_micro <= 0:
                continue
            values = asdict(one)
            connection.execute(usage.insert().values({**values.pop("whose"), **values}))
            for scope in one.whose.scopes:
                place = (scope, one.unit, one.month)
                added[place] = added.get(place, 0) + one.amount_micro
        return {place: self._add(connection, place, added[place]) for place in sorted(added)}

    @staticmethod
    def _add(connection: sa.Connection, place: tuple[str, str, str], amount_micro: int) -> tuple[int, int]:
        if connection.dialect.name == "sqlite":
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
        scope, unit, month = place
        new = insert(usage_totals).values(scope=scope, unit=unit, month=month, amount_micro=amount_micro)
        grown = usage_totals.c.amount_micro + new.excluded.amount_micro
        query = new.on_conflict_do_update(
            index_elements=["scope", "unit", "month"], set_={"amount_micro": grown}
        )
        after = int(connection.execute(query.returning(usage_totals.c.amount_micro)).scalar_one())
        return after - amount_micro, after

    def report(
        self,
        by: Sequence[str],
        *,
        within: str,
        since_s: float | None = None,
        until_s: float | None = None,
        unit: str | None = None,
    ) -> Sequence[dict[str, object]]:
        """Amounts by these dimensions and by unit, of one scope. A dimension: see DIMENSIONS."""
        columns = [_dimension(name, self._database.is_sqlite).label(name) for name in by]
        query = sa.select(*columns, usage.c.unit, sa.func.sum(usage.c.amount_micro).label("amount_micro"))
        if (column := _column(usage, within)) is not None:
            query = query.where(column == within)
        for bound in (
            None if since_s is None else usage.c.time_s >= since_s,
            None if until_s is None else usage.c.time_s < until_s,
            None if unit is None else usage.c.unit == unit,
        ):
            query = query if bound is None else query.where(bound)
        grouped: Sequence[sa.ColumnElement] = [
            *(sa.literal_column(str(n + 1)) for n in range(len(columns) + 1))
        ]
        query = query.group_by(*grouped).order_by(*grouped)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [{**row, "amount_micro": int(row["amount_micro"])} for row in rows]


DIMENSIONS = ("organisation", "project", "user", "key", "model", "kind", "job", "month", "day")


def _dimension(name: str, is_sqlite: bool) -> sa.ColumnElement:
    if name == "day":
        if is_sqlite:
            return sa.func.strftime("%Y-%m-%d", usage.c.time_s, "unixepoch")
        return sa.func.to_char(sa.func.timezone("UTC", sa.func.to_timestamp(usage.c.time_s)), "YYYY-MM-DD")
    column: sa.ColumnElement = usage.c["key_id" if name == "key" else name]
    return column


def _column(table: sa.Table, scope: str) -> sa.Column | None:
    """The column that says whether a row is of a scope; None: all are."""
    if scope == SITE:
        return None
    kind = scope.partition("_")[0] if "_" in scope else "key"
    return table.c[{"org": "organisation", "proj": "project", "user": "user", "key": "key_id"}[kind]]


def _budget(row: sa.Row) -> Budget:
    return Budget(**row._mapping)


def _no_budget(budget_id: str) -> NotFound:
    return NotFound(f"there is no budget {budget_id[:40]!r}.", remedy="`luthier budget list` shows them.")
