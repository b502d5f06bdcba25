"""OpenAI's chat protocol: the endpoints, and the app that holds them.

`create_app` starts nothing and loads nothing: engines come loaded, `serve` opens the port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from luthier.core.errors import missing_part

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    raise missing_part(error.name or "fastapi", "serve", "The HTTP server") from error

from luthier.server.answering import Answering
from luthier.server.body import read_json
from luthier.server.errors import ApiError
from luthier.server.exchange import OnExchange, Traffic
from luthier.server.guard import Envelope, Guard
from luthier.server.keys import KeyRing
from luthier.server.router import Asker, Fixed, Lease, Router, unknown
from luthier.server.routes import TABLE
from luthier.server.served import ServedModel
from luthier.server.wire import parse, parse_feedback


@dataclass(frozen=True)
class Limits:
    """What one request may take. `body_timeout_s` counts from its headers to its last byte."""

    body_bytes: int = 1_000_000
    body_timeout_s: float = 30.0


def create_app(
    models: Mapping[str, ServedModel],
    keys: KeyRing,
    *,
    allowed_hosts: Collection[str] = (),
    on_exchange: OnExchange | None = None,
    traffic: Traffic | None = None,
    limits: Limits = Limits(),
) -> FastAPI:
    """The ASGI app.

    `models` says which engine answers a name: a mapping, looked up at each request, or a Router. `on_exchange` is
    called in a thread, once for each answered request, before the answer is complete; if it raises, the client gets
    an error instead of the end of the answer. `traffic` keeps what is said and takes what people say of it; without it neither
    is possible.
    """

    router = models if isinstance(models, Router) else Fixed(models)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        router.close()

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        title="Luthier",
    )
    endpoints = _Endpoints(router, on_exchange, traffic, limits)
    for route in TABLE:
        app.add_api_route(
            route.path, getattr(endpoints, route.endpoint), methods=[route.method], response_model=None
        )
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(HTTPException, _tell_router)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    app.add_middleware(Guard, keys=keys, allowed_hosts=allowed_hosts)
    app.add_middleware(Envelope)
    return app


class _Endpoints:
    """One method for each row of `routes.TABLE`."""

    def __init__(
        self,
        router: Router,
        on_exchange: OnExchange | None,
        traffic: Traffic | None,
        limits: Limits,
    ) -> None:
        self._router = router
        self._on_exchange = on_exchange
        self._traffic = traffic
        self._limits = limits

    async def health(self) -> JSONResponse:
        ready = all(model.engine.health().ready for model in self._router.values())
        return JSONResponse({"status": "ok" if ready else "not ready"}, 200 if ready else 503)

    async def list_models(self) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model.plain() for model in self._router.values()]})

    async def get_model(self, model_id: str) -> JSONResponse:
        return JSONResponse(self._model(model_id).plain())

    async def chat_completions(self, request: Request) -> Response:
        body = parse(await read_json(request, self._limits.body_bytes, self._limits.body_timeout_s))
        if body.store and self._traffic is None:
            message = "This server keeps nothing of what is said (it was started without --capture); leave store out."
            raise ApiError(400, "unsupported_parameter", message, param="store")
        return Answering(
            body,
            self._take(request, body.model, body.user),
            request_id=request.state.request_id,
            key=request.state.key,
            on_exchange=self._on_exchange,
            traffic=self._traffic,
        )

    async def feedback(self, request: Request) -> JSONResponse:
        told = parse_feedback(await read_json(request, self._limits.body_bytes, self._limits.body_timeout_s))
        kept = self._traffic is not None and await asyncio.to_thread(
            self._traffic.judge,
            told.id,
            request.state.key.id,
            choice=told.choice,
            rating=told.rating,
            correction=told.correction,
            comment=told.comment,
        )
        if not kept:
            message = "No such answer to this key is kept here; it may have been left out, or removed since."
            raise ApiError(404, "exchange_not_found", message, param="id")
        return JSONResponse({"object": "feedback", "id": told.id, "choice": told.choice})

    def _take(self, request: Request, name: str, user: str | None) -> Lease:
        """The model that answers this request; the envelope sees to it that it is given back."""
        asker = Asker(request.state.key.id, user, request.headers.get("x-luthier-variant"))
        lease = request.state.lease = self._router.take(name, asker)
        return lease

    def _model(self, name: str) -> ServedModel:
        model = self._router.get(name)
        if model is None:
            raise unknown(name)
        return model


async def _tell(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
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
