"""JSON that stands in a cell of text, read as strictly as a file of JSON Lines is, and written in one form.

Not here: rows of JSON (connectors/json_rows).
"""

from __future__ import annotations

import json
from typing import Any

from luthier.core.strict_json import finite, no_constant, once

DEEPEST = 200
"""How many lists and objects may stand in one another; as many as in a row of a JSON Lines file."""


def loads(text: str) -> Any:
    """Raises ValueError, in words, for what is no JSON or could be read in two ways.

    >>> loads('{"a": [1, 2.0]}')
    {'a': [1, 2.0]}
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error.msg} (character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise ValueError("it is nested too deeply")
    if "\\u" in text:
        try:
            dumps(value).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is no character") from None
    return value


def dumps(value: Any) -> str:
    """Compact, keys in their order, letters as they are: equal values have one form.

    >>> dumps({"a": [1, "ä"], "b": None})
    '{"a":[1,"ä"],"b":null}'
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, depth)
            waiting += [(inner, depth + 1) for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest


_DECODER = json.JSONDecoder(object_pairs_hook=once, parse_constant=no_constant, parse_float=finite)
