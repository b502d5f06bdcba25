"""Approvals on the wire: ask, list, grant, decline, withdraw; each with a reason."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route
from luthier.store.approvals import Approval

from .asked import answered, body_of, caller
from .query import asked_in, number_in

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

LARGEST_BODY_BYTES = 20_000
PAGE, LARGEST_PAGE = 20, 100
Reason = Annotated[str, Field(min_length=1, max_length=1000)]


class NewApproval(Wire):
    kind: Annotated[str, Field(max_length=32)]
    """release, name or rollout."""
    subject: Annotated[str, Field(min_length=1, max_length=160)]
    """What of: name@version, or NAME=name@version."""
    reason: Reason
    """Why it is wanted."""


class Word(Wire):
    reason: Reason
    """Why."""


class ApprovalRoutes:
    ROUTES: ClassVar = (
        Route("GET", "/luthier/v1/approvals", "list", "approvals.read"),
        Route("POST", "/luthier/v1/approvals", "ask", "approvals.ask"),
        Route("GET", "/luthier/v1/approvals/{approval_id}", "get", "approvals.read"),
        Route("POST", "/luthier/v1/approvals/{approval_id}/grant", "grant", "approvals.decide"),
        Route("POST", "/luthier/v1/approvals/{approval_id}/decline", "decline", "approvals.decide"),
        Route("POST", "/luthier/v1/approvals/{approval_id}/withdraw", "withdraw", "approvals.ask"),
    )

    DESCRIBED: ClassVar = {
        "list": Described("Requests, newest first.", gives=LISTED, query=("state", "after", "limit")),
        "ask": Described("The request.", takes=NewApproval, gives=("object", "id", "state")),
        "get": Described("The request.", gives=("object", "id", "state")),
        **{
            one: Described("The request.", takes=Word, gives=("object", "id", "state"))
            for one in ("grant", "decline", "withdraw")
        },
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list(self, request: Request) -> Response:
        told = asked_in(request, ("state", "after", "limit"))
        return await answered(self._list, caller(request), told, number_in(told, "limit", PAGE, LARGEST_PAGE))

    async def ask(self, request: Request) -> Response:
        body = checked(NewApproval, await body_of(request, LARGEST_BODY_BYTES))
        return await answered(
            lambda who: plain(self._site.approvals.ask(who, body.kind, body.subject, body.reason)),
            caller(request),
        )

    async def get(self, request: Request, approval_id: str) -> Response:
        return await answered(lambda who: plain(self._site.approvals.get(who, approval_id)), caller(request))

    async def grant(self, request: Request, approval_id: str) -> Response:
        return await self._decide(request, approval_id, "grant")

    async def decline(self, request: Request, approval_id: str) -> Response:
        return await self._decide(request, approval_id, "decline")

    async def withdraw(self, request: Request, approval_id: str) -> Response:
        return await self._decide(request, approval_id, "withdraw")

    async def _decide(self, request: Request, approval_id: str, how: str) -> Response:
        body = checked(Word, await body_of(request, LARGEST_BODY_BYTES))
        verb = getattr(self._site.approvals, how)
        return await answered(lambda who: plain(verb(who, approval_id, body.reason)), caller(request))

    def _list(self, who: Caller, told: dict[str, str], limit: int) -> dict[str, Any]:
        verbs = self._site.approvals
        states = [told["state"]] if "state" in told else []
        before_s = verbs.get(who, told["after"]).created_s if "after" in told else None
        found = verbs.list(who, states, before_s=before_s, limit=limit + 1)
        return {
            "object": "list",
            "data": [plain(one) for one in found[:limit]],
            "has_more": len(found) > limit,
        }


def plain(one: Approval) -> dict[str, Any]:
    return {"object": "luthier.approval", **asdict(one)}
