"""One request for text from its checked body to its recorded answer, whole or as a stream, whatever dialect it is told in.

No answer leaves unrecorded: the record is made before the last byte is sent, and an answer that cannot be recorded
ends in an error. A stream that broke off after something was said is recorded too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from luthier.models.call_form import CallForm
from luthier.server.answer import Choice, Shape, total
from luthier.server.asking import LATE, Asking
from luthier.server.calls import CallReader, with_calls
from luthier.server.errors import ApiError, from_engine
from luthier.server.exchange import Answered, Exchange, Said, hash_answer, hash_text
from luthier.server.router import Again, Ending, Lease
from luthier.server.run import ClientGone, ahead, chunks_of, while_connected
from luthier.server.screen import Screen, screened
from luthier.server.served import ServedModel
from luthier.server.tools import Tool
from luthier.serving.abilities import CallsFunctions
from luthier.serving.engine import Chunk, Message, Refused, Request

logger = logging.getLogger("luthier.server")

HUNG_S = 10.0
"""An engine that says nothing for so long before its answer is given up counts as failed; one that was at it for so long, as slow."""
ITS_OWN = 0.9
"""The share of the server's deadline that an engine must have had to itself for its passing to be a failure of the engine."""


class Asked(Protocol):
    """A checked body that asks for text."""

    @property
    def stream(self) -> bool | None: ...

    @property
    def user(self) -> str | None: ...

    @property
    def store(self) -> bool | None: ...

    @property
    def parallel_tool_calls(self) -> bool | None: ...

    @property
    def count(self) -> int:
        """How many answers in all."""

    @property
    def of_a_prompt(self) -> int:
        """How many of them in a row answer the same prompt."""

    @property
    def offered(self) -> tuple[Tool, ...]: ...

    @property
    def prompt_sha256(self) -> str: ...

    @property
    def kept(self) -> tuple[Sequence[Message], Sequence[Mapping[str, Any]]] | None:
        """What traffic may keep of what was asked, and the functions that have a part in it; None: nothing of this exchange is kept."""

    def request(self, index: int) -> Request: ...


Piece = tuple[int, Chunk, bool]
"""Which answer, its next chunk, whether it is that answer's first."""


class Answering(Response):
    """A response that makes its answer when it is sent, and stops when nobody listens any more."""

    def __init__(self, body: Asked, lease: Lease, shape: Shape, asking: Asking) -> None:
        super().__init__()
        self._body = body
        self._lease = lease
        self._model = model = lease.model
        self._shape = shape
        self._asking = asking
        self._asked: list[Request] = []
        self._first_s: float | None = None
        self._held_s = 0.0
        self._choices: list[Choice] = []
        """What has been told of each answer."""
        self._made: list[Choice] = []
        """What the engine has made of each, which may be more."""
        self._slot_s: float | None = None
        self._silent_s = 0.0
        self._failed = self._late = False
        if body.offered and not isinstance(model.engine, CallsFunctions):
            message = "This model's engine does not call tools."
            raise ApiError(400, "unsupported_parameter", message, param="tools")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._body.stream:
                await while_connected(receive, self._stream(send))
            else:
                whole = await while_connected(receive, self._whole())
                await JSONResponse(whole)(scope, receive, send)
        except ClientGone:
            logger.info("%s: the client hung up", self._asking.request_id)
        finally:
            self._lease.end(self._ending())

    def _ending(self) -> Ending | None:
        """What this request says of the model that had it."""
        if self._slot_s is None:
            return None
        whole = [
            choice for choice in self._made if choice.last is not None and choice.last.finish is not None
        ]
        if len(whole) < self._body.count:
            return self._given_up()
        return Ending(
            False,
            self._held_s,
            refused=any(choice.refusal for choice in whole),
            sha256=hash_answer(whole[0].text, whole[0].calls),
            again=self._again(),
        )

    def _again(self) -> Again | None:
        """The same for another version, through guards that count nothing of this request."""
        if self._body.count != 1:
            return None
        body, request, screen = self._body, self._asked[0], self._asking.screen.anew()

        async def read(
            model: ServedModel, chunks: AsyncGenerator[Chunk, None]
        ) -> AsyncGenerator[Chunk, None]:
            form = await _call_form(body, model)
            async with aclosing(_read(chunks, request, form, screen, body)) as all_of_it:
                async for chunk in all_of_it:
                    yield chunk

        return Again(request, read)

    def _given_up(self) -> Ending | None:
        """Of an answer that is not whole. A client that left, and a deadline, say something of the engine only where it had long enough:
        of a version that hangs nobody ever gets more than that."""
        limit_s = self._asking.server_deadline_s
        overdue = self._late and limit_s is not None and self._held_s >= ITS_OWN * limit_s
        if self._failed or overdue or self._silent_s >= HUNG_S:
            return Ending(True, self._held_s, again=self._again())
        return Ending(False, self._held_s) if self._held_s >= HUNG_S else None

    async def _whole(self) -> dict[str, Any]:
        try:
            async with self._asking.in_time(), aclosing(self._chunks()) as chunks:
                async for piece in chunks:
                    self._take(piece)
        except Exception as error:
            raise self._told(error) from error
        await self._record()
        return self._shape.whole(self._choices)

    async def _stream(self, send: Send) -> None:
        """The first chunk decides the status: what is refused or fails before it is an ordinary error. The slot is given back once the
        engine is done, whether or not the client has read so far."""
        async with aclosing(ahead(self._chunks())) as chunks:
            try:
                async with self._asking.in_time():
                    first = await anext(chunks)
            except Exception as error:
                raise self._told(error) from error
            started = Response(media_type="text/event-stream")
            del started.headers["content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": started.raw_headers})
            try:
                async with self._asking.in_time():
                    await self._send(self._shape.piece(*self._take(first)), send)
                    async for piece in chunks:
                        await self._send(self._shape.piece(*self._take(piece)), send)
            except asyncio.CancelledError:
                await chunks.aclose()
                await self._record("cancelled")
                raise
            except Exception as error:
                await chunks.aclose()  # the slot is free before anything more is sent, and its cost is known
                told = self._told(error)
                self._asking.broke(told.code)
                await self._record("failed")
                await self._send(self._shape.broken(told, self._choices), send, more=False)
                return
        try:
            await self._record()
        except ApiError as error:
            self._asking.broke(error.code)
            await self._send(self._shape.broken(error, self._choices), send, more=False)
            return
        await self._send(self._shape.end(self._choices), send, more=False)

    @staticmethod
    async def _send(body: bytes, send: Send, *, more: bool = True) -> None:
        if body or not more:
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def _take(self, piece: Piece) -> Piece:
        """The piece, which is told now."""
        index, chunk, is_first = piece
        if is_first:
            self._choices.append(Choice())
        self._choices[index].add(chunk)
        return piece

    async def _chunks(self) -> AsyncGenerator[Piece, None]:
        """One answer after the other, in one slot."""
        self._asked = requests = await self._requests()
        async with self._model.admission.slot(self._asking.key.id):
            self._slot_s = heard_s = time.monotonic()
            try:
                form = await _call_form(self._body, self._model)
                for index, request in enumerate(requests):
                    choice = Choice()
                    self._made.append(choice)
                    is_first = True
                    async with aclosing(self._said(request, form)) as chunks:
                        async for chunk in chunks:
                            heard_s = time.monotonic()
                            if self._first_s is None:
                                self._first_s = heard_s - self._asking.started_s
                            choice.add(chunk)
                            yield index, chunk, is_first
                            is_first = False
            finally:
                now_s = time.monotonic()
                self._held_s, self._silent_s = now_s - self._slot_s, now_s - heard_s

    async def _requests(self) -> list[Request]:
        """One for each answer, each prompt as the guards leave it, who see it once."""
        requests: list[Request] = []
        for index in range(self._body.count):
            request = self._body.request(index)
            if index % self._body.of_a_prompt == 0:
                read = await self._asking.screen.asked(request)
            requests.append(
                replace(
                    request, messages=read.messages, prompt=read.prompt, cache_salt=self._asking.cache_salt
                )
            )
        return requests

    def _said(self, request: Request, form: CallForm | None) -> AsyncGenerator[Chunk, None]:
        chunks = chunks_of(self._model.engine, request, self._model.threads)
        return _read(chunks, request, form, self._asking.screen, self._body)

    def _told(self, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            self._late = error.code == LATE
            return error
        self._failed = not isinstance(error, Refused)
        return from_engine(error, self._asking.request_id, self._model.name)

    async def _record(self, broken: str = "") -> None:
        """Raises ApiError 500 if the record cannot be made. `broken` is how an unfinished answer ended."""
        exchange = self._exchange(broken)
        await self._asking.record(exchange, may_fail=bool(broken))
        kept = self._body.kept
        if kept is not None and self._body.store is not False and not broken:
            answers = [
                Answered(None if choice.refusal else choice.text, choice.refusal, choice.calls)
                for choice in self._choices
            ]
            await self._asking.keep(exchange, Said(kept[0], answers, kept[1]), bool(self._body.store))

    def _exchange(self, broken: str) -> Exchange:
        usage = total(self._choices, self._body.of_a_prompt)
        last = self._choices[0].last
        user = self._body.user
        return Exchange(
            id=self._shape.id,
            request_id=self._asking.request_id,
            model=self._model.name,
            package_digest=self._model.package_digest,
            release=self._model.release,
            key_id=self._asking.key.id,
            user_sha256=None if user is None else hash_text(user),
            prompt_sha256=self._body.prompt_sha256,
            answers_sha256=tuple(hash_answer(choice.text, choice.calls) for choice in self._choices),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            finish=tuple(_ending(choice, broken) for choice in self._choices),
            probability=last.probability if last else None,
            first_token_s=self._first_s,
            latency_s=time.monotonic() - self._asking.started_s,
            streamed=bool(self._body.stream),
            cost=self._model.cost(self._held_s),
            guarded=tuple(self._asking.screen.hits),
        )


def _read(
    chunks: AsyncGenerator[Chunk, None], request: Request, form: CallForm | None, screen: Screen, body: Asked
) -> AsyncGenerator[Chunk, None]:
    """The engine's chunks, through the guards and with calls read out of them."""
    if screen.holds_answers:
        chunks = screened(chunks, screen, request)
    if body.offered:
        names = [tool.function.name for tool in body.offered]
        chunks = with_calls(chunks, CallReader(form, names, one=body.parallel_tool_calls is False))
    return chunks


async def _call_form(body: Asked, model: ServedModel) -> CallForm | None:
    """How this model writes calls, where tools are offered to it."""
    if not body.offered:
        return None
    engine = model.engine
    if not isinstance(engine, CallsFunctions):
        raise Refused("This model's engine does not call tools.", param="tools", code="unsupported_parameter")
    return await asyncio.get_running_loop().run_in_executor(model.threads, engine.call_form)


def _ending(choice: Choice, broken: str) -> str:
    if choice.last is None or choice.last.finish is None:
        return broken
    if choice.calls:
        return "tool_calls"
    return "refused" if choice.refusal else choice.last.finish
