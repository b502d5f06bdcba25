"""How a page of files, jobs and checkpoints is asked for: strictly, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

LONGEST = 200


def query_of(request: Request, known: Collection[str] = ()) -> dict[str, str]:
    """The parameters, each once. Raises ApiError 400."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise ApiError(
                400, "unknown_parameter", f"There is no parameter {name[:80]!r} here.", param=name[:80]
            )
        if name in found or len(value) > LONGEST:
            raise ApiError(400, "invalid_value", f"{name} stands there twice, or is too long.", param=name)
        found[name] = value
    return found


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """A page of 0 says whether there is anything."""
    value = query.get("limit", str(default))
    if not (value.isascii() and value.isdecimal() and len(value) < 7 and int(value) <= most):
        raise ApiError(400, "invalid_value", f"limit is a whole number, at most {most:,}.", param="limit")
    return int(value)


def newest_first(
    query: Mapping[str, str], words: tuple[str, str] = ("asc", "desc"), default: str = "desc"
) -> bool:
    order = query.get("order", default)
    if order not in words:
        raise ApiError(400, "invalid_value", f"order is {words[0]!r} or {words[1]!r}.", param="order")
    return order == words[1]


def page(data: Sequence[Mapping[str, Any]], more: bool) -> dict[str, Any]:
    ids = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": list(data), **ids, "has_more": more}
