"""What stands behind the question mark: each parameter once, none that says nothing, and lists by the page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

MOST_PARAMETERS = 20
LONGEST = 4_000
PAGE, LARGEST_PAGE = 100, 1_000

Row = TypeVar("Row")


def asked_in(request: Request, names: Collection[str] | None = None) -> dict[str, str]:
    """`names`: those that say something here; None: whatever another server sends. Raises ApiError 400."""
    pairs = request.query_params.multi_items()
    told = dict(pairs)
    if len(pairs) != len(told) or len(told) > MOST_PARAMETERS:
        raise ApiError(400, "invalid_value", "A parameter stands there twice, or there are too many.")
    for name, value in told.items():
        if len(value) > LONGEST:
            raise ApiError(400, "invalid_value", "A parameter is too long.", param=name[:40])
        if names is not None and name not in names:
            raise ApiError(400, "unknown_parameter", f"{name[:40]!r} says nothing here.", param=name[:40])
    return told


def number_in(told: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Between 0 and `most`. Raises ApiError 400."""
    text = told.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise ApiError(400, "invalid_value", f"{name} is a whole number up to {most:,}.", param=name)
    return int(text)


def page(
    rows: Sequence[Row], told: Mapping[str, str], plain: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """`limit` of the rows behind the one with the id `after`, each as `plain` tells it."""
    limit = number_in(told, "limit", PAGE, LARGEST_PAGE)
    made = [plain(one) for one in rows]
    after = told.get("after")
    start = 0
    if after is not None:
        start = next((n + 1 for n, one in enumerate(made) if one["id"] == after), len(made))
    found = made[start : start + limit]
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": start + limit < len(made),
    }
