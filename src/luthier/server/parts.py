"""What the bodies of all endpoints share: nothing converted, nothing accepted and ignored, faults named by their field."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from luthier.core.spec import Spec
from luthier.server.errors import ApiError

MOST_CHOICES = 8
Off = Mapping[str, tuple[Any, ...]]
"""OpenAI's fields that are not honoured, each with the values that ask for nothing."""


class Wire(Spec):
    """A part of a request body: nothing is converted, so "5" is not 5."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


Body = TypeVar("Body", bound=Spec)


def joined(value: Any, kinds: Collection[str] = ("text",)) -> Any:
    """A text from a list of text parts, joined by line breaks. `kinds`: what the type of a part may be."""
    if not isinstance(value, list):
        return value
    parts = []
    for i, part in enumerate(value):
        right = isinstance(part, dict) and set(part) == {"type", "text"} and isinstance(part["text"], str)
        if not right or part["type"] not in kinds:
            raise PydanticCustomError(
                "content_part", "part {i} is not {{'type': 'text', 'text': '...'}}", {"i": i}
            )
        parts.append(part["text"])
    if not parts:
        raise PydanticCustomError("content_part", "it is an empty list")
    return "\n".join(parts)


def text_schema(kinds: Collection[str] = ("text",)) -> dict[str, Any]:
    """`joined` as a JSON schema."""
    named = {"type": {"enum": sorted(kinds)}, "text": {"type": "string"}}
    part = {
        "type": "object",
        "properties": named,
        "required": ["type", "text"],
        "additionalProperties": False,
    }
    return {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": part, "minItems": 1},
            {"type": "null"},
        ]
    }


Text = Annotated[str | None, BeforeValidator(joined), WithJsonSchema(text_schema())]
_STOP = {"type": "string", "minLength": 1, "maxLength": 400}
Stops = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1, max_length=400)]], Field(max_length=4)] | None,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": 4}, {"type": "null"}]}),
]


def supported(value: dict[str, Any], table: Off, where: str = "") -> dict[str, Any]:
    """Without the fields of `table` that hold a value which asks for nothing. Raises ApiError 400 for another value."""
    kept = {}
    for name, given in value.items():
        if name not in table:
            kept[name] = given
        elif not any(
            given == off and isinstance(given, bool) == isinstance(off, bool) for off in table[name]
        ):
            raise ApiError(
                400,
                "unsupported_parameter",
                f"{where}{name} is not supported by this server; leave it out. Nothing is accepted and ignored here.",
                param=f"{where}{name}",
            )
    return kept


def checked(body: type[Body], value: dict[str, Any]) -> Body:
    """Raises ApiError 400 that names the field."""
    try:
        return body.model_validate(value)
    except ValidationError as error:
        raise _told(error.errors(include_url=False)[0], body) from None


_CODES = {"missing": "missing_required_parameter", "unknown_key": "unknown_parameter"}
_BRANCH = re.compile(r"[A-Z].*|.*[-\[].*|str|int|none", re.DOTALL)
"""How pydantic names the ways of a union; no field of ours looks like that."""


def _told(fault: Any, body: type[Spec]) -> ApiError:
    path = [p for p in fault["loc"] if isinstance(p, int) or not _BRANCH.fullmatch(p)]
    kind = fault["type"]
    if kind == "unknown_key":
        path.append(fault["ctx"]["key"][:100])
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
    if not path and kind in body.model_fields:  # a disagreement between fields is named after one of them
        param = kind
    said = "this field is needed and is not there" if kind == "missing" else fault["msg"]
    message = f"{param}: {said}." if param else f"{said}."
    return ApiError(400, _CODES.get(kind, "invalid_value"), message[:400], param=param or None)
