"""What the lists of OpenAI's dialect share: how a page is asked for, and how it looks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

MOST = 100
LONGEST = 200


def asked_page(
    request: Request,
    choices: Mapping[str, Collection[str]] | None = None,
    *,
    limit: int = 20,
    most: int = MOST,
) -> dict[str, Any]:
    """{"after", "limit"} and those of `choices` (each with what it may be) that are given. Raises ApiError 400 for another parameter."""
    choices = choices or {}
    found: dict[str, Any] = {"after": None, "limit": limit}
    for name, value in request.query_params.multi_items():
        if name not in ("after", "limit") and name not in choices:
            raise ApiError(
                400, "unknown_parameter", f"There is no parameter {name[:80]!r} here.", param=name[:80]
            )
        if name == "limit":
            if not value.isascii() or not value.isdigit() or len(value) > 6 or int(value) > most:
                raise ApiError(400, "invalid_value", f"limit is a whole number up to {most}.", param="limit")
            found["limit"] = int(value)
        elif name == "after":
            if not 0 < len(value) <= LONGEST:
                raise ApiError(
                    400, "invalid_value", "after is the id of the last object before.", param="after"
                )
            found["after"] = value
        elif value not in choices[name]:
            may = ", ".join(sorted(choices[name]))
            raise ApiError(400, "invalid_value", f"{name} is one of {may}.", param=name)
        else:
            found[name] = value
    return found


def page(data: Sequence[Mapping[str, Any]], more: bool) -> dict[str, Any]:
    """OpenAI's envelope of a list."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
