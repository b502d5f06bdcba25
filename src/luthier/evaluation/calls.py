"""Calls of tools: read from what a model said, and held against the reference and against the tools that there are.

    read          <tool_call>{...}</tool_call>, the form of the model's own template, JSON that stands alone, or Python syntax
    call_match    the same functions with the same arguments, whatever their order: the comparison of syntax trees of the Berkeley
                  Function-Calling Leaderboard (Patil et al. 2025). An optional argument that is its default may be left out or
                  written. Stricter than theirs: of texts nothing but whitespace is forgiven
    call_name     the same functions
    call_valid    calls of functions that there are, with the arguments that these require and of their types
    call_when_due a call where the reference calls, and none where it does not

Nothing is run. A schema of a tool comes with a row, so of it only what takes bounded time is held: types, required, enum, nested
objects and lists; no patterns, no references. Shapes: N rows.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.data.json_text import dumps, finite, loads, no_constant, once
from luthier.data.schema import DEEPEST, LONGEST, canonical, depth
from luthier.data.tools import call_of
from luthier.models.call_form import CallForm

from .compare import Statistics, of_mean, together
from .fields import squeezed
from .python_text import literal, parsed

Call = Mapping[str, Any]
"""{"name", "arguments"}"""
COMMON = (CallForm("<tool_call>", "</tool_call>"), CallForm("[TOOL_CALLS]"), CallForm("<|python_tag|>"))
NAMES = ("call_match", "call_name", "call_valid", "call_when_due")
_PYTHON = re.compile(r"\s*\[?\s*[A-Za-z_][\w.]*\s*\(")
_TYPES = {
    "str": "string", "int": "integer", "float": "number", "double": "number", "long": "integer", "bool": "boolean",
    "dict": "object", "list": "array", "tuple": "array", "none": "null",
}  # fmt: skip
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "number": (int, float), "boolean": (bool,), "object": (dict,), "array": (list,),
    "null": (type(None),),
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """`calls` is None where an answer calls nothing, or `tried` to in a way that cannot be read."""

    calls: list[dict[str, Any]] | None
    tried: bool = False


def read(text: str, form: CallForm | None = None) -> Said:
    """The calls of an answer.

    >>> read('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>').calls
    [{'name': 'f', 'arguments': {'x': 1}}]
    >>> read("[f(x=1), g(y=[True])]").calls
    [{'name': 'f', 'arguments': {'x': 1}}, {'name': 'g', 'arguments': {'y': [True]}}]
    >>> read("It is f(x)."), read('<tool_call>{"name": ')
    (Said(calls=None, tried=False), Said(calls=None, tried=True))
    """
    if len(text) > LONGEST or depth(text) > DEEPEST + 2:
        return Said(None, any(one.opening in text for one in COMMON))
    for one in (*([form] if form else []), *COMMON):
        if one.opening and one.opening in text:
            found = _marked(text, one)
            return Said(found or None, True)
    if found := _alone(text):
        return Said(found)
    return _python(text)


def _marked(text: str, form: CallForm) -> list[dict[str, Any]] | None:
    """Every call after an opening; None where one of them cannot be read, or its closing is missing."""
    found: list[dict[str, Any]] = []
    for piece in text.split(form.opening)[1:]:
        told = piece.lstrip()
        try:
            value, end = _DECODER.raw_decode(told)
            calls = _calls(value)
        except (ValueError, RecursionError):
            return None
        rest = told[end:].lstrip()
        if form.closing and not rest.startswith(form.closing):
            return None
        found += calls
    return found


def _alone(text: str) -> list[dict[str, Any]] | None:
    """The whole text is JSON: a call, or a list of calls."""
    try:
        return _calls(loads(text.strip()))
    except ValueError:
        return None


def _calls(value: Any) -> list[dict[str, Any]]:
    """Raises ValueError."""
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    found = [call_of(one)[1] for one in (value if isinstance(value, list) else [value])]
    if not found:
        raise ValueError("it calls nothing")
    dumps(found).encode()  # half a surrogate pair is no text
    return found


def _python(text: str) -> Said:
    if not _PYTHON.match(text) or not isinstance(tree := parsed(text.strip(), "eval"), ast.Expression):
        return Said(None)
    written = tree.body.elts if isinstance(tree.body, ast.List | ast.Tuple) else [tree.body]
    if not written or not all(isinstance(one, ast.Call) for one in written):
        return Said(None)
    try:
        found = [_python_call(one) for one in written if isinstance(one, ast.Call)]
        dumps(found).encode()
    except (ValueError, RecursionError):
        return Said(None, True)
    return Said(found)


def _python_call(node: ast.Call) -> dict[str, Any]:
    """Raises ValueError: arguments are named, and literals."""
    name: list[str] = []
    inner: ast.AST = node.func
    while isinstance(inner, ast.Attribute):
        name.insert(0, inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name) or node.args:
        raise ValueError("an argument has no name")
    arguments: dict[str, Any] = {}
    for one in node.keywords:
        if one.arg is None or one.arg in arguments:
            raise ValueError("an argument has no name, or stands there twice")
        arguments[one.arg] = literal(one.value)
    return {"name": ".".join([inner.id, *name]), "arguments": arguments}


# against the tools


def valid(call: Call, tools: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether there is such a function, and its parameters' schema allows these arguments; those it does not name are not
    allowed."""
    if call["name"] not in tools:
        return False
    wanted = tools[call["name"]].get("parameters")
    if not isinstance(wanted, Mapping) or not wanted.get("properties"):
        return True
    named = wanted["properties"]
    if isinstance(named, Mapping) and not set(call["arguments"]) <= set(named):
        return False
    return _fits(call["arguments"], wanted)


def _fits(value: Any, schema: Any, level: int = 0) -> bool:
    """What of JSON Schema can be held in bounded time; what is not understood allows anything."""
    if not isinstance(schema, Mapping) or level > DEEPEST:
        return True
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds] if isinstance(kinds, str) else []
    known = [_kind(one) for one in kinds if isinstance(one, str)]
    if known and None not in known and not any(_is(value, one) for one in known if one):
        return False
    allowed = schema.get("enum")
    if isinstance(allowed, list) and canonical(value) not in {canonical(one) for one in allowed}:
        return False
    for name in ("anyOf", "oneOf"):
        ways = schema.get(name)
        if isinstance(ways, list) and ways and not any(_fits(value, one, level + 1) for one in ways):
            return False
    if isinstance(value, dict):
        required, named = schema.get("required"), schema.get("properties")
        if isinstance(required, list) and not {one for one in required if isinstance(one, str)} <= set(value):
            return False
        if isinstance(named, Mapping):
            if schema.get("additionalProperties") is False and not set(value) <= set(named):
                return False
            return all(_fits(inner, named[key], level + 1) for key, inner in value.items() if key in named)
    if isinstance(value, list):
        return all(_fits(inner, schema.get("items"), level + 1) for inner in value)
    return True


def _kind(name: str) -> str | None:
    """In JSON Schema's words; None for what is no type of it. Tools are often described in Python's."""
    plain = name.split("[")[0].strip().lower()
    plain = _TYPES.get(plain, plain)
    return plain if plain in _KINDS or plain == "integer" else None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _KINDS[kind])


def _form(call: Call, tools: Mapping[str, Mapping[str, Any]]) -> Any:
    """What equals another call's where they ask for the same: without optional arguments that are their defaults."""
    schema = tools.get(call["name"], {}).get("parameters")
    schema = schema if isinstance(schema, Mapping) else {}
    named, required = schema.get("properties"), schema.get("required")
    named = named if isinstance(named, Mapping) else {}
    needed = [one for one in required if isinstance(one, str)] if isinstance(required, list) else []
    told = {}
    for key, value in call["arguments"].items():
        of = named.get(key)
        usual = of.get("default", ...) if isinstance(of, Mapping) else ...
        if key in needed or usual is ... or canonical(usual, squeezed) != canonical(value, squeezed):
            told[key] = value
    return call["name"], canonical(told, squeezed)


def same(some: Sequence[Call], others: Sequence[Call], tools: Mapping[str, Mapping[str, Any]]) -> bool:
    """The same functions with the same arguments, whatever their order."""
    return Counter(_form(one, tools) for one in some) == Counter(_form(one, tools) for one in others)


def judged(told: Mapping[str, Any]) -> dict[str, float]:
    """The values of one row, by metric; what says nothing of it is not there. `told`: a line's `calls`."""
    expected, said = loads(told["expected"]), loads(told["said"]) if told["said"] else []
    called = bool(said) or bool(told["tried"])
    found = {"call_when_due": float(called == bool(expected))}
    if not expected:
        return found
    tools = {one["function"]["name"]: one["function"] for one in loads(told["tools"])}
    match = same(said, expected, tools)
    names = Counter(one["name"] for one in said) == Counter(one["name"] for one in expected)
    fits = bool(said) and all(valid(one, tools) for one in said)
    return found | {"call_match": float(match), "call_name": float(names), "call_valid": float(fits)}


def line(
    tools: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], said: str | None, form: CallForm | None
) -> dict[str, Any] | None:
    """What predictions.parquet keeps of a row with tools, all as JSON; None where nothing was answered."""
    if said is None:
        return None
    expected = [call_of(one)[1] for one in answer.get("tool_calls") or ()]
    return {"tools": dumps(list(tools)), "expected": dumps(expected), **said_in(said, form)}


def said_in(text: str, form: CallForm | None = None) -> dict[str, Any]:
    """The part of it that is told from the answer."""
    found = read(text, form)
    return {"said": None if found.calls is None else dumps(found.calls), "tried": found.tried}


def statistics(told: Sequence[Mapping[str, Any] | None]) -> Statistics | None:
    """compare.Statistics of the four, over the rows that have tools; None where no row has."""
    rows = [None if one is None else judged(one) for one in told]
    if not any(rows):
        return None
    parts = []
    for name in NAMES:
        value_N = np.array([np.nan if one is None else one.get(name, np.nan) for one in rows], np.float64)
        if np.isfinite(value_N).any():
            parts.append(of_mean(name, value_N))
    return together(parts)


_DECODER = json.JSONDecoder(object_pairs_hook=once, parse_constant=no_constant, parse_float=finite)
