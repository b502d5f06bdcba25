"""One chat request from its checked body to its recorded answer, whole or as a stream.

No answer leaves unrecorded: the record is made before the last byte is sent, and an answer that cannot be recorded
ends in an error. A stream that broke off after something was said is recorded too.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from luthier.core.artifact import short
from luthier.server.answer import DONE, Choice, Frame, server_sent, total
from luthier.server.errors import ApiError, from_engine
from luthier.server.exchange import Exchange, OnExchange, Said, Traffic, hash_prompt, hash_text
from luthier.server.keys import Key
from luthier.server.router import Ending, Lease
from luthier.server.run import ClientGone, chunks_of, while_connected
from luthier.server.wire import ChatBody
from luthier.serving.engine import Chunk, Refused

logger = logging.getLogger("luthier.server")


class Answering(Response):
    """A response that makes its answer when it is sent, and stops when nobody listens any more."""

    def __init__(
        self,
        body: ChatBody,
        lease: Lease,
        *,
        request_id: str,
        key: Key,
        on_exchange: OnExchange | None,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__()
        self._body = body
        self._lease = lease
        self._model = model = lease.model
        self._request_id = request_id
        self._key = key
        self._on_exchange = on_exchange
        self._traffic = traffic
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        self._choices: list[Choice] = []
        self._slot_s: float | None = None
        self._took_s: float | None = None
        self._failed = False
        self._frame = Frame(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created_s=int(time.time()),
            model=model.name,
            fingerprint=short(model.package_digest),
            with_logprobs=bool(body.logprobs),
            with_usage=bool(body.stream_options and body.stream_options.include_usage),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "x-luthier-release": self._model.release or self._model.package_digest,
            **self._lease.headers,
        }
        try:
            if self._body.stream:
                await while_connected(receive, self._stream(headers, send))
            else:
                completion = await while_connected(receive, self._whole())
                await JSONResponse(completion, headers=headers)(scope, receive, send)
        except ClientGone:
            logger.info("%s: the client hung up", self._request_id)
        finally:
            self._lease.end(self._ending())

    def _ending(self) -> Ending | None:
        """What this request says of the model that had it."""
        if self._slot_s is None:
            return None
        seconds = time.monotonic() - self._slot_s
        whole = [
            choice for choice in self._choices if choice.last is not None and choice.last.finish is not None
        ]
        if len(whole) < self._body.count:
            return Ending(True, seconds) if self._failed else None
        return Ending(
            False,
            self._took_s or seconds,
            refused=any(choice.refusal for choice in whole),
            sha256=hash_text(whole[0].text),
            request=self._body.request(0) if self._body.count == 1 else None,
        )

    async def _whole(self) -> dict[str, Any]:
        try:
            async with aclosing(self._chunks()) as chunks:
                async for _ in chunks:
                    pass
        except ApiError:
            raise
        except Exception as error:
            raise self._told(error) from error
        await self._record()
        return self._frame.completion(self._choices)

    async def _stream(self, headers: dict[str, str], send: Send) -> None:
        """The first chunk decides the status: what is refused or fails before it is an ordinary error."""
        async with aclosing(self._chunks()) as chunks:
            try:
                first = await anext(chunks)
            except ApiError:
                raise
            except Exception as error:
                raise self._told(error) from error
            started = Response(media_type="text/event-stream", headers=headers)
            del started.headers["content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": started.raw_headers})
            try:
                await self._send_pieces(first, send)
                async for piece in chunks:
                    await self._send_pieces(piece, send)
            except asyncio.CancelledError:
                await self._record("cancelled")
                raise
            except Exception as error:
                told = self._told(error)
                await self._record("failed")
                await send({"type": "http.response.body", "body": server_sent(told.envelope)})
                return
        try:
            await self._record()
        except ApiError as error:
            await send({"type": "http.response.body", "body": server_sent(error.envelope)})
            return
        ending = server_sent(self._frame.usage(self._choices)) if self._frame.with_usage else b""
        await send({"type": "http.response.body", "body": ending + DONE})

    async def _send_pieces(self, piece: tuple[int, Chunk, bool], send: Send) -> None:
        index, chunk, is_first = piece
        messages = [self._frame.opening(index)] if is_first else []
        messages += self._frame.piece(index, chunk)
        if messages:
            body = b"".join(server_sent(message) for message in messages)
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _chunks(self) -> AsyncGenerator[tuple[int, Chunk, bool], None]:
        """(which answer, its next chunk, whether it is that answer's first): one answer after the other, in one slot."""
        async with self._model.admission.slot():
            self._slot_s = time.monotonic()
            for index in range(self._body.count):
                choice = Choice()
                self._choices.append(choice)
                request = self._body.request(index)
                is_first = True
                async with aclosing(chunks_of(self._model.engine, request, self._model.threads)) as chunks:
                    async for chunk in chunks:
                        if self._first_s is None:
                            self._first_s = time.monotonic() - self._started_s
                        choice.add(chunk)
                        yield index, chunk, is_first
                        is_first = False
            self._took_s = time.monotonic() - self._slot_s

    def _told(self, error: Exception) -> ApiError:
        told = from_engine(error, self._request_id)
        self._failed = not isinstance(error, Refused)
        if told.status >= 500:
            logger.error("%s: the engine of %r failed", self._request_id, self._model.name, exc_info=error)
        return told

    async def _record(self, broken: str = "") -> None:
        """Raises ApiError 500 if the record cannot be made. `broken` is how an unfinished answer ended."""
        exchange = self._exchange(broken)
        await self._recorded(exchange, broken)
        if self._traffic is not None and self._body.store is not False and not broken:
            await asyncio.shield(asyncio.to_thread(self._keep, exchange))

    async def _recorded(self, exchange: Exchange, broken: str) -> None:
        if self._on_exchange is None:
            return
        try:
            # shielded: a client that leaves now must not stop the record of what it has heard
            await asyncio.shield(asyncio.to_thread(self._on_exchange, exchange))
        except Exception as error:
            logger.exception("%s: the exchange could not be recorded", self._request_id)
            if broken:  # nothing can be told to the client any more
                return
            message = (
                f"The answer could not be recorded, so it was not completed. Its id is {self._request_id}."
            )
            raise ApiError(500, "not_recorded", message) from error

    def _keep(self, exchange: Exchange) -> None:
        assert self._traffic is not None
        said = Said(
            self._body.request(0).messages,
            [(None if choice.refusal else choice.text, choice.refusal) for choice in self._choices],
        )
        try:
            self._traffic.keep(exchange, said, bool(self._body.store))
        except Exception:
            logger.exception("%s: what was said could not be kept", self._request_id)

    def _exchange(self, broken: str) -> Exchange:
        usage = total(self._choices)
        last = self._choices[0].last
        user = self._body.user
        return Exchange(
            id=self._frame.id,
            request_id=self._request_id,
            model=self._model.name,
            package_digest=self._model.package_digest,
            release=self._model.release,
            key_id=self._key.id,
            user_sha256=None if user is None else hash_text(user),
            prompt_sha256=hash_prompt(self._body.request(0).messages),
            answers_sha256=tuple(hash_text(choice.text) for choice in self._choices),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            finish=tuple(_ending(choice, broken) for choice in self._choices),
            probability=last.probability if last else None,
            first_token_s=self._first_s,
            latency_s=time.monotonic() - self._started_s,
            streamed=bool(self._body.stream),
        )


def _ending(choice: Choice, broken: str) -> str:
    if choice.last is None or choice.last.finish is None:
        return broken
    return "refused" if choice.refusal else choice.last.finish
