"""JSON Schema (2020-12) and the JSON that is held against it, both taken strictly and within bounds.

    refuse(schema)         a schema that is none, or points outside itself; before any row is read
    meets = checker(schema);  read(text);  meets(value)

JSON is RFC 8259: no NaN, no comments, nothing around it, no key twice in one object. Nothing is ever fetched: a $ref may point
into the schema alone. `format` is not enforced, as the standard leaves it. Not here: what a rule removes for it
(rules/json_schema), schemas that are inferred (inferred.py), what of an answer is right (evaluation/fields).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from luthier.core.errors import missing_part

from .json_text import loads

LONGEST = 100_000
"""Characters of an answer that is read."""
DEEPEST = 50
"""How deep its objects and lists may stand within each other."""
DEEPEST_SCHEMA = 64
SHOWN = 120
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
Schema = dict[str, Any] | bool


def read(text: str, longest: int = LONGEST, deepest: int = DEEPEST) -> Any:
    """The value of an answer. Raises ValueError, in words that follow "the answer", for what is no JSON or too large.

    >>> read(' {"a": [1.0]} ')
    {'a': [1.0]}
    >>> read("{'a': 1}")
    Traceback (most recent call last):
    ValueError: is not JSON: Expecting property name enclosed in double quotes at character 2
    """
    if len(text) > longest:
        raise ValueError(f"has {len(text)} characters, more than {longest}")
    if depth(text) > deepest:
        raise ValueError(f"is nested deeper than {deepest} levels")
    try:
        text.encode()
        return loads(text)
    except UnicodeEncodeError:
        raise ValueError("is not JSON: it holds half a surrogate pair, which is no character") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {_plainly(str(error))}") from None


def _plainly(told: str) -> str:
    if found := re.fullmatch(r"it is not valid JSON: (.*) \(character (\d+)\)", told, re.DOTALL):
        return f"{found[1]} at character {found[2]}"
    if found := re.fullmatch(r"(-?\w+) is not JSON", told):
        return f"the value {found[1]} is no number of JSON"
    return "a number has too many digits" if "integer string conversion" in told else told


def depth(text: str) -> int:
    """How deep brackets stand within each other, without those in strings.

    >>> depth('{"a": ["[[["]}')
    2
    """
    if text.count("[") + text.count("{") < 2:
        return 1
    here = deepest = 0
    for match in PIECE.finditer(text):
        piece = match[0]
        if piece in "[{":
            here += 1
            deepest = max(deepest, here)
        elif piece in "]}":
            here -= 1
    return deepest


def refuse(schema: Any) -> None:
    """Raises ValueError, in words, for what is no schema, points outside itself or cannot be followed. What needs the extra
    `schema` is left out where that is not installed."""
    for level, key, value in _members(schema):
        if level > DEEPEST_SCHEMA:
            raise ValueError(f"the schema is nested deeper than {DEEPEST_SCHEMA} levels; write it flatter")
        if key in REFERENCES and isinstance(value, str) and not value.startswith("#"):
            raise ValueError(
                f"{key} {value[:60]!r} points outside the schema, and nothing is fetched; put that part under $defs and "
                'write "#/$defs/NAME"'
            )
    if (validator := _validator(schema)) is not None:
        _try(validator, schema)


def checker(schema: Schema, who: str) -> Callable[[Any], str | None]:
    """What says of a value what is wrong with it: None, or words that follow "the answer". Raises MissingPart; `who` needs it.

    >>> meets = checker({"type": "object", "required": ["city"]}, "this")
    >>> meets({"city": 1}), meets({})
    (None, "does not meet the schema: 'city' is a required property")
    """
    validator = _validator(schema)
    if validator is None:
        raise missing_part("jsonschema", "schema", who)

    def fault(value: Any) -> str | None:
        try:
            found = next(iter(validator.iter_errors(value)), None)
        except RecursionError:
            return "cannot be held against the schema, which refers to itself too often"
        if found is None:
            return None
        place = "/".join(map(str, found.absolute_path))
        message = found.message if len(found.message) <= SHOWN else found.message[: SHOWN - 1] + "…"
        return f"does not meet the schema{f' at {place[:SHOWN]}' if place else ''}: {message}"

    return fault


def _members(schema: Any) -> Iterator[tuple[int, str, Any]]:
    """(depth, key, value) of all objects in it, without recursion."""
    todo: list[tuple[int, Any]] = [(0, schema)]
    while todo:
        level, node = todo.pop()
        if isinstance(node, dict):
            yield from ((level, str(key), value) for key, value in node.items())
            todo += [(level + 1, value) for value in node.values()]
        elif isinstance(node, list):
            todo += [(level + 1, value) for value in node]
        if level > DEEPEST_SCHEMA:
            yield level, "", None
            return


def _validator(schema: Any) -> Any:
    """None where the extra is not installed."""
    try:
        from jsonschema import validators
        from referencing import Registry
    except ImportError:
        return None
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    kind = validators.extend(kind, {"uniqueItems": _unique})  # the library's compares each item with each
    return kind(schema, registry=Registry())  # an empty registry fetches nothing


def _unique(validator: Any, wanted: Any, items: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if wanted and validator.is_type(items, "array") and len({canonical(one) for one in items}) < len(items):
        yield ValidationError("items stand there twice")


def canonical(value: Any, text: Callable[[str], str] = str) -> Any:
    """What equals another such form exactly where the JSON values are equal: keys in any order, numbers by value, lists in order.
    `text` says what of a text counts.

    >>> canonical({"a": 1, "b": [True]}) == canonical({"b": [True], "a": 1.0}), canonical([1]) == canonical([True])
    (True, False)
    """
    if isinstance(value, dict):
        return "object", frozenset((key, canonical(inner, text)) for key, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(canonical(inner, text) for inner in value)
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "boolean", value
    return ("text", text(value)) if isinstance(value, str) else ("number", value)


def _try(validator: Any, schema: Any) -> None:
    """Raise ValueError if it is no schema, or cannot be followed."""
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        type(validator).check_schema(schema)
        for example in (None, {}, [], "", 0, {"": ""}, [0]):
            validator.is_valid(example)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its top"
        raise ValueError(
            f"this is no JSON Schema: {error.message[:SHOWN]} (at {place}); correct it there"
        ) from None
    except Unresolvable as error:
        raise ValueError(
            f"the schema points to what it does not have: {str(error)[:SHOWN]}; add it under $defs"
        ) from None
    except RecursionError:
        raise ValueError("the schema refers to itself without end; remove the circle of $ref") from None
    except re.error as error:
        raise ValueError(f"a pattern of the schema is no regular expression: {error}; correct it") from None
