"""A job as it goes on: what it tells, its progress and its end, as server-sent events.

    id: 17            event: told       data: {"time_s", "level", "message", "type", "data"}
                      event: progress   data: {"what", "done", "total", ...}
                      event: end        data: the job

`?after=17` goes on behind the event 17. A job that waits is looked at once a second; nothing is held open in the records.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from luthier.server.errors import ApiError
from luthier.server.routes import Described, Route
from luthier.store.jobs import ENDED, Job

from .asked import caller, worked
from .jobs import plain

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site
    from luthier.core.event import Event

EVERY_S = 1.0
FIRST_S = 0.1
ALIVE_S = 5.0
LONGEST_S = 3600.0
"""Then the client asks again."""


class FollowRoutes:
    ROUTES: ClassVar = (Route("GET", "/luthier/v1/jobs/{job_id}/follow", "follow", "jobs.read"),)
    DESCRIBED: ClassVar = {"follow": Described("What the job tells, until it ends.", stream=True)}

    def __init__(self, site: Site) -> None:
        self._site = site

    async def follow(self, request: Request, job_id: str) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 18:
            raise ApiError(400, "invalid_value", "after is not the number of an event.", param="after")
        who = caller(request)
        await worked(self._site.jobs.get, who, job_id)
        return StreamingResponse(self._events(who, job_id, int(after)), media_type="text/event-stream")

    async def _events(self, who: Caller, job_id: str, after: int) -> AsyncIterator[bytes]:
        until, spoken, wait_s, progress = time.monotonic() + LONGEST_S, time.monotonic(), FIRST_S, None
        while time.monotonic() < until:
            job, told = await asyncio.to_thread(self._look, who, job_id, after)
            for event in told:
                after = event.seq or after
                yield _event("told", {"time_s": event.time_s, **event.data}, after)
            if job.progress is not None and job.progress != progress:
                progress = job.progress
                yield _event("progress", progress)
            if job.state in ENDED:
                yield _event("end", plain(job))
                return
            if told:
                spoken, wait_s = time.monotonic(), FIRST_S
            elif time.monotonic() - spoken > ALIVE_S:
                spoken = time.monotonic()
                yield b": still there\n\n"
            await asyncio.sleep(wait_s)
            wait_s = min(EVERY_S, wait_s * 2)

    def _look(self, who: Caller, job_id: str, after: int) -> tuple[Job, list[Event]]:
        """The state first: what was told before it changed is then in the events."""
        job = self._site.jobs.get(who, job_id)
        return job, list(self._site.jobs.events(who, job_id, after=after))


def _event(kind: str, data: Any, seq: int | None = None) -> bytes:
    number = "" if seq is None else f"id: {seq}\n"
    return f"{number}event: {kind}\ndata: {json.dumps(data, default=str)}\n\n".encode()
