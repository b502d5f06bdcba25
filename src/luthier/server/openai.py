"""OpenAI's chat protocol: the endpoints, and the app that holds them.

`create_app` starts nothing and loads nothing: engines come loaded, `serve` opens the port.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError, missing_part

try:
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    raise missing_part(error.name or "fastapi", "serve", "The HTTP server") from error

from luthier.core.artifact import short
from luthier.server.answer import Shape
from luthier.server.answering import Answering, Asked
from luthier.server.asking import DEADLINE, Asking, deadline_of
from luthier.server.body import read_json
from luthier.server.chat import ChatShape
from luthier.server.completions import CompletionShape, parse_completion
from luthier.server.description import describe
from luthier.server.embeddings import Embedding, parse_embedding
from luthier.server.errors import ApiError
from luthier.server.exchange import OnExchange, Traffic
from luthier.server.guard import Envelope, Guard
from luthier.server.keys import Key, Opens, Sessions
from luthier.server.metrics import CONTENT_TYPE, Metrics
from luthier.server.pulse import Pulse
from luthier.server.rates import Rate, Rates
from luthier.server.response_events import ResponseShape
from luthier.server.responses import parse_response
from luthier.server.router import Asker, Fixed, Lease, Router
from luthier.server.routes import TABLE, Part
from luthier.server.screen import NO_GUARD, GuardSpec, Screen
from luthier.server.served import ServedModel
from luthier.server.status import page
from luthier.server.watch import Beside, Observer, Watch
from luthier.server.wire import StreamOptions, parse, parse_feedback
from luthier.serving.abilities import Continues

OURS = "/luthier/"
"""Of routes that are no other's dialect: there a parameter that says nothing is refused."""
Afford = Callable[[Key], Awaitable[None]]
"""Whether whoever has the key may have another answer. Raises ApiError."""


@dataclass(frozen=True)
class Limits:
    """What one request may take, and one key. `body_timeout_s` counts from its headers to its last byte."""

    body_bytes: int = 1_000_000
    body_timeout_s: float = 30.0
    answer_s: float | None = None
    """How long an answer may take, from the whole request read; a request may ask for less (x-luthier-deadline-s)."""
    rate: Rate | None = None
    """How many answers of models a key may ask for."""
    calls: Rate | None = None
    """How many requests a key may make of everything else that a part brings."""
    together: Rate | None = None
    """How many requests all keys of one project may make, of whatever kind."""


def create_app(
    models: Mapping[str, ServedModel],
    keys: Opens,
    *,
    allowed_hosts: Collection[str] = (),
    on_exchange: OnExchange | None = None,
    traffic: Traffic | None = None,
    limits: Limits = Limits(),
    guard: GuardSpec = NO_GUARD,
    observers: Sequence[Observer] = (),
    parts: Sequence[Part] = (),
    sessions: Sessions | None = None,
    afford: Afford | None = None,
    beside: Sequence[Beside] = (),
) -> FastAPI:
    """The ASGI app.

    `models` says which engine answers a name: a mapping, looked up at each request, or a Router. `on_exchange` is
    called in a thread, once for each answered request, before the answer is complete; if it raises, the client gets
    an error instead of the end of the answer. `traffic` keeps what is said and takes what people say of it; without it neither
    is possible. `guard` is what is not passed on, in either direction. `observers` are told of each request when it is over, beside
    the metrics and the status page; one that has a `close` is closed with the app. `parts`: further routes, each with what answers
    them. `sessions`: who came by a login, beside `keys`. `afford`: asked before a model is; what it raises is the answer. `beside`: what else the server does,
    whose state the status page and the metrics show.
    """

    router = models if isinstance(models, Router) else Fixed(models)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        router.close()
        for observer in observers:
            if (close := getattr(observer, "close", None)) is not None:
                await asyncio.to_thread(close)

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        title="Luthier",
    )
    metrics, pulse = Metrics(router, beside), Pulse(router, beside=beside)
    endpoints = _Endpoints(router, on_exchange, traffic, limits, guard, metrics, pulse, parts, afford)
    for part in (Part(TABLE, endpoints), *parts):
        for route in part.routes:
            endpoint = getattr(part.endpoints, route.endpoint)
            said = part.described.get(route.endpoint)
            plain = route.path.startswith(OURS) and not (said and said.query)
            app.add_api_route(
                route.path,
                endpoint,
                methods=[route.method],
                response_model=None,
                dependencies=[Depends(_ask_nothing)] if plain else (),
            )
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(HTTPException, _tell_router)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    rates, calls, together = (
        None if rate is None else Rates(rate) for rate in (limits.rate, limits.calls, limits.together)
    )
    routes = [*TABLE, *(route for part in parts for route in part.routes)]
    app.add_middleware(
        Guard, keys=keys, allowed_hosts=allowed_hosts, rates=rates, routes=routes, sessions=sessions, calls=calls, together=together
    )  # fmt: skip
    app.add_middleware(Envelope, watch=Watch([metrics, pulse, *observers]))
    return app


class _Endpoints:
    """One method for each row of `routes.TABLE`."""

    def __init__(
        self,
        router: Router,
        on_exchange: OnExchange | None,
        traffic: Traffic | None,
        limits: Limits,
        guard: GuardSpec,
        metrics: Metrics,
        pulse: Pulse,
        parts: Sequence[Part] = (),
        afford: Afford | None = None,
    ) -> None:
        self._parts = parts
        self._router = router
        self._on_exchange = on_exchange
        self._traffic = traffic
        self._limits = limits
        self._guard = guard
        self._metrics = metrics
        self._pulse = pulse
        self._afford = afford

    async def health(self) -> JSONResponse:
        """Of what answers. A candidate that is not ready takes nobody's server away: the rule takes it back, and metrics tell of it."""
        ready = all(model.engine.health().ready for model in self._router.values())
        return JSONResponse({"status": "ok" if ready else "not ready"}, 200 if ready else 503)

    async def metrics(self) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def description(self) -> JSONResponse:
        return JSONResponse(describe(self._router, self._parts))

    async def status_page(self) -> Response:
        return page("status.html")

    async def status_file(self, name: str) -> Response:
        return page(name)

    async def status_data(self) -> JSONResponse:
        return JSONResponse(self._pulse.plain())

    async def list_models(self, request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": await self._router.listing(_asker(request))})

    async def get_model(self, request: Request, model_id: str) -> JSONResponse:
        return JSONResponse(await self._router.described(model_id, _asker(request)))

    async def chat_completions(self, request: Request) -> Response:
        await self._affords(request)
        body = parse(await self._read(request))
        if body.store and self._traffic is None:
            message = "This server keeps nothing of what is said (it was started without --capture); leave store out."
            raise ApiError(400, "unsupported_parameter", message, param="store")

        def shape(model: ServedModel) -> ChatShape:
            return ChatShape(
                id=_id("chatcmpl-"),
                created_s=int(time.time()),
                model=model.name,
                fingerprint=short(model.package_digest),
                with_logprobs=bool(body.logprobs),
                with_usage=_with_usage(body.stream_options),
            )

        return await self._answering(request, body, body.model, shape)

    async def completions(self, request: Request) -> Response:
        await self._affords(request)
        body = parse_completion(await self._read(request))

        def shape(model: ServedModel) -> CompletionShape:
            if not (isinstance(model.engine, Continues) and model.engine.continues_text):
                message = f"{body.model!r} does not go on from plain text here; ask /v1/chat/completions."
                raise ApiError(400, "unsupported_model", message, param="model")
            return CompletionShape(
                id=_id("cmpl-"),
                created_s=int(time.time()),
                model=model.name,
                fingerprint=short(model.package_digest),
                of_a_prompt=body.of_a_prompt,
                with_logprobs=body.logprobs is not None,
                with_usage=_with_usage(body.stream_options),
            )

        return await self._answering(request, body, body.model, shape)

    async def responses(self, request: Request) -> Response:
        await self._affords(request)
        body = parse_response(await self._read(request))
        return await self._answering(
            request, body, body.model, lambda _: ResponseShape(_id("resp_"), int(time.time()), body)
        )

    async def embeddings(self, request: Request) -> Response:
        await self._affords(request)
        body = parse_embedding(await self._read(request))
        lease = await self._take(request, body.model, body.user)
        return Embedding(body, lease, _id("embd-"), self._asking(request))

    async def _answering(
        self, request: Request, body: Asked, name: str, shape: Callable[[ServedModel], Shape]
    ) -> Answering:
        """Of the version that this asker gets. Raises ApiError for what it cannot do."""
        lease = await self._take(request, name, body.user)
        return Answering(body, lease, shape(lease.model), self._asking(request))

    async def feedback(self, request: Request) -> JSONResponse:
        told = parse_feedback(await self._read(request))
        try:
            kept = self._traffic is not None and await asyncio.to_thread(
                self._traffic.judge,
                told.id,
                request.state.key,
                choice=told.choice,
                rating=told.rating,
                correction=told.correction,
                comment=told.comment,
                calls=[one.plain() for one in told.tool_calls or ()] or None,
            )
        except DataError as error:
            raise ApiError(400, "invalid_value", error.message, param="tool_calls") from None
        if not kept:
            message = "No such answer to this key is kept here; it may have been left out, or removed since."
            raise ApiError(404, "exchange_not_found", message, param="id")
        return JSONResponse({"object": "feedback", "id": told.id, "choice": told.choice})

    async def _affords(self, request: Request) -> None:
        if self._afford is not None:
            await self._afford(request.state.key)

    async def _read(self, request: Request) -> dict[str, Any]:
        return await read_json(request, self._limits.body_bytes, self._limits.body_timeout_s)

    def _asking(self, request: Request) -> Asking:
        return Asking(
            request.scope["state"],
            on_exchange=self._on_exchange,
            traffic=self._traffic,
            screen=Screen(self._guard),
            deadline_s=deadline_of(request.headers.get(DEADLINE)),
            server_deadline_s=self._limits.answer_s,
        )

    async def _take(self, request: Request, name: str, user: str | None) -> Lease:
        """The model that answers this request; the envelope sees to it that it is given back."""
        wait_s = deadline_of(request.headers.get(DEADLINE)) or self._limits.answer_s
        lease = request.state.lease = await self._router.lease(name, _asker(request, user), wait_s)
        return lease


def _asker(request: Request, user: str | None = None) -> Asker:
    key = request.state.key
    return Asker(key.id, user, request.headers.get("x-luthier-variant"), caller=key.caller)


def _id(kind: str) -> str:
    return f"{kind}{secrets.token_hex(12)}"


def _with_usage(options: StreamOptions | None) -> bool:
    return bool(options and options.include_usage)


async def _ask_nothing(request: Request) -> None:
    """Raises ApiError 400 for anything behind the question mark."""
    if name := next(iter(request.query_params), None):
        shown = name[:40]
        raise ApiError(400, "unknown_parameter", f"There is no parameter {shown!r} here.", param=shown)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope["state"]["code"] = error.code
    return Response(error.body, error.status, error.headers, "application/json")


async def _tell_router(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        message = f"{request.url.path} does not take {request.method}."
        return await _tell(request, ApiError(405, "method_not_allowed", message, headers=allowed))
    return await _tell(request, ApiError(error.status_code, "unknown_route", str(error.detail)))


async def _tell_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # the client left while it was still sending; this goes nowhere
