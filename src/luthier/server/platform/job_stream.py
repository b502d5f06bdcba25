"""A job's story as server-sent events: from where the client has it (Last-Event-ID) to the job's end, with a beat in between.

id: 17
event: job.told
data: {"level": "info", "message": "Finished step 2", ...}

The last event is `job.ended`. A stream is cut after an hour, at the end of the server, or where who asked may not read the job any more;
clients ask again with the last id that they have. What a stream has missed it reads from the records; from then on the records are looked at
once a second for all streams of a job together, and more seldom where many follow it. Their number is bounded, in all and for each project.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from luthier.core.errors import LuthierError
from luthier.core.event import Event
from luthier.server.errors import ApiError
from luthier.store.jobs import ENDED, Job

from .asked import worked
from .lanes import COMMON

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

MOST_STREAMS, MOST_OF_A_PROJECT = 1_000, 200
LOOK_S = 1.0
STILL_S = 5.0
"""How often it is asked, as he is woken, whether a reader who is told nothing may still read; before he is told something it is always asked."""
FOLLOWED_AT_ONCE = 50
"""A job that more follow is looked at more seldom, so that about so many are told something in LOOK_S."""
EARLY_S = 0.005
"""So much sooner than asked a timer may ring."""
MOST_FAILED = 5
"""After so many looks in vain, one after the other, a stream ends."""
BEAT_S = 15.0
LONGEST_S = 3600.0
PAGE = 200


class Told(NamedTuple):
    """An event as every stream sends it."""

    seq: int
    piece: bytes


@dataclass
class Tail:
    """The end of a job's story, as streams of it share it: `told` holds all events behind `since`, and `whole` says that there were no more
    when it was last looked."""

    job: Job
    since: int
    told: list[Told] = field(default_factory=list)
    whole: bool = True
    looked_s: float = -math.inf
    due_s: float = 0.0
    looking: asyncio.Task[None] | None = None
    readers: int = 0
    tick: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        """At most so long; whoever waits meanwhile is woken together with this one, so that what all do next is done in one go."""
        if self.tick is None or self.tick.done():
            loop = asyncio.get_running_loop()
            self.tick, self.due_s = loop.create_future(), time.monotonic() + seconds - EARLY_S
            loop.call_later(seconds, self.tick.set_result, None)
        await asyncio.shield(self.tick)  # a reader who leaves wakes nobody

    def grow(self, job: Job, told: list[Told]) -> None:
        self.job, self.whole = job, len(told) < PAGE
        self.told += told
        if (over := len(self.told) - PAGE) > 0:
            self.since = self.told[over - 1].seq
            del self.told[:over]


class Streams:
    """Open ones are counted. `look_s` and `beat_s`: how often it is looked, and how long nothing may be sent."""

    def __init__(
        self, site: Site, *, look_s: float = LOOK_S, beat_s: float = BEAT_S, longest_s: float = LONGEST_S
    ) -> None:
        self._site = site
        self._look_s, self._beat_s, self._longest_s = look_s, beat_s, longest_s
        self._open: Counter[str | None] = Counter()
        self._tails: dict[str, Tail] = {}

    async def open(
        self, who: Caller, job_id: str, after: int, still: Callable[[], Awaitable[bool]]
    ) -> StreamingResponse:
        """`still`: whether who asks may go on. Raises ApiError 404, and 429 where too many are open."""
        await worked(self._site.jobs.get, who, job_id)
        after = min(
            after, await worked(self._site.store.jobs.newest, job_id)
        )  # nobody has heard what was not told yet
        if self._open.total() >= MOST_STREAMS or self._open[who.project] >= MOST_OF_A_PROJECT:
            raise ApiError(
                429,
                "too_many_streams",
                f"{MOST_STREAMS} streams are open, or {MOST_OF_A_PROJECT} of the project. Try again soon.",
                headers={"retry-after": "10"},
            )
        return _Counted(self._pieces(who, job_id, after, still), self._open, who.project)

    async def _pieces(
        self, who: Caller, job_id: str, after: int, still: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        began_s = sent_s = time.monotonic()
        asked_s, failed = -math.inf, 0
        tail: Tail | None = None
        try:
            while (now := time.monotonic()) - began_s < self._longest_s:
                try:
                    job, told, whole = await self._next(tail, who, job_id, after)
                    if told or job.state in ENDED or now - asked_s >= STILL_S:
                        asked_s = now
                        if not await still():
                            return
                except (ApiError, LuthierError):  # the records are away, for all streams at once
                    if (failed := failed + 1) >= MOST_FAILED:
                        return  # the client asks again with what it has
                    await asyncio.sleep(self._look_s)
                    continue
                failed = 0
                if told:
                    after = told[-1].seq
                    yield b"".join(one.piece for one in told)
                    sent_s = time.monotonic()
                if not whole:
                    continue
                if job.state in ENDED:
                    yield _piece("job.ended", {"job": job.id, "state": job.state, "error": job.error}, None)
                    return
                if tail is None:
                    tail = self._tails.setdefault(job_id, Tail(job, after))
                    tail.readers += 1
                if time.monotonic() - sent_s >= self._beat_s:
                    yield b": beat\n\n"
                    sent_s = time.monotonic()
                await tail.wait(self._pause_s(tail))
        finally:
            if tail is not None:
                tail.readers -= 1
                if not tail.readers:
                    self._tails.pop(job_id, None)

    async def _next(
        self, tail: Tail | None, who: Caller, job_id: str, after: int
    ) -> tuple[Job, list[Told], bool]:
        """The job, what it told behind `after`, and whether that is all."""
        if tail is not None and after >= tail.since:
            if tail.looked_s < tail.due_s <= time.monotonic() or not tail.whole:
                tail.looking = tail.looking or asyncio.create_task(self._grow(tail, who))
                await asyncio.shield(tail.looking)  # a reader who leaves ends nothing for the others
            if after >= tail.since:
                return tail.job, [one for one in tail.told if one.seq > after], tail.whole
        job, told = await COMMON.run(self._look, who, job_id, after)
        return job, told, len(told) < PAGE

    def _pause_s(self, tail: Tail) -> float:
        return self._look_s * max(1.0, tail.readers / FOLLOWED_AT_ONCE)

    async def _grow(self, tail: Tail, who: Caller) -> None:
        now = time.monotonic()
        try:
            newest = tail.told[-1].seq if tail.told else None
            tail.grow(*await COMMON.run(self._look, who, tail.job.id, newest or tail.since))
            tail.looked_s = now
        finally:
            tail.looking = None

    def _look(self, who: Caller, job_id: str, after: int) -> tuple[Job, list[Told]]:
        """The job first: all that it told before it ended is then among the events."""
        job = self._site.jobs.get(who, job_id)
        events = self._site.jobs.events(who, job_id, after=after, limit=PAGE)
        return job, [_told(one) for one in events]


class _Counted(StreamingResponse):
    """Counts from when it is made, so that many that are asked for at once are not all let in, until it is over, however it ends."""

    def __init__(self, pieces: AsyncIterator[bytes], open_: Counter[str | None], project: str | None) -> None:
        super().__init__(pieces, media_type="text/event-stream")
        self._open, self._project = open_, project
        open_[project] += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._open[self._project] -= 1


def line(event: Event) -> dict[str, Any]:
    return {"object": "luthier.job.event", "seq": event.seq, "time_s": event.time_s, **event.data}


def _told(event: Event) -> Told:
    assert event.seq is not None
    return Told(event.seq, _piece("job.told", line(event), event.seq))


def _piece(kind: str, data: Any, number: int | None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
