"""`GET /openapi.json`: the routes, the bodies they take and the errors they give, made from the code that checks them.

What fields must agree on (top_logprobs needs logprobs, a tool's message answers a call) is not in a schema; the errors tell it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from luthier import __version__
from luthier.core.spec import Spec
from luthier.server import completions, embeddings, responses, wire
from luthier.server.asking import DEADLINE, LEAST_DEADLINE_S, MOST_DEADLINE_S
from luthier.server.parts import Off, Wire
from luthier.server.routes import PUBLIC, TABLE, Described, Part, Route

_TAKES: dict[str, tuple[type[Wire], Off]] = {
    "chat_completions": (wire.ChatBody, wire.UNSUPPORTED),
    "completions": (completions.CompletionBody, completions.UNSUPPORTED),
    "responses": (responses.ResponseBody, {**responses.UNSUPPORTED, "previous_response_id": (None,)}),
    "embeddings": (embeddings.EmbeddingBody, embeddings.UNSUPPORTED),
    "feedback": (wire.FeedbackBody, {}),
}
_GIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "health": ("How the server is.", ("status",)),
    "chat_completions": ("The answer.", ("id", "object", "created", "model", "choices", "usage")),
    "completions": ("The text.", ("id", "object", "created", "model", "choices", "usage")),
    "responses": ("The response.", ("id", "object", "created_at", "status", "model", "output", "usage")),
    "embeddings": ("The vectors.", ("object", "data", "model", "usage")),
    "feedback": ("It is kept.", ("object", "id", "choice")),
    "list_models": ("What is served.", ("object", "data")),
    "get_model": ("A served name.", ("id", "object", "created", "owned_by")),
    "status_data": ("The last minutes.", ("now", "models", "seconds")),
    "description": ("This.", ("openapi", "paths")),
}
_OTHERS = {
    "metrics": ("text/plain",),
    "status_page": ("text/html",),
    "status_file": ("text/html", "text/css", "text/javascript"),
}
_STREAMS = ("chat_completions", "completions", "responses")
_EVENT = {
    "type": "object",
    "description": "Each server-sent event: JSON, or [DONE] at the end of chat and completions.",
    "required": ["data"],
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def describe(served: Iterable[str], parts: Sequence[Part] = ()) -> dict[str, Any]:
    """OpenAPI 3.1. `served`: the names that a body's `model` may hold; `parts`: what there is beside the table."""
    names = sorted(served)
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for route in TABLE:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas, names)
    for part in parts:
        for route in part.routes:
            described = part.described.get(route.endpoint)
            path = route.path.replace(":path}", "}")
            paths.setdefault(path, {})[route.method.lower()] = _of_part(route, described, schemas)
    about = (
        "Chat, completions, responses and embeddings in OpenAI's form, and what is Luthier's own beside them."
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Luthier", "version": __version__, "description": about},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "typed": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _operation(route: Route, schemas: dict[str, Any], names: list[str]) -> dict[str, Any]:
    name = route.endpoint
    told: dict[str, Any] = {"operationId": name, "responses": {"200": _success(name)}}
    failures: set[int] = set() if route.permission is PUBLIC else {401, 403, 500}
    if route.permission is PUBLIC:
        failures = {503}
        told["responses"]["503"] = told["responses"]["200"] | {"description": "An engine is not ready."}
    else:
        told["security"] = [{"key": []}, *([{"typed": []}] if route.for_browsers else [])]
        told["description"] = f"Needs the permission `{route.permission}`."
    if "{" in route.path:
        failures.add(404)
        parameter = route.path.partition("{")[2].partition("}")[0].partition(":")[0]
        told["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    if name in _TAKES:
        body, off = _TAKES[name]
        schemas[body.__name__] = _schema(body, off, schemas)
        if "model" in body.model_fields and names:
            schemas[body.__name__]["properties"]["model"]["enum"] = names
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        told["requestBody"] = {"required": True, "content": content}
        failures |= {400, 404, 408, 413, 415}
        if name != "feedback":
            failures |= {429, 503, 504}
            bounds = {"type": "number", "minimum": LEAST_DEADLINE_S, "maximum": MOST_DEADLINE_S}
            told["parameters"] = [{"name": DEADLINE, "in": "header", "schema": bounds}]
    for status in sorted(failures - {int(one) for one in told["responses"]}):
        told["responses"][str(status)] = _failure(status)
    return told


def _of_part(route: Route, said: Described | None, schemas: dict[str, Any]) -> dict[str, Any]:
    """A route of a part. Where nothing more is said of it: an object of JSON."""
    said = said or Described("JSON.")
    operation = re.sub(r"[^a-z0-9]+", "_", f"{route.method} {route.path}".lower()).strip("_")
    failures = {500} if route.permission is PUBLIC else {401, 403, 409, 500, 503}
    told: dict[str, Any] = {"operationId": operation, "summary": said.about}
    if route.permission is not PUBLIC:
        told |= {"security": [{"key": []}], "description": f"Needs the permission `{route.permission}`."}
    if names := re.findall(r"{(\w+)", route.path):
        failures.add(404)
        text = {"type": "string", "minLength": 1}
        told["parameters"] = [{"name": n, "in": "path", "required": True, "schema": text} for n in names]
    if said.takes is bytes:
        content: dict[str, Any] = {"application/octet-stream": {}}
        told["requestBody"] = {"required": True, "content": content}
    elif said.takes is not None:
        assert issubclass(said.takes, Spec)
        schema = said.takes.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[said.takes.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{said.takes.__name__}"}}}
        told["requestBody"] = {"required": True, "content": content}
    if said.takes is not None:
        failures |= {400, 404, 408, 413, 415}
    if said.stream:
        content = {"text/event-stream": {"schema": _EVENT}}
    elif said.gives is bytes:
        content = {"application/octet-stream": {}}
    else:
        assert isinstance(said.gives, tuple)
        content = {"application/json": {"schema": {"type": "object", "required": list(said.gives)}}}
    given = {"description": said.about} | ({} if route.method == "HEAD" else {"content": content})
    told["responses"] = {str(said.status): given, **{str(one): _failure(one) for one in sorted(failures)}}
    return told


def _success(name: str) -> dict[str, Any]:
    if name in _OTHERS:
        return {
            "description": "Text.",
            "content": {kind: {"schema": {"type": "string"}} for kind in _OTHERS[name]},
        }
    about, required = _GIVES[name]
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object", "required": list(required)}}}
    if name in _STREAMS:
        content["text/event-stream"] = {"schema": _EVENT}
    return {"description": about, "content": content}


def _failure(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": "An error in OpenAI's envelope.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status == 429:
        told["headers"] = {
            "retry-after": {"required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}
        }
    return told


def _schema(body: type[Wire], off: Off, schemas: dict[str, Any]) -> dict[str, Any]:
    """The body's own, with the fields that may only hold what asks for nothing; what it is made of goes into `schemas`."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    schema["properties"] |= {name: {"enum": list(_distinct(values))} for name, values in off.items()}
    return schema


def _distinct(values: Iterable[Any]) -> Iterable[Any]:
    """Without 0.0 beside 0, which JSON does not tell apart."""
    told: list[Any] = []
    for one in values:
        if not any(one == other and isinstance(one, bool) == isinstance(other, bool) for other in told):
            told.append(one)
    return told
