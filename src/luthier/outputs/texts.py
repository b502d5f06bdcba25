"""Where texts stand in an answer: in all of it, or, if it is JSON, in its strings. So a list of numbers is no citation, and a key is
never edited.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from luthier.data import json_text


def edited(text: str, edit: Callable[[str], str], fields: Collection[str] | None = None) -> str:
    """`edit` applied to an answer; to an answer that is a JSON object or list, to its strings, written anew only if one changes.
    `fields`: only the strings under keys of these names.

    >>> edited('{"a": "x", "b": ["x"]}', str.upper), edited("x", str.upper), edited('{"a": "x"}', str.upper, ["b"])
    ('{"a":"X","b":["X"]}', 'X', '{"a": "x"}')
    """
    if text.lstrip()[:1] not in ("{", "["):
        return text if fields is not None else edit(text)
    try:
        value = json_text.loads(text.strip())
    except ValueError:
        return text if fields is not None else edit(text)
    told = _edited(value, edit, fields, fields is None)
    return text if told == value else json_text.dumps(told)


def whole_characters(text: str) -> str:
    """With a question mark for half a surrogate pair, which no text that is written down can hold."""
    return text.encode("utf-8", "replace").decode()


def _edited(value: Any, edit: Callable[[str], str], fields: Collection[str] | None, here: bool) -> Any:
    """As deep as json_text reads, and no deeper."""
    if isinstance(value, str):
        return edit(value) if here else value
    if isinstance(value, dict):
        return {
            key: _edited(inner, edit, fields, here or (fields is not None and key in fields))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_edited(inner, edit, fields, here) for inner in value]
    return value


def shortened(text: str, longest: int = 60) -> str:
    """For a message."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
