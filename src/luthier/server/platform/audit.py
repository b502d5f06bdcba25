"""The audit trail over HTTP: a project's own, and what the site's tells of that project; read, and checked against its own hashes.

Signed checkpoints are checked where they are kept, which is not here (`luthier audit verify`).
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response

from luthier.app.auditing import Known
from luthier.app.rights import Rights
from luthier.governance.access import SITE
from luthier.server.errors import ApiError
from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route

from .asked import answered, body_of, caller
from .query import LARGEST_PAGE, PAGE, asked_in, number_in

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.site import Caller, Site

MOST_FAULTS = 100
Trail = Literal["project", "site"]


class Verify(Wire):
    trail: Trail = "project"
    """Of the project, or of the site, which needs audit.read on the site itself."""


class AuditRoutes:
    ROUTES: ClassVar = (
        Route("GET", "/luthier/v1/audit", "read", "audit.read", anywhere=True),
        Route("POST", "/luthier/v1/audit/verify", "verify", "audit.read", anywhere=True),
    )

    DESCRIBED: ClassVar = {
        "read": Described(
            "Entries.", gives=LISTED, query=("trail", "after", "limit", "action", "actor", "subject")
        ),
        "verify": Described(
            "Whether it is sound.", takes=Verify, gives=("object", "trail", "sound", "entries", "faults")
        ),
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def read(self, request: Request) -> Response:
        told = asked_in(request, ("trail", "after", "limit", "action", "actor", "subject"))
        trail = told.get("trail", "project")
        if trail not in ("project", "site"):
            raise ApiError(400, "invalid_value", "trail is project or site.", param="trail")
        limit = number_in(told, "limit", PAGE, LARGEST_PAGE)
        after = number_in(told, "after", 0, 2**62)
        return await answered(self._read, caller(request), trail, limit, after, told)

    async def verify(self, request: Request) -> Response:
        body = checked(Verify, await body_of(request, 1_000))
        return await answered(self._verify, caller(request), body.trail)

    def _read(
        self, who: Caller, trail: Trail, limit: int, after: int, chosen: dict[str, str]
    ) -> dict[str, Any]:
        mentions = who.project if trail == "site" else None
        app = self._trail_of(who, trail, alone=False)
        entries = app.audit.read(
            after=after,
            mentions=mentions,
            action=chosen.get("action"),
            actor=chosen.get("actor"),
            subject=chosen.get("subject"),
        )
        found = list(islice(entries, limit + 1))
        data = [plain(one) for one in found[:limit]]
        return {"object": "list", "data": data, "has_more": len(found) > limit}

    def _verify(self, who: Caller, trail: Trail) -> dict[str, Any]:
        found = self._trail_of(who, trail, alone=True).audit.verify()
        faults = [asdict(one) for one in found.faults[:MOST_FAULTS]]
        return {
            "object": "luthier.audit.verified", "trail": trail, "sound": found.sound, "entries": found.entries, "erased": found.erased,
            "faults": faults,
        }  # fmt: skip

    def _trail_of(self, who: Caller, trail: Trail, *, alone: bool) -> App:
        """`alone`: the trail as a whole, whomever it tells of. Raises NotAllowed, NotFound."""
        rights = Rights(self._site.store.accounts, who)
        whole = trail == "site" and (alone or who.project is None)
        if trail == "site":
            rights.need("audit.read", SITE if whole else str(who.project))
            return self._site.top
        app = self._site.app(who)
        rights.need("audit.read", str(who.project))
        return app


def plain(one: Known) -> dict[str, Any]:
    return {"object": "luthier.audit.entry", "id": str(one.entry.seq), **one.plain()}
