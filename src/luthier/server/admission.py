"""Who may go in: as many answers at once as the engine has slots, a bounded number waiting, nobody else."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from luthier.server.errors import ApiError

_LONGEST_RETRY_S = 60


class Admission:
    """First come, first served, on one event loop. Leaving the queue (cancellation) is always possible."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._most = slots + waiting
        self._width = slots
        self._inside = 0
        self._typical_s = 1.0  # a running mean of how long a slot is held

    @property
    def inside(self) -> int:
        """How many hold a slot or wait for one."""
        return self._inside

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot. Raises ApiError 429 at once if too many wait already."""
        if self._inside >= self._most:
            raise ApiError(
                429,
                "queue_full",
                f"{self._inside} requests are being answered or wait, which is as many as this server takes.",
                headers={"retry-after": str(self._retry_s())},
            )
        self._inside += 1
        try:
            async with self._slots:
                started_s = time.monotonic()
                try:
                    yield
                finally:
                    self._typical_s += 0.2 * (time.monotonic() - started_s - self._typical_s)
        finally:
            self._inside -= 1

    def _retry_s(self) -> int:
        """When a place in the queue is likely to be free."""
        return max(1, min(_LONGEST_RETRY_S, math.ceil(self._typical_s / self._width)))
