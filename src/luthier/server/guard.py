"""Two layers around the app, written once for every route there will ever be.

    Envelope   gives each request its id, times it, tells who watches, and turns what nobody caught into a 500 that tells nothing
    Guard      is this host ours, is this page ours, whose key or session is it, may it do this, not too often; in that order

They are plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import logging
import re
import secrets
import time
from collections.abc import Collection, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.governance.access import KNOWN
from luthier.server.errors import ApiError, internal
from luthier.server.keys import Key, Opens, Sessions, is_loopback
from luthier.server.rates import Rate, Rates
from luthier.server.router import Lease
from luthier.server.routes import CHAT, PUBLIC, TABLE, Route
from luthier.server.watch import Seen, Watch

logger = logging.getLogger("luthier.server")

LONGEST_CREDENTIAL = 256
REMEMBERED_PATHS, LONGEST_PATH = 4_096, 256
"""So many paths, no longer than that, are remembered with the routes that they match: whoever polls asks the same ones."""
CSRF = b"x-luthier-csrf"
CSP, INERT = b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"
"""Of what is no page of ours: whatever it is taken for, nothing in it runs, and nobody frames it."""
CLIENT_GONE = 499
"""What is told of a request whose client left before there was a status."""
OF_ADDRESS, OF_STRANGERS = Rate(120, 60.0), Rate(600, 60.0)
"""Requests without a key (logins) of one address, and of all; /healthz is not counted."""
_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)


class Envelope:
    """Puts `request_id` into the scope's state and these headers on every answer, errors too; gives back the model that it was answered
    by, whose version is told in x-luthier-release."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._app if scope["type"] == "lifespan" else _refuse_socket)(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        began_s, started_s = time.time(), time.monotonic()
        state = scope["state"]
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                elapsed_ms = round((time.monotonic() - started_s) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(elapsed_ms).encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                    *((name.encode(), value.encode()) for name, value in state.get("rate", {}).items()),
                ]
                if not any(name.lower() == CSP for name, _ in message["headers"]):
                    message["headers"].append((CSP, INERT))
                if (lease := state.get("lease")) is not None:
                    message["headers"] += _of_version(lease, message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except asyncio.CancelledError:
            logger.warning("%s was cut off: the server stopped before it was answered", request_id)
        except Exception:
            logger.exception("%s failed", request_id)
            state["code"] = "internal_error"
            if not status:
                await respond(internal(request_id), send_marked)
        finally:
            if (lease := state.get("lease")) is not None:
                lease.end(None)
            key, screen = state.get("key"), state.get("screen")
            self._watch(
                Seen(
                    request_id=request_id,
                    method=scope["method"] if scope["method"] in _METHODS else "other",
                    route=state.get("route", "-"),
                    status=status or CLIENT_GONE,
                    code=state.get("code"),
                    key_id=key.id if key else None,
                    began_s=began_s,
                    elapsed_s=time.monotonic() - started_s,
                    exchange=state.get("exchange"),
                    guarded=screen.hits if screen else {},
                    traceparent=next(iter(_header(scope, b"traceparent")), None),
                    project=getattr(key.caller, "project", None) if key else None,
                )
            )


def _of_version(lease: Lease, there: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Which version has this request, and which side of a rollout that is; what is there already is not said twice."""
    told = {"x-luthier-release": lease.model.release or lease.model.package_digest, **lease.headers}
    said = {name.lower() for name, _ in there}
    return [(name.encode(), value.encode()) for name, value in told.items() if name.encode() not in said]


class Guard:
    """Refuses whatever is not expressly allowed. `allowed_hosts` adds to the names of this machine's loopback; `rates` are of keys that
    ask models, `calls` of keys that ask anything else of a part, `together` of all that is asked in one project."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Opens,
        allowed_hosts: Collection[str],
        rates: Rates | None = None,
        routes: Sequence[Route] = TABLE,
        sessions: Sessions | None = None,
        calls: Rates | None = None,
        together: Rates | None = None,
    ) -> None:
        self._app = app
        self._rates, self._calls, self._together = rates, calls, together
        self._of_address, self._of_strangers = Rates(OF_ADDRESS), Rates(OF_STRANGERS)
        self._keys = keys
        self._sessions = sessions
        self._hosts = {host.lower() for host in allowed_hosts}
        self._routes = [(compile_path(route.path)[0], route) for route in routes]
        self._of_models = frozenset(TABLE)
        self._known = lru_cache(REMEMBERED_PATHS)(self._matching)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._admit(scope, scope.setdefault("state", {}))
            except ApiError as refusal:
                scope["state"]["code"] = refusal.code
                await respond(refusal, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, state: dict[str, Any]) -> None:
        """Puts the route and the key that may pass into the state. Raises ApiError 401, 403, 404 or 429."""
        path = scope["path"]
        routes = (self._known if len(path) <= LONGEST_PATH else self._matching)(path)
        route = next((r for r in routes if r.method == scope["method"]), None)
        if route is not None:
            state["route"] = route.path
            if route.permission is PUBLIC:
                if route.for_browsers:
                    self._check_host(scope)
                if route not in self._of_models:
                    self._count_stranger(scope)
                return
        self._check_host(scope)
        key = state["key"] = await self._authenticate(scope, route)
        if not routes:
            raise ApiError(
                404, "unknown_route", f"There is no {scope['method']} {scope['path'][:200]!r} here."
            )
        self._authorise(key, route)
        state["still"] = lambda: self._still(scope, route)
        if route is not None:
            self._count(key, route, state)

    def _matching(self, path: str) -> tuple[Route, ...]:
        return tuple(route for pattern, route in self._routes if pattern.match(path))

    async def _still(self, scope: Scope, route: Route | None) -> bool:
        """Whether who asked would be let in again: what is answered for long asks now and then (job_stream)."""
        try:
            self._authorise(await self._authenticate(scope, route), route)
        except ApiError as refusal:
            if refusal.status < 500:
                return False
            raise
        return True

    def _count_stranger(self, scope: Scope) -> None:
        """Raises ApiError 429. Whoever asks too often for himself takes nothing from the others."""
        self._of_address.take(_address(scope), "The address")
        self._of_strangers.take("together", "Everybody without a key,")

    def _count(self, key: Key, route: Route, state: dict[str, Any]) -> None:
        """Raises ApiError 429."""
        project = getattr(key.caller, "project", None)
        if self._together is not None and project is not None:
            state["rate"] = self._together.take(project, "The project")
        rates = self._rates if route.permission == CHAT else self._calls
        if rates is not None and (route.permission == CHAT or route not in self._of_models):
            state["rate"] = rates.take(key.id)

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

    async def _authenticate(self, scope: Scope, route: Route | None) -> Key:
        named = _header(scope, b"openai-project")
        project = named[0][:LONGEST_CREDENTIAL] if named else None
        credentials = _header(scope, b"authorization")
        if not credentials and self._sessions is not None and len(named) < 2:
            tokens = _cookies(scope, self._sessions.cookie)
            if len(tokens) == 1 and (found := await self._sessions.check(tokens[0], project)) is not None:
                scope["state"]["key"] = found  # who was refused, where he is
                self._check_page(scope, tokens[0], self._sessions)
                return found
        scheme, _, text = credentials[0].partition(" ") if len(credentials) == 1 else ("", "", "")
        scheme, text = scheme.lower(), text.strip()[:LONGEST_CREDENTIAL]
        for_pages = route is not None and route.for_browsers
        if for_pages and scheme == "basic":
            scheme, text = "bearer", _password(text)
        key = self._keys.check(text, project) if len(named) < 2 and scheme == "bearer" else None
        if inspect.isawaitable(key):
            key = await key
        if key is None:
            raise ApiError(
                401,
                "invalid_api_key",
                "Send a valid key of this server as `Authorization: Bearer luthier_...`.",
                headers={
                    "www-authenticate": 'Basic realm="luthier: a key as password"' if for_pages else "Bearer"
                },
            )
        return key

    @staticmethod
    def _check_page(scope: Scope, token: str, sessions: Sessions) -> None:
        """A browser sends its cookie with whatever any page makes it ask for, so what changes something also says, in ways that a page of
        another origin cannot, that a page of ours asks for it: an Origin, which `_check_host` has looked at, and the session's token."""
        if scope["method"] in ("GET", "HEAD"):
            return
        proofs = _header(scope, CSRF)
        if len(_header(scope, b"origin")) != 1 or len(proofs) != 1 or not sessions.proves(token, proofs[0]):
            raise ApiError(
                403,
                "csrf",
                f"A request made with a session that changes something needs Origin and {CSRF.decode()} (GET /luthier/v1/me tells it).",
            )

    @staticmethod
    def _authorise(key: Key, route: Route | None) -> None:
        """`route` None: the path exists with another method, and the router will say so."""
        if route is None or route.permission == KNOWN:
            return
        held = getattr(key.caller, "anywhere", key.permissions) if route.anywhere else key.permissions
        if route.permission not in held:
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


def _password(text: str) -> str:
    """Of basic credentials, which is how a browser sends what a person typed; the name before it says nothing."""
    try:
        return base64.b64decode(text, validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _address(scope: Scope) -> str:
    """Of who asks; of IPv6 the network of 64 bits, whose addresses are all one customer's."""
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ip_address(host)
    except ValueError:
        return host[:100]
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else host


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _cookies(scope: Scope, name: str) -> list[str]:
    """The values that a cookie is sent with: more than one is nobody's doing that we trust."""
    pairs = (one.strip().partition("=") for line in _header(scope, b"cookie") for one in line.split(";"))
    return [value[:LONGEST_CREDENTIAL] for found, _, value in pairs if found == name]
