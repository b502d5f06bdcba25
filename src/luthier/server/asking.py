"""What one request brings beside its body: whose it is, how long it may take, and where its record goes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from luthier.server.errors import ApiError
from luthier.server.exchange import Exchange, OnExchange, Said, Traffic
from luthier.server.keys import Key
from luthier.server.screen import Screen

logger = logging.getLogger("luthier.server")


DEADLINE = "x-luthier-deadline-s"
LATE = "deadline_exceeded"
"""The code of an answer that took too long."""
LEAST_DEADLINE_S, MOST_DEADLINE_S = 1, 86_400


def deadline_of(written: str | None) -> float | None:
    """What the header says, in seconds. Raises ApiError 400."""
    if written is None:
        return None
    try:
        asked_s = float(written)
    except ValueError:
        asked_s = math.nan
    if not LEAST_DEADLINE_S <= asked_s <= MOST_DEADLINE_S:
        message = f"The header {DEADLINE} holds seconds, from {LEAST_DEADLINE_S} to {MOST_DEADLINE_S}."
        raise ApiError(400, "invalid_value", message, param=DEADLINE)
    return asked_s


class Asking:
    """`state` is the request's: the outermost layer reads from it what to tell of the request. `deadline_s` is what the client asks for,
    `server_deadline_s` what the server allows; the earlier holds, None: none."""

    def __init__(
        self,
        state: dict[str, Any],
        *,
        on_exchange: OnExchange | None,
        traffic: Traffic | None,
        screen: Screen,
        deadline_s: float | None = None,
        server_deadline_s: float | None = None,
    ) -> None:
        self.request_id: str = state["request_id"]
        self.key: Key = state["key"]
        self.screen = screen
        self.started_s = time.monotonic()
        self._state = state
        state["screen"] = screen
        self._on_exchange = on_exchange
        self._traffic = traffic
        self.server_deadline_s = server_deadline_s
        self._deadline_s = min((s for s in (deadline_s, server_deadline_s) if s is not None), default=None)

    @property
    def cache_salt(self) -> str:
        """Of serving.engine.Request: projects do not share what an engine has read. Where there are none, one owner has all keys."""
        caller = self.key.caller
        return "" if caller is None else str(caller.project or self.key.id)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raises ApiError 504 once the deadline, counted from the whole request read, is over; what was under way is cancelled."""
        if self._deadline_s is None:
            yield
            return
        left_s = self._deadline_s - (time.monotonic() - self.started_s)
        try:
            async with asyncio.timeout(max(left_s, 0)):
                yield
        except TimeoutError:
            message = (
                f"The answer was not ready within {self._deadline_s:g} s. Nothing is under way any more."
            )
            raise ApiError(504, LATE, message, headers={"x-should-retry": "false"}) from None

    async def record(self, exchange: Exchange, *, may_fail: bool) -> None:
        """Raises ApiError 500 if the record cannot be made, unless it `may_fail`: then nothing can be told to the client any more."""
        self._state["exchange"] = exchange
        if self._on_exchange is None:
            return
        try:
            # shielded: a client that leaves now must not stop the record of what it has heard
            await asyncio.shield(asyncio.to_thread(self._on_exchange, exchange))
        except Exception as error:
            logger.exception("%s: the exchange could not be recorded", self.request_id)
            if may_fail:
                return
            message = (
                f"The answer could not be recorded, so it was not completed. Its id is {self.request_id}."
            )
            raise ApiError(500, "not_recorded", message) from error

    def broke(self, code: str) -> None:
        """An answer that had begun ended in an error."""
        self._state["code"] = code

    async def keep(self, exchange: Exchange, said: Said, asked_to: bool) -> None:
        """What was said, where anything is kept. What goes wrong does not take the answer from the client."""
        if self._traffic is not None:
            await asyncio.shield(asyncio.to_thread(self._keep, exchange, said, asked_to))

    def _keep(self, exchange: Exchange, said: Said, asked_to: bool) -> None:
        assert self._traffic is not None
        try:
            self._traffic.keep(exchange, said, asked_to, self.key)
        except Exception:
            logger.exception("%s: what was said could not be kept", self.request_id)
