"""Two layers around the app, written once for every route there will ever be.

    Envelope   gives each request its id, times it, and turns what nobody caught into a 500 that tells nothing
    Guard      is this host ours, is this page ours, whose key is it, may it do this; in that order

They are plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Collection

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.server.errors import ApiError, internal
from luthier.server.keys import Key, KeyRing, is_loopback
from luthier.server.routes import PUBLIC, TABLE, Route

logger = logging.getLogger("luthier.server")

LONGEST_CREDENTIAL = 256
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)


class Envelope:
    """Puts `request_id` into the scope's state and these headers on every answer; gives back the model that it was answered by."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._app if scope["type"] == "lifespan" else _refuse_socket)(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started_s = time.monotonic()
        answered = False

        async def send_marked(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                elapsed_ms = round((time.monotonic() - started_s) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(elapsed_ms).encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except asyncio.CancelledError:
            logger.warning("%s was cut off: the server stopped before it was answered", request_id)
        except Exception:
            logger.exception("%s failed", request_id)
            if not answered:
                await respond(internal(request_id), send_marked)
        finally:
            if (lease := scope["state"].get("lease")) is not None:
                lease.end(None)


class Guard:
    """Refuses whatever is not expressly allowed. `allowed_hosts` adds to the names of this machine's loopback."""

    def __init__(self, app: ASGIApp, keys: KeyRing, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._hosts = {host.lower() for host in allowed_hosts}
        self._routes = [(compile_path(route.path)[0], route) for route in TABLE]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope.setdefault("state", {})["key"] = self._admit(scope)
            except ApiError as refusal:
                await respond(refusal, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> Key | None:
        """The key that may pass, or None for a public route. Raises ApiError 401, 403 or 404."""
        routes = [route for pattern, route in self._routes if pattern.match(scope["path"])]
        route = next((r for r in routes if r.method == scope["method"]), None)
        if route is not None and route.permission is PUBLIC:
            return None
        self._check_host(scope)
        key = self._authenticate(scope)
        if not routes:
            raise ApiError(
                404, "unknown_route", f"There is no {scope['method']} {scope['path'][:200]!r} here."
            )
        self._authorise(key, route)
        return key

    def _check_host(self, scope: Scope) -> None:
        """A page that rebinds its name to this address still sends its own name as Host, and itself as Origin."""
        hosts = _header(scope, b"host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise ApiError(
                403,
                "host_not_allowed",
                "This server does not answer to that host name. Use 127.0.0.1, or have the name allowed at its start.",
            )
        for origin in _header(scope, b"origin"):
            if origin.lower() not in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"):
                raise ApiError(403, "origin_not_allowed", "Pages of other origins may not call this server.")

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        name = (match[1] or match[2]) if match else ""
        return is_loopback(name) or name in self._hosts

    def _authenticate(self, scope: Scope) -> Key:
        credentials = _header(scope, b"authorization")
        scheme, _, text = credentials[0].partition(" ") if len(credentials) == 1 else ("", "", "")
        key = self._keys.check(text.strip()[:LONGEST_CREDENTIAL])
        if key is None or scheme.lower() != "bearer":
            raise ApiError(
                401,
                "invalid_api_key",
                "Send a valid key of this server as `Authorization: Bearer luthier_...`.",
                headers={"www-authenticate": "Bearer"},
            )
        return key

    @staticmethod
    def _authorise(key: Key, route: Route | None) -> None:
        """`route` None: the path exists with another method, and the router will say so."""
        if route is not None and route.permission not in key.permissions:
            raise ApiError(
                403,
                "insufficient_permissions",
                f"The key {key.id} does not hold the permission {route.permission!r}.",
            )


async def respond(error: ApiError, send: Send) -> None:
    """Send an error without going through the app."""
    headers = {"content-type": "application/json", "content-length": str(len(error.body)), **error.headers}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": error.body})


async def _refuse_socket(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
