"""Every route of served models, and who may use it. The app is built from this table, and from those of further parts
(server/platform); the guard reads the same: a path that is in none does not exist, and a test fails for any route of the app that is
missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from luthier.core.spec import Spec

PUBLIC: Final = None
CHAT: Final = "chat"
READ_MODELS: Final = "models.read"
FEEDBACK: Final = "feedback"
METRICS: Final = "metrics"
STATUS: Final = "status"


@dataclass(frozen=True)
class Route:
    """`permission` is what a key must hold; PUBLIC needs no key at all and must tell a stranger nothing, access.KNOWN needs any."""

    method: str
    path: str
    endpoint: str
    permission: str | None
    for_browsers: bool = False
    """Also takes the key as a password that a person typed: pages that only show, and never a route that does anything. Of PUBLIC ones:
    answers to this server's names alone."""
    anywhere: bool = False
    """The permission is to be held in some scope that the key reaches; the request names the scope, and what answers it asks for the
    permission there (app/rights)."""


@dataclass(frozen=True)
class Form:
    """A body of multipart/form-data: the field with the file, and those beside it."""

    file: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Described:
    """What `GET /openapi.json` says of an endpoint beyond its route. `takes` and `gives` are JSON (a body's Spec; keys of the answer) or
    bytes, or a form; `query`: what may stand behind the question mark; `once`: it takes Idempotency-Key; `stream`: server-sent events,
    where they are asked for; `also`: other media types that can be asked for."""

    about: str
    takes: type[Spec] | type[bytes] | Form | None = None
    gives: tuple[str, ...] | type[bytes] = ()
    status: int = 200
    query: tuple[str, ...] = ()
    once: bool = False
    stream: bool = False
    also: tuple[str, ...] = ()


LISTED = ("object", "data")
"""What every list of a part gives."""
LONGEST_ONCE = 255
"""Characters of an Idempotency-Key."""


@dataclass(frozen=True)
class Part:
    """Routes, the object whose methods (`Route.endpoint`) answer them, and what is said of each (by `Route.endpoint`)."""

    routes: Sequence[Route]
    endpoints: object
    described: Mapping[str, Described] = field(default_factory=dict)


TABLE: tuple[Route, ...] = (
    Route("GET", "/healthz", "health", PUBLIC),
    Route("POST", "/v1/chat/completions", "chat_completions", CHAT),
    Route("POST", "/v1/completions", "completions", CHAT),
    Route("POST", "/v1/embeddings", "embeddings", CHAT),
    Route("POST", "/v1/responses", "responses", CHAT),
    Route("POST", "/v1/feedback", "feedback", FEEDBACK),
    Route("GET", "/metrics", "metrics", METRICS),
    Route("GET", "/openapi.json", "description", READ_MODELS),
    Route("GET", "/status", "status_page", STATUS, for_browsers=True),
    Route("GET", "/status/data", "status_data", STATUS, for_browsers=True),
    Route("GET", "/status/{name}", "status_file", STATUS, for_browsers=True),
    Route("GET", "/v1/models", "list_models", READ_MODELS),
    Route("GET", "/v1/models/{model_id:path}", "get_model", READ_MODELS),
)

PERMISSIONS: frozenset[str] = frozenset(route.permission for route in TABLE if route.permission is not None)
