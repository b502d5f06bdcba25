"""`GET /openapi.json`: the routes, the bodies they take and the errors they give, made from the code that checks them.

What fields must agree on (top_logprobs needs logprobs, a tool's message answers a call) is not in a schema; the errors tell it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from luthier import __version__
from luthier.core.spec import Spec
from luthier.server import completions, embeddings, responses, wire
from luthier.server.asking import DEADLINE, LEAST_DEADLINE_S, MOST_DEADLINE_S
from luthier.server.parts import Off, Wire
from luthier.server.routes import LONGEST_ONCE, PUBLIC, TABLE, Described, Form, Part, Route

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
_OF_PARTS = {400, 401, 403, 404, 409, 429, 500, 503}
_OF_BODIES = {408, 413, 415}
"""What any route of a part may answer that does not do what was asked, and what those that take a body may besides."""
_QUERY = {"limit": {"type": "integer", "minimum": 1}, "lines": {"type": "integer", "minimum": 1}}
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
    described = [one for part in parts for one in part.described.values()]
    schemas, refs = _bodies([one.takes for one in described if _is_body(one.takes)])
    paths: dict[str, dict[str, Any]] = {}
    for route in TABLE:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas, refs, names)
    for part in parts:
        for route in part.routes:
            said = part.described.get(route.endpoint)
            path = route.path.replace(":path}", "}")
            paths.setdefault(path, {})[route.method.lower()] = _of_part(route, said, refs)
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


def _is_body(takes: object) -> bool:
    return isinstance(takes, type) and issubclass(takes, Spec)


def _bodies(of_parts: Sequence[Any]) -> tuple[dict[str, Any], dict[type, dict[str, str]]]:
    """(the schemas of all bodies and of what they are made of, where each body's is): two of one name are told apart by their modules."""
    kinds = dict.fromkeys([*(body for body, _ in _TAKES.values()), *of_parts])
    found, whole = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    refs = {kind: found[kind, "validation"] for kind in kinds}
    return {**whole.get("$defs", {}), "Error": _ERROR}, refs


def _operation(
    route: Route, schemas: dict[str, Any], refs: dict[type, dict[str, str]], names: list[str]
) -> dict[str, Any]:
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
        properties = schemas[refs[body]["$ref"].rpartition("/")[2]]["properties"]
        properties |= {field: {"enum": list(_distinct(values))} for field, values in off.items()}
        if "model" in body.model_fields and names:
            properties["model"]["enum"] = names
        content = {"application/json": {"schema": refs[body]}}
        told["requestBody"] = {"required": True, "content": content}
        failures |= {400, 404, 408, 413, 415}
        if name != "feedback":
            failures |= {429, 503, 504}
            bounds = {"type": "number", "minimum": LEAST_DEADLINE_S, "maximum": MOST_DEADLINE_S}
            told["parameters"] = [{"name": DEADLINE, "in": "header", "schema": bounds}]
    for status in sorted(failures - {int(one) for one in told["responses"]}):
        told["responses"][str(status)] = _failure(status)
    return told


def _of_part(route: Route, said: Described | None, refs: dict[type, dict[str, str]]) -> dict[str, Any]:
    """A route of a part. Where nothing more is said of it: an object of JSON."""
    said = said or Described("JSON.")
    operation = re.sub(r"[^a-z0-9]+", "_", f"{route.method} {route.path}".lower()).strip("_")
    told: dict[str, Any] = {"operationId": operation, "summary": said.about}
    if route.permission is not PUBLIC:
        told |= {"security": [{"key": []}], "description": f"Needs the permission `{route.permission}`."}
    text = {"type": "string", "minLength": 1}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)", route.path)
    ]
    parameters += [{"name": name, "in": "query", "schema": _QUERY.get(name, text)} for name in said.query]
    if said.once:
        parameters.append(
            {"name": "Idempotency-Key", "in": "header", "schema": text | {"maxLength": LONGEST_ONCE}}
        )
    if parameters:
        told["parameters"] = parameters
    if said.takes is not None:
        told["requestBody"] = {"required": True, "content": _taken(said.takes, refs)}
    given = {"description": said.about} | ({} if route.method == "HEAD" else {"content": _given(said)})
    failures = _OF_PARTS | (_OF_BODIES if said.takes is not None else set())
    told["responses"] = {str(said.status): given, **{str(one): _failure(one) for one in sorted(failures)}}
    return told


def _taken(takes: type[Spec] | type[bytes] | Form, refs: dict[type, dict[str, str]]) -> dict[str, Any]:
    if takes is bytes:
        return {"application/octet-stream": {}}
    if not isinstance(takes, Form):
        return {"application/json": {"schema": refs[takes]}}
    properties = {takes.file: {"type": "string", "format": "binary"}}
    properties |= {name: {"type": "string"} for name in takes.fields}
    schema = {"type": "object", "properties": properties, "required": [takes.file]}
    return {"multipart/form-data": {"schema": schema}}


def _given(said: Described) -> dict[str, Any]:
    if said.gives is bytes:
        content: dict[str, Any] = {"application/octet-stream": {}}
    else:
        assert isinstance(said.gives, tuple)
        content = {"application/json": {"schema": {"type": "object", "required": list(said.gives)}}}
    if said.stream:
        content["text/event-stream"] = {"schema": _EVENT}
    return content | {media_type: {} for media_type in said.also}


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
        told["headers"] = {"retry-after": {"schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    return told


def _distinct(values: Iterable[Any]) -> Iterable[Any]:
    """Without 0.0 beside 0, which JSON does not tell apart."""
    told: list[Any] = []
    for one in values:
        if not any(one == other and isinstance(one, bool) == isinstance(other, bool) for other in told):
            told.append(one)
    return told
