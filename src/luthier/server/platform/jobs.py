"""The queue as Luthier's own API shows it: jobs of every kind, beside those of OpenAI's dialect.

POST /luthier/v1/jobs                       a run of a recipe; Idempotency-Key makes sending it again safe
GET  /luthier/v1/jobs                       newest first, in brief: ?state= &kind= &after= &limit=
GET  /luthier/v1/jobs/ID                    whole, with its attempts
POST /luthier/v1/jobs/ID/cancel|pause|resume|priority
GET  /luthier/v1/jobs/ID/events             ?after= &limit=; as a stream with Accept: text/event-stream (job_stream)
GET  /luthier/v1/jobs/ID/logs               ?lines= &containing= &attempt=
...  /luthier/v1/schedules                  jobs at the times of cron
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from luthier.server.parts import Wire, checked
from luthier.server.routes import LISTED, Described, Route
from luthier.store.jobs import Job, Wanted, in_brief
from luthier.store.schedules import Schedule

from . import retries
from .asked import answered, body_of, caller
from .job_stream import Streams, line
from .lanes import RECIPES
from .query import asked_in, number_in

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

MOST_LISTED = 100
MOST_EVENTS = 1_000

Resources = dict[str, Annotated[int, Field(ge=0)]]


class Submit(Wire):
    """A run of a recipe."""

    recipe: str = Field(max_length=1_000_000)
    sets: list[str] = Field(default=[], max_length=200)
    priority: int = 0
    resources: Resources = Field(default={})
    needs: list[str] = Field(default=[], max_length=50)
    not_before_s: float | None = Field(default=None, ge=0, le=1e11)
    most_attempts: int = 3


class Priority(Wire):
    priority: int


class Scheduled(Wire):
    """A run of a recipe at the times of cron."""

    title: str
    cron: str
    timezone: str = "UTC"
    recipe: str = Field(max_length=1_000_000)
    sets: list[str] = Field(default=[], max_length=200)
    priority: int = 0
    resources: Resources = Field(default={})
    most_attempts: int = 3


class Switch(Wire):
    enabled: bool


class JobRoutes:
    ROUTES: ClassVar = (
        Route("POST", "/luthier/v1/jobs", "submit", "jobs.write"),
        Route("GET", "/luthier/v1/jobs", "list", "jobs.read"),
        Route("GET", "/luthier/v1/jobs/{job_id}", "get", "jobs.read"),
        Route("POST", "/luthier/v1/jobs/{job_id}/cancel", "cancel", "jobs.write"),
        Route("POST", "/luthier/v1/jobs/{job_id}/pause", "pause", "jobs.write"),
        Route("POST", "/luthier/v1/jobs/{job_id}/resume", "resume", "jobs.write"),
        Route("POST", "/luthier/v1/jobs/{job_id}/priority", "priority", "jobs.write"),
        Route("GET", "/luthier/v1/jobs/{job_id}/events", "events", "jobs.read"),
        Route("GET", "/luthier/v1/jobs/{job_id}/logs", "logs", "jobs.read"),
        Route("POST", "/luthier/v1/schedules", "add_schedule", "jobs.write"),
        Route("GET", "/luthier/v1/schedules", "list_schedules", "jobs.read"),
        Route("GET", "/luthier/v1/schedules/{schedule_id}", "get_schedule", "jobs.read"),
        Route("POST", "/luthier/v1/schedules/{schedule_id}", "switch_schedule", "jobs.write"),
        Route("DELETE", "/luthier/v1/schedules/{schedule_id}", "remove_schedule", "jobs.write"),
    )

    DESCRIBED: ClassVar = {
        "submit": Described("The job.", takes=Submit, gives=("object", "id", "state"), status=201, once=True),
        "list": Described("Jobs, newest first.", gives=LISTED, query=("state", "kind", "after", "limit")),
        "get": Described("The job and its attempts.", gives=("object", "id", "state", "history")),
        **{
            one: Described("The job.", gives=("object", "id", "state"))
            for one in ("cancel", "pause", "resume")
        },
        "priority": Described("The job.", takes=Priority, gives=("object", "id", "state")),
        "events": Described("What it told.", gives=LISTED, query=("after", "limit"), stream=True),
        "logs": Described("Its last lines.", gives=LISTED, query=("lines", "containing", "attempt")),
        "add_schedule": Described("The schedule.", takes=Scheduled, gives=("object", "id"), status=201),
        "list_schedules": Described("Schedules.", gives=LISTED),
        "get_schedule": Described("The schedule.", gives=("object", "id")),
        "switch_schedule": Described("The schedule.", takes=Switch, gives=("object", "id")),
        "remove_schedule": Described("It is gone.", gives=("object", "id", "deleted")),
    }

    def __init__(self, site: Site) -> None:
        self._site = site
        self._streams = Streams(site)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def submit(self, request: Request) -> Response:
        body = checked(Submit, await body_of(request))
        once = retries.once(request, body.plain())

        def work(who: Caller) -> dict[str, Any]:
            return plain(self._site.jobs.submit_recipe(
                who, body.recipe, sets=body.sets, priority=body.priority, resources=body.resources, needs=body.needs,
                not_before_s=body.not_before_s, most_attempts=body.most_attempts, once=once,
            ))  # fmt: skip

        return await answered(work, caller(request), status=201, lane=RECIPES)

    async def list(self, request: Request) -> Response:
        asked = asked_in(request, ("state", "kind", "after", "limit"))
        limit = number_in(asked, "limit", 20, MOST_LISTED, 1)

        def work(who: Caller) -> dict[str, Any]:
            found, more = self._site.jobs.list(
                who, kinds=_words(asked, "kind"), states=_words(asked, "state"), before=asked.get("after"), limit=limit,
                brief=True,
            )  # fmt: skip
            return {
                "object": "list",
                "data": [{"object": "luthier.job", **in_brief(one)} for one in found],
                "has_more": more,
            }

        return await answered(work, caller(request))

    async def get(self, request: Request, job_id: str) -> Response:
        def work(who: Caller) -> dict[str, Any]:
            job = self._site.jobs.get(who, job_id)
            attempts = [
                {k: v for k, v in asdict(one).items() if k not in ("job", "fence", "handle")}
                for one in self._site.jobs.attempts(who, job_id)
            ]
            return {**plain(job), "history": attempts}

        return await answered(work, caller(request))

    async def cancel(self, request: Request, job_id: str) -> Response:
        return await self._ask(request, job_id, "cancel")

    async def pause(self, request: Request, job_id: str) -> Response:
        return await self._ask(request, job_id, "pause")

    async def resume(self, request: Request, job_id: str) -> Response:
        return await self._ask(request, job_id, "run")

    async def _ask(self, request: Request, job_id: str, wanted: Wanted) -> Response:
        return await answered(lambda who: plain(self._site.jobs.ask(who, job_id, wanted)), caller(request))

    async def priority(self, request: Request, job_id: str) -> Response:
        body = checked(Priority, await body_of(request))
        return await answered(
            lambda who: plain(self._site.jobs.prioritise(who, job_id, body.priority)), caller(request)
        )

    async def events(self, request: Request, job_id: str) -> Response:
        asked = asked_in(request, ("after", "limit"))
        header = request.headers.get("last-event-id")
        after = number_in(asked if header is None else {"after": header}, "after", 0, 1 << 62)
        if "text/event-stream" in request.headers.get("accept", ""):
            return await self._streams.open(caller(request), job_id, after, request.state.still)
        limit = number_in(asked, "limit", 100, MOST_EVENTS, 1)

        def work(who: Caller) -> dict[str, Any]:
            found = list(self._site.jobs.events(who, job_id, after=after, limit=limit + 1))
            return {
                "object": "list",
                "data": [line(one) for one in found[:limit]],
                "has_more": len(found) > limit,
            }

        return await answered(work, caller(request))

    async def logs(self, request: Request, job_id: str) -> Response:
        asked = asked_in(request, ("lines", "containing", "attempt"))
        lines = number_in(asked, "lines", 200, 10_000, 1)
        attempt = number_in(asked, "attempt", 0, 1_000_000) if "attempt" in asked else None

        def work(who: Caller) -> dict[str, Any]:
            found = self._site.jobs.logs(
                who, job_id, attempt=attempt, lines=lines, containing=asked.get("containing")
            )
            return {"object": "list", "data": found}

        return await answered(work, caller(request))

    # -- schedules ----------------------------------------------------------------------------------------------------

    async def add_schedule(self, request: Request) -> Response:
        body = checked(Scheduled, await body_of(request))

        def work(who: Caller) -> dict[str, Any]:
            return plain_schedule(self._site.jobs.schedules.add_recipe(
                who, body.title, body.cron, body.recipe, sets=body.sets, timezone=body.timezone, priority=body.priority,
                resources=body.resources, most_attempts=body.most_attempts,
            ))  # fmt: skip

        return await answered(work, caller(request), status=201, lane=RECIPES)

    async def list_schedules(self, request: Request) -> Response:
        def work(who: Caller) -> dict[str, Any]:
            found = self._site.jobs.schedules.list(who)
            return {"object": "list", "data": [plain_schedule(one) for one in found], "has_more": False}

        return await answered(work, caller(request))

    async def get_schedule(self, request: Request, schedule_id: str) -> Response:
        return await answered(
            lambda who: plain_schedule(self._site.jobs.schedules.get(who, schedule_id)), caller(request)
        )

    async def switch_schedule(self, request: Request, schedule_id: str) -> Response:
        body = checked(Switch, await body_of(request))
        return await answered(
            lambda who: plain_schedule(self._site.jobs.schedules.switch(who, schedule_id, on=body.enabled)), caller(request)
        )  # fmt: skip

    async def remove_schedule(self, request: Request, schedule_id: str) -> Response:
        def work(who: Caller) -> dict[str, Any]:
            self._site.jobs.schedules.remove(who, schedule_id)
            return {"object": "luthier.schedule", "id": schedule_id, "deleted": True}

        return await answered(work, caller(request))


def plain(job: Job) -> dict[str, Any]:
    return {"object": "luthier.job", **{k: v for k, v in asdict(job).items() if k not in ("seq", "format")}}


def plain_schedule(schedule: Schedule) -> dict[str, Any]:
    return {"object": "luthier.schedule", **{k: v for k, v in asdict(schedule).items() if k != "ended_s"}}


def _words(asked: Mapping[str, str], name: str) -> list[str]:
    return [one for one in asked.get(name, "").split(",") if one.isidentifier()]
