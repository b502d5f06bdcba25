"""HTTP/1.1 connections with deadlines: what uvicorn leaves open, closed.

uvicorn waits for ever for a first request, for the end of a request's head and for a client that does not read, and answers
broken HTTP with plain text. Here a head that is not complete in time closes the connection, one whose client takes nothing of
what waits for it is cut, and what cannot be parsed is answered in the same envelope as everything else. Connections are counted: where
there are too many, the one that has longest asked nothing makes room, be it that it never did or that its last answer is long over, so
that whoever opens a thousand keeps nobody out. No answer is cut for another connection.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from luthier.server.errors import ApiError

_BROKEN = ApiError(400, "invalid_http", "This is not a valid HTTP/1.1 request, or its head is too long.")
_CROWDED = ApiError(
    503, "too_many_connections", "Too many connections are open.", headers={"retry-after": "1"}
)


def protocol(head_timeout_s: float, read_timeout_s: float, most_connections: int) -> type[H11Protocol]:
    """The protocol class for `uvicorn.Config(http=...)`. `read_timeout_s`: how long an answer may wait in our buffer for its client."""

    silent: dict[Deadlines, None] = {}  # those of whom nothing is under way, the longest silent first
    leaving: set[Deadlines] = set()  # cut, and still counted by uvicorn

    class Deadlines(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _cut: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) - len(leaving) > most_connections:
                oldest = next((one for one in silent if not one.transport.get_write_buffer_size()), None)
                if oldest is None:
                    self._close_with(_CROWDED)
                    return
                del silent[oldest]
                leaving.add(oldest)
                oldest.transport.abort()
            silent[self] = None
            self._expect_head()

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete:
                silent.pop(self, None)
                self._forget_deadline()

        def on_response_complete(self) -> None:
            self._expect_head()
            if not self.transport.is_closing():
                silent[self] = None  # what it has asked meanwhile takes it out again
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._cut_soon()

        def resume_writing(self) -> None:
            if not self.transport.is_closing():
                self._forget_cut()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            self._cut_soon()
            super().timeout_keep_alive_handler()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_deadline()
            self._forget_cut()
            silent.pop(self, None)
            leaving.discard(self)
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._close_with(_BROKEN)

        def _expect_head(self) -> None:
            self._forget_deadline()
            self._deadline = self.loop.call_later(head_timeout_s, self._hang_up)

        def _hang_up(self) -> None:
            self._cut_soon()
            self.transport.close()

        def _cut_soon(self) -> None:
            """Closing waits until all is read; this does not."""
            self._forget_cut()
            self._cut = self.loop.call_later(read_timeout_s, self.transport.abort)

        def _forget_cut(self) -> None:
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _close_with(self, error: ApiError) -> None:
            self.transport.write(_raw(error))
            self.transport.close()

    return Deadlines


def _raw(error: ApiError) -> bytes:
    """A whole response, for a connection on which no request could be read."""
    headers = {
        "content-type": "application/json",
        "content-length": str(len(error.body)),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in {**headers, **error.headers}.items()]
    return "\r\n".join([*lines, "", ""]).encode() + error.body
