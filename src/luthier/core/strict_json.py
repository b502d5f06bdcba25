"""JSON that every reader would read the same way: hooks for Python's `json`, whose reader accepts more than that.

    json.loads(text, object_pairs_hook=once, parse_constant=no_constant, parse_float=finite)

Each raises ValueError in words, without more of a value than a person needs to find it. Not here: how deep and how long JSON may
be, which differs by where it comes from (data/json_text, connectors/json_rows, server/body, models/folder).
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

SHOWN = 60


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`: an object, no key of which stands twice.

    >>> once([("a", 1), ("a", 2)])
    Traceback (most recent call last):
    ValueError: the key 'a' stands twice in one object
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:SHOWN]!r} stands twice in one object")
    return result


def no_constant(name: str) -> NoReturn:
    """For `parse_constant`: NaN and Infinity."""
    raise ValueError(f"{name} is not JSON")


def finite(text: str) -> float:
    """For `parse_float`.

    >>> finite("1e999")
    Traceback (most recent call last):
    ValueError: the number 1e999 is too large
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value
