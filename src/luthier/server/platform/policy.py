"""Policies on the wire: what holds here and who says it, and laying one down as YAML, where one may."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route
from luthier.store.policies import Laid

from .asked import answered, body_of, caller
from .lanes import RECIPES

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

LARGEST_BODY_BYTES = 1_000_000


class NewPolicy(Wire):
    yaml: Annotated[str, Field(min_length=1, max_length=500_000)]
    """The whole policy of the scope; what it leaves out, it does not say."""
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    """Why; it stands in the record."""


class PolicyRoutes:
    """`scope`: site, an organisation or a project; `project` and `organisation` are one's own."""

    ROUTES: ClassVar = (
        Route("GET", "/luthier/v1/policy", "effective", "policy.read"),
        Route("GET", "/luthier/v1/policy/{scope}", "laid", "policy.read"),
        Route("PUT", "/luthier/v1/policy/{scope}", "lay", "policy.write"),
        Route("GET", "/luthier/v1/policy/{scope}/history", "history", "policy.read"),
    )

    DESCRIBED: ClassVar = {
        "effective": Described("What holds here, and who says it.", gives=("object",)),
        "laid": Described("What the scope says.", gives=("object", "scope")),
        "lay": Described("What the scope says now.", takes=NewPolicy, gives=("object", "scope", "version")),
        "history": Described("What it said before.", gives=LISTED),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def effective(self, request: Request) -> Response:
        return await answered(
            lambda who: {"object": "luthier.policy.effective", **self._site.policies.show(who)},
            caller(request),
        )

    async def laid(self, request: Request, scope: str) -> Response:
        return await answered(self._laid, caller(request), scope)

    async def lay(self, request: Request, scope: str) -> Response:
        body = checked(NewPolicy, await body_of(request, LARGEST_BODY_BYTES))
        return await answered(
            lambda who: plain(self._site.policies.lay(who, scope, body.yaml, body.reason)),
            caller(request),
            lane=RECIPES,
        )

    async def history(self, request: Request, scope: str) -> Response:
        return await answered(self._history, caller(request), scope)

    def _laid(self, who: Caller, scope: str) -> dict[str, Any]:
        found = self._site.policies.laid(who, scope)
        return {"object": "luthier.policy", "scope": scope, "data": None} if found is None else plain(found)

    def _history(self, who: Caller, scope: str) -> dict[str, Any]:
        found = self._site.policies.history(who, scope)
        return {"object": "list", "data": [plain(one) for one in found]}


def plain(one: Laid) -> dict[str, Any]:
    return {
        "object": "luthier.policy",
        **{name: value for name, value in asdict(one).items() if name != "seq"},
        "version": one.seq,
    }
