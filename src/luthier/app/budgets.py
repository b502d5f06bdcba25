"""What may be asked of budgets and of use: set, change, end, list as they stand; reports by any dimension."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import NotAllowed, SpecError, did_you_mean
from luthier.cost.quota import (
    ALERTS,
    GPU_HOURS,
    LARGEST_MICRO,
    Standing,
    check_alerts,
    check_month,
    check_unit,
    micro,
    month_of,
    plain,
)
from luthier.governance.access import SITE
from luthier.store.budgets import DIMENSIONS, Budget, Whose

from .permitted import need, organisation_of, project_of

if TYPE_CHECKING:
    from .site import Caller, Site

PERIODS = ("month", "once")


class Budgets:
    """`site.budgets`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.budgets

    def add(
        self, caller: Caller, scope: str, unit: str, amount: float | str, *, period: str = "month", alerts: Sequence[float] = ALERTS
    ) -> dict[str, Any]:  # fmt: skip
        """`scope`: site, an organisation, a project, a user or a key's id; `project` and `organisation` are the caller's own. Of several
        budgets of one scope all must be kept."""
        scope = self._named(caller, scope)
        need(self._site, caller, "budgets.write", scope)
        if period not in PERIODS:
            raise SpecError(f"there is no period {period[:40]!r}.", remedy=did_you_mean(period, PERIODS))
        amount_micro = _some(amount)
        budget = Budget(
            f"budget_{secrets.token_hex(12)}", scope, check_unit(unit), amount_micro, period, check_alerts(alerts), 0,
            caller.user, time.time(),
        )  # fmt: skip
        told = {
            "scope": scope,
            "unit": unit,
            "amount": plain(amount_micro),
            "period": period,
            "alerts": list(budget.alerts),
        }
        return self._plain(self._rows.add(budget, caller.actor.act("budget.added", budget.id, told)))

    def change(
        self, caller: Caller, budget_id: str, *, amount: float | str | None = None, alerts: Sequence[float] | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """What was promised before holds, also where the amount is now less: nothing more is let in then."""
        self._mine(caller, budget_id)
        values: dict[str, Any] = {}
        if amount is not None:
            values["amount_micro"] = _some(amount)
        if alerts is not None:
            values["alerts"] = check_alerts(alerts)
        if not values:
            raise SpecError("nothing is to be changed.", remedy="Give an amount, or alerts.")
        act = caller.actor.act("budget.changed", budget_id, values)
        return self._plain(self._rows.change(budget_id, act, **values))

    def end(self, caller: Caller, budget_id: str) -> None:
        """It limits nothing any more; what was used stays in the reports."""
        self._mine(caller, budget_id)
        self._rows.change(budget_id, caller.actor.act("budget.ended", budget_id), ended_s=time.time())

    def list(self, caller: Caller) -> list[dict[str, Any]]:
        """Those that count for the caller, as they stand this month; all of them for whoever works on the server itself."""
        if caller.operator and caller.project is None:
            return [self._plain(one) for one in self._rows.list()]
        scopes = [SITE, caller.organisation, caller.project, caller.user, caller.key_id]
        own = {caller.project, caller.user, caller.key_id, *self._reached(caller)}
        found = self._rows.list([one for one in scopes if one])
        return [self._plain(one, own=one.scope in own) for one in found]

    def _reached(self, caller: Caller) -> Sequence[str]:
        """Wider scopes whose numbers he may see."""
        found = []
        for scope in (SITE, caller.organisation):
            try:
                if scope is not None:
                    need(self._site, caller, "budgets.read", scope)
                    found.append(scope)
            except NotAllowed:
                continue
        return found

    def exhausted(self, whose: Whose) -> Budget | None:
        """A budget of theirs of tokens or money that has nothing left."""
        month = month_of(time.time())
        with self._site.store.database.reading() as connection:
            for budget in self._rows.applying(connection, whose, lock=False):
                standing = Standing(budget.amount_micro, *self._rows.standing(connection, budget, month))
                if budget.unit != GPU_HOURS and standing.left_micro <= 0:
                    return budget
        return None

    def usage(
        self, caller: Caller, by: Sequence[str] = ("month",), *, since_s: float | None = None, until_s: float | None = None,
        month: str | None = None, unit: str | None = None,
    ) -> Sequence[dict[str, Any]]:  # fmt: skip
        """What was used within the caller's project (else his organisation, else the site), by these dimensions and by unit."""
        for name in by:
            if name not in DIMENSIONS:
                raise SpecError(
                    f"there is no dimension {name[:40]!r}.", remedy=did_you_mean(name, DIMENSIONS)
                )
        if len(set(by)) < len(by):
            raise SpecError("the same dimension stands twice.", remedy="Name each once.")
        if month is not None:
            if since_s is not None or until_s is not None:
                raise SpecError("a month is given beside bounds of time.", remedy="Give one of them.")
            since_s, until_s = _bounds(check_month(month))
        if unit is not None:
            check_unit(unit, counted=True)
        within = caller.project or caller.organisation or SITE
        need(self._site, caller, "usage.read", within)
        found = self._rows.report(by, within=within, since_s=since_s, until_s=until_s, unit=unit)
        return [
            {
                **{name: row[name] for name in by},
                "unit": row["unit"],
                "amount": plain(_whole(row["amount_micro"])),
            }
            for row in found
        ]

    # -- parts ------------------------------------------------------------------------------------------------------

    def _named(self, caller: Caller, scope: str) -> str:
        if scope in ("project", "organisation"):
            return project_of(caller) if scope == "project" else organisation_of(caller)
        return scope

    def _mine(self, caller: Caller, budget_id: str) -> Budget:
        budget = self._rows.get(budget_id)
        need(self._site, caller, "budgets.write", budget.scope)
        return budget

    def _plain(self, budget: Budget, *, own: bool = True) -> dict[str, Any]:
        """`own`: it is not of others too, or he may see what they use; else only whether anything is left."""
        month = month_of(time.time())
        with self._site.store.database.reading() as connection:
            used, held = self._rows.standing(connection, budget, month)
        left = Standing(budget.amount_micro, used, held).left_micro
        return {
            "id": budget.id, "scope": budget.scope, "unit": budget.unit, "period": budget.period, "month": month,
            **{
                name: plain(value) if own else None
                for name, value in (("amount", budget.amount_micro), ("used", used), ("promised", held), ("left", left))
            },
            "exhausted": left <= 0, "alerts": list(budget.alerts), "by": budget.by, "created_s": budget.created_s,
        }  # fmt: skip


def _some(amount: float | str) -> int:
    found = micro(amount)
    if found == 0:
        raise SpecError(
            "a budget of nothing lets nothing in.",
            remedy=f"Write more than 0, up to {LARGEST_MICRO // 10**6:,}.",
        )
    return found


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value


def _bounds(month: str) -> tuple[float, float]:
    """Unix time of its first second and of the next month's, in UTC.

    >>> _bounds("1970-01")
    (0.0, 2678400.0)
    """
    from datetime import UTC, datetime

    year, number = map(int, month.split("-"))
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return (
        datetime(year, number, 1, tzinfo=UTC).timestamp(),
        datetime(*following, 1, tzinfo=UTC).timestamp(),
    )
