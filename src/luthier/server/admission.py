"""Who may go in: as many answers at once as the engine has slots, a bounded number waiting, nobody else.

The keys take turns: whoever is next is the oldest request of the key that was served longest ago, however many requests another key
has waiting. When the queue is full, a newcomer takes the place of the newest request of the key that has most of them waiting, if
that is more than its own key would have; otherwise it is turned away itself. So a flood of one key fills only what the others
leave free.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from luthier.server.errors import ApiError

_LONGEST_RETRY_S = 60
Ticket = asyncio.Future[None]


class Admission:
    """On one event loop. Leaving the queue (cancellation) is always possible."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._width = slots
        self._longest = waiting
        self._active = 0
        self._queues: dict[str, deque[Ticket]] = {}
        """By key, in the order of their turns; no queue is empty."""
        self._typical_s = 1.0  # a running mean of how long a slot is held

    @property
    def active(self) -> int:
        """How many hold a slot."""
        return self._active

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(map(len, self._queues.values()))

    @property
    def inside(self) -> int:
        """How many hold a slot or wait for one."""
        return self._active + self.waiting

    @asynccontextmanager
    async def slot(self, who: str) -> AsyncIterator[None]:
        """Hold a slot for the key `who`. Raises ApiError 429 if too many wait already, or once others need the place more."""
        await self._enter(who)
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._typical_s += 0.2 * (time.monotonic() - started_s - self._typical_s)
            self._next()

    async def _enter(self, who: str) -> None:
        if self._active < self._width:  # then nobody waits: a slot that is given back goes to who waits
            self._active += 1
            return
        if self.waiting >= self._longest:
            self._make_room(who)
        ticket: Ticket = asyncio.get_running_loop().create_future()
        self._queues.setdefault(who, deque()).append(ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self._next()  # it was its turn in the very moment in which it left
            else:
                self._leave(who, ticket)
            raise

    def _make_room(self, who: str) -> None:
        """Raises ApiError 429 where no key has more waiting than `who` would have."""
        most = max(self._queues, key=lambda key: len(self._queues[key]), default=who)
        mine = len(self._queues.get(who, ()))
        if len(self._queues.get(most, ())) <= mine + 1:
            raise self._full()
        newest = self._queues[most][-1]
        self._leave(most, newest)
        if not newest.done():
            newest.set_exception(self._full())

    def _next(self) -> None:
        """The slot goes to the next in turn, or is free."""
        while self._queues:
            who, queue = next(iter(self._queues.items()))
            ticket = queue.popleft()
            del self._queues[who]
            if queue:
                self._queues[who] = queue  # behind the others
            if not ticket.done():  # else it has been cancelled, and is about to leave
                ticket.set_result(None)
                return
        self._active -= 1

    def _leave(self, who: str, ticket: Ticket) -> None:
        queue = self._queues.get(who)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._queues[who]

    def _full(self) -> ApiError:
        return ApiError(
            429,
            "queue_full",
            f"{self.inside} requests are being answered or wait, which is as many as this server takes.",
            headers={"retry-after": str(self._retry_s())},
        )

    def _retry_s(self) -> int:
        """When a place in the queue is likely to be free."""
        return max(1, min(_LONGEST_RETRY_S, math.ceil(self._typical_s / self._width)))
