"""What stands behind the question mark: each parameter once, none that says nothing; and lists by the page, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.core.errors import did_you_mean
from luthier.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

MOST_PARAMETERS = 20
LONGEST = 200
LONGEST_OF_OTHERS = 4_000
"""What a provider sends back to us through a browser: codes and states of its own making."""
PAGE, LARGEST_PAGE = 100, 1_000

Row = TypeVar("Row")


def asked_in(
    request: Request, names: Collection[str] | None, *, longest: int = LONGEST_OF_OTHERS
) -> dict[str, str]:
    """`names`: those that say something here; None: whatever another server sends. Raises ApiError 400."""
    pairs = request.query_params.multi_items()
    if len(pairs) > MOST_PARAMETERS:
        raise ApiError(400, "invalid_value", f"There are more than {MOST_PARAMETERS} parameters.")
    found: dict[str, str] = {}
    for name, value in pairs:
        shown = name[:40]
        if names is not None and name not in names:
            hint = f"; {did_you_mean(shown, sorted(names))}" if names else ""
            raise ApiError(
                400, "unknown_parameter", f"There is no parameter {shown!r} here{hint}.", param=shown
            )
        if name in found:
            raise ApiError(400, "invalid_value", f"{shown} stands there twice.", param=shown)
        if len(value) > longest:
            raise ApiError(
                400, "invalid_value", f"{shown} has more than {longest:,} characters.", param=shown
            )
        found[name] = value
    return found


def number_in(told: Mapping[str, str], name: str, default: int, most: int, least: int = 0) -> int:
    """Between `least` and `most`. Raises ApiError 400."""
    text = told.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        message = f"{name} is a whole number from {least:,} to {most:,}."
        raise ApiError(400, "invalid_value", message, param=name)
    return int(text)


def limit_of(told: Mapping[str, str], default: int, most: int) -> int:
    """A page of 0 says whether there is anything."""
    return number_in(told, "limit", default, most)


def newest_first(
    told: Mapping[str, str], words: tuple[str, str] = ("asc", "desc"), default: str = "desc"
) -> bool:
    order = told.get("order", default)
    if order not in words:
        raise ApiError(400, "invalid_value", f"order is {words[0]!r} or {words[1]!r}.", param="order")
    return order == words[1]


def page(data: Sequence[Mapping[str, Any]], more: bool) -> dict[str, Any]:
    ids = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": list(data), "first_id": ids[0], "last_id": ids[1], "has_more": more}


def page_of(
    rows: Sequence[Row], told: Mapping[str, str], plain: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """Of rows that are all there: `limit` of those behind the one with the id `after`, each as `plain` tells it."""
    limit = limit_of(told, PAGE, LARGEST_PAGE)
    made = [plain(one) for one in rows]
    after = told.get("after")
    start = 0
    if after is not None:
        start = next((n + 1 for n, one in enumerate(made) if one["id"] == after), len(made))
    return page(made[start : start + limit], start + limit < len(made))
