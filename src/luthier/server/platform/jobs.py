"""The queue as Luthier's own API shows it: jobs of every kind, beside those of OpenAI's dialect."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response

from luthier.server.routes import Route
from luthier.store.jobs import Job

from .asked import answered, caller

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site


class JobRoutes:
    ROUTES: ClassVar = (
        Route("GET", "/luthier/v1/jobs", "list", "jobs.read"),
        Route("GET", "/luthier/v1/jobs/{job_id}", "get", "jobs.read"),
    )

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list(self, request: Request) -> Response:
        return await answered(self._list, caller(request))

    async def get(self, request: Request, job_id: str) -> Response:
        return await answered(lambda who: plain(self._site.jobs.get(who, job_id)), caller(request))

    def _list(self, who: Caller) -> dict[str, Any]:
        found, more = self._site.jobs.list(who)
        return {"object": "list", "data": [plain(one) for one in found], "has_more": more}


def plain(job: Job) -> dict[str, Any]:
    return {"object": "luthier.job", **{k: v for k, v in asdict(job).items() if k not in ("seq", "format")}}
