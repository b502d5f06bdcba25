"""Python that a model wrote: parsed, never run. Bounded in size, since deep nesting costs a parser its stack.

parsed(text, "eval")     one expression, or None
literal(node)            the JSON value that it writes out; names, operators and calls are none
fences(text)             the contents of Markdown fences marked as Python
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from typing import Any, Literal

LONGEST = 20_000
DEEPEST = 50
_FENCE = re.compile(
    r"^```[ \t]*(?:python|py|python3)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE
)


def parsed(text: str, mode: Literal["eval", "exec"]) -> ast.AST | None:
    """None for what is no Python, or too much of it.

    >>> parsed("f(", "eval"), parsed("-" * 15_000 + "1", "eval"), parsed("(" * 5_000, "eval")
    (None, None, None)
    """
    if len(text) > LONGEST:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in strings
        try:
            return ast.parse(text, mode=mode)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def literal(node: ast.AST, depth: int = 0) -> Any:
    """Raises ValueError for what is no literal of JSON. `true`, `false` and `null` are read as JSON means them.

    >>> literal(ast.parse("{'a': [-1, True, null]}", mode="eval").body)
    {'a': [-1, True, None]}
    """
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError("a number is too large")
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [literal(one, depth + 1) for one in node.elts]
    if isinstance(node, ast.Dict):
        return _object(node, depth)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = literal(node.operand, depth + 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("a sign stands before what is no number")
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    raise ValueError("it is no literal")


_NAMES = {"true": True, "false": False, "null": None}


def _object(node: ast.Dict, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str) or key.value in found:
            raise ValueError("a key is no text, or stands there twice")
        found[key.value] = literal(value, depth + 1)
    return found


def fences(text: str) -> list[str]:
    """
    >>> fences("Look:\\n```python\\nx = 1\\n```\\nDone.")
    ['x = 1\\n']
    """
    return _FENCE.findall(text)


def parses(text: str) -> bool:
    """Whether an answer holds Python in a fence, and all of it parses."""
    found = fences(text)
    return bool(found) and all(parsed(one, "exec") is not None for one in found)
