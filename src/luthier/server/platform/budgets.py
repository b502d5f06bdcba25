"""Budgets on the wire: those that count for whoever asks, and setting them where one may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route

from .asked import answered, body_of, caller

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

LARGEST_BODY_BYTES = 20_000
Amount = Annotated[float, Field(gt=0, le=1e12)]
Alerts = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(max_length=10)]


class NewBudget(Wire):
    scope: Annotated[str, Field(min_length=1, max_length=32)]
    """site, an organisation, a project, a user or a key's id; `project` and `organisation` are one's own."""
    unit: Annotated[str, Field(min_length=1, max_length=16)]
    """tokens, gpu_hours, or money: and a currency (money:EUR)."""
    amount: Amount
    """How much of it."""
    period: Annotated[str, Field(max_length=16)] = "month"
    """month (of UTC) or once."""
    alerts: Alerts = Field(default=[0.5, 0.8, 1.0])
    """Shares of the amount at which it is told."""


class ChangedBudget(Wire):
    amount: Amount | None = None
    """Another amount."""
    alerts: Alerts | None = None
    """Other shares."""


class BudgetRoutes:
    ROUTES: ClassVar = (
        Route("GET", "/luthier/v1/budgets", "list", "budgets.read"),
        Route("POST", "/luthier/v1/budgets", "add", "budgets.write"),
        Route("POST", "/luthier/v1/budgets/{budget_id}", "change", "budgets.write"),
        Route("DELETE", "/luthier/v1/budgets/{budget_id}", "end", "budgets.write"),
    )

    DESCRIBED: ClassVar = {
        "list": Described("Those that count for whoever asks.", gives=LISTED),
        "add": Described("The budget.", takes=NewBudget, gives=("object", "id")),
        "change": Described("The budget.", takes=ChangedBudget, gives=("object", "id")),
        "end": Described("It counts no more.", gives=("object", "id", "deleted")),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list(self, request: Request) -> Response:
        return await answered(self._list, caller(request))

    async def add(self, request: Request) -> Response:
        body = checked(NewBudget, await body_of(request, LARGEST_BODY_BYTES))
        return await answered(
            lambda who: shown(self._site.budgets.add(
                who, body.scope, body.unit, body.amount, period=body.period, alerts=body.alerts
            )),
            caller(request),
        )  # fmt: skip

    async def change(self, request: Request, budget_id: str) -> Response:
        body = checked(ChangedBudget, await body_of(request, LARGEST_BODY_BYTES))
        return await answered(
            lambda who: shown(
                self._site.budgets.change(who, budget_id, amount=body.amount, alerts=body.alerts)
            ),
            caller(request),
        )

    async def end(self, request: Request, budget_id: str) -> Response:
        return await answered(self._end, caller(request), budget_id)

    def _list(self, who: Caller) -> dict[str, Any]:
        return {"object": "list", "data": [shown(one) for one in self._site.budgets.list(who)]}

    def _end(self, who: Caller, budget_id: str) -> dict[str, Any]:
        self._site.budgets.end(who, budget_id)
        return {"object": "luthier.budget.deleted", "id": budget_id, "deleted": True}


def shown(told: dict[str, Any]) -> dict[str, Any]:
    return {"object": "luthier.budget", **told}
