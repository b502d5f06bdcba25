"""json_schema: answers that must be JSON are, and are what a schema says. For extraction, tool arguments,
structured labels.

    json_schema: {schema: {type: object, required: [city]}, repair: fences}

JSON is taken strictly (RFC 8259): no NaN, no comments, nothing around it, no key twice in one object.
`repair: fences` takes off the Markdown fence that models like to put around it, and nothing else. An answer
that is too long or nested too deep is refused, not read.

The schema is checked before any row is read. It stands in the recipe, whole: a $ref may point into the schema
alone, for nothing is ever fetched. `format` is not enforced, as JSON Schema 2020-12 leaves it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from luthier.core.errors import missing_part
from luthier.core.spec import Spec
from luthier.core.strict_json import once

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
DEEPEST_SCHEMA = 64
FENCED = re.compile(
    r"\s*+(`{3,}+|~{3,}+)[ \t]*+[\w+-]*+[ \t]*+\r?\n(?P<inside>.*\n)?[ \t]*+\1[ \t]*+\s*+", re.DOTALL
)
PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
SHOWN = 120
MOST_FENCES = 3
"""Around each other."""


class JsonSchema(Spec):
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    """The JSON Schema that each answer must meet, written out in the recipe; without it any JSON will do.
    Needs the extra `schema`."""
    on: Literal["answer", "assistant", "label"] = "answer"
    """What must be JSON: the last answer of a conversation, every turn of the assistant, or the label."""
    repair: Literal[False, "fences"] = False
    """`fences` takes Markdown's code fence off an answer that is JSON within it."""
    longest: int = Field(default=100_000, ge=1)
    """The most characters of an answer."""
    deepest: int = Field(default=50, ge=1, le=200)
    """How deep objects and lists may stand within each other."""

    @field_validator("schema_")
    @classmethod
    def _is_a_schema(cls, schema: Any) -> Any:
        for depth, key, value in _members(schema):
            if depth > DEEPEST_SCHEMA:
                raise ValueError(
                    f"the schema is nested deeper than {DEEPEST_SCHEMA} levels; write it flatter"
                )
            if key in REFERENCES and isinstance(value, str) and not value.startswith("#"):
                raise ValueError(
                    f"{key} {value[:60]!r} points outside the schema, and nothing is fetched; put that part under $defs and "
                    'write "#/$defs/NAME"'
                )
        if schema is not None and (validator := _validator(schema)) is not None:
            _try(validator, schema)
        return schema


def _members(schema: Any) -> Iterator[tuple[int, str, Any]]:
    """(depth, key, value) of all objects in it, without recursion."""
    todo: list[tuple[int, Any]] = [(0, schema)]
    while todo:
        depth, node = todo.pop()
        if isinstance(node, dict):
            yield from ((depth, str(key), value) for key, value in node.items())
            todo += [(depth + 1, value) for value in node.values()]
        elif isinstance(node, list):
            todo += [(depth + 1, value) for value in node]
        if depth > DEEPEST_SCHEMA:
            yield depth, "", None
            return


def _validator(schema: Any) -> Any:
    """None where the extra is not installed."""
    try:
        from jsonschema import validators
        from referencing import Registry
    except ImportError:
        return None
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    return kind(schema, registry=Registry())  # an empty registry fetches nothing


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


def _run(rows: Opened, settings: JsonSchema) -> Said:
    import numpy as np

    validator = None
    if settings.schema_ is not None:
        validator = _validator(settings.schema_)
        if validator is None:
            raise missing_part("jsonschema", "schema", "json_schema with a schema")
    why: dict[int, str] = {}
    mended: dict[int, str] = {}  # text to what is within its fence
    places = np.array([], np.int64)
    labels = rows.label.to_list()
    mended_labels = list(labels)
    if settings.on != "label":
        places = _answers(rows, settings)
        for place, text in zip(places.tolist(), rows.text.gather(places).to_list(), strict=True):
            row = int(rows.row[place])
            inside, reason = _judged(text, settings, validator)
            if reason:
                why.setdefault(row, f"the answer {reason}")
            elif inside != text:
                mended[place] = inside
                if labels[row] == text:
                    mended_labels[row] = inside
    else:
        _judge_labels(rows, settings, validator, why, mended, mended_labels)
    return _said(rows, why, mended, mended_labels if mended_labels != labels else None)


def _answers(rows: Opened, settings: JsonSchema) -> np.ndarray:
    import numpy as np

    mask = rows.says("assistant")
    return np.flatnonzero(mask) if settings.on == "assistant" else (last := rows.last(mask))[last >= 0]


def _judge_labels(
    rows: Opened,
    settings: JsonSchema,
    validator: Any,
    why: dict[int, str],
    mended: dict[int, str],
    mended_labels: list[str | None],
) -> None:
    """A label is often the last answer too: then both are mended."""
    last = rows.last(rows.says("assistant"))
    for row, label in enumerate(mended_labels):
        if label is None:
            why[row] = "there is no label"
            continue
        inside, reason = _judged(label, settings, validator)
        if reason:
            why[row] = f"the label {reason}"
        elif inside != label:
            mended_labels[row] = inside
            if last[row] >= 0 and rows.text[int(last[row])] == label:
                mended[int(last[row])] = inside


def _said(rows: Opened, why: dict[int, str], mended: dict[int, str], labels: list[str | None] | None) -> Said:
    import numpy as np
    import pyarrow as pa

    removed = rows.reasons(why)
    changed = {int(rows.row[place]) for place in mended}
    if labels is not None:
        changed |= {
            row for row, (old, new) in enumerate(zip(rows.label.to_list(), labels, strict=True)) if old != new
        }
    counts = {"fences": np.zeros(len(rows), np.int64)}
    counts["fences"][sorted(changed)] = 1
    if not changed:
        return Said(removed=removed)
    places = sorted(mended)
    return Said(
        text=rows.text.clone().scatter(places, [mended[place] for place in places]) if places else None,
        label=None if labels is None else pa.array(labels, pa.string()),
        changed=rows.reasons(dict.fromkeys(sorted(changed), "code fence")),
        removed=removed,
        counts=counts,
    )


def _judged(text: str, settings: JsonSchema, validator: Any) -> tuple[str, str | None]:
    """(the JSON of an answer, what is wrong with it)"""
    reason = wrong(text, settings, validator)
    if reason is None or settings.repair is False:
        return text, reason
    inside = text
    for _ in range(MOST_FENCES):
        match = FENCED.fullmatch(inside) if len(inside) <= settings.longest + 100 else None
        if match is None:
            break
        inside = (match["inside"] or "").strip()
    if inside == text:
        return text, reason
    within = wrong(inside, settings, validator)
    return (inside, None) if within is None else (text, within)


def wrong(text: str, settings: JsonSchema, validator: Any = None) -> str | None:
    """
    >>> wrong('{"a": 1}', JsonSchema()), wrong("{'a': 1}", JsonSchema())
    (None, 'is not JSON: Expecting property name enclosed in double quotes at character 2')
    """
    if len(text) > settings.longest:
        return f"has {len(text)} characters, more than {settings.longest}"
    if _depth(text) > settings.deepest:
        return f"is nested deeper than {settings.deepest} levels"
    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} at character {error.pos + 1}"
    except ValueError as error:
        told = str(error)
        return f"is not JSON: {told if told.startswith('the ') else 'a number has too many digits'}"
    if validator is None:
        return None
    try:
        fault = next(iter(validator.iter_errors(value)), None)
    except RecursionError:
        return "cannot be held against the schema, which refers to itself too often"
    if fault is None:
        return None
    place = "/".join(map(str, fault.absolute_path))
    message = fault.message if len(fault.message) <= SHOWN else fault.message[: SHOWN - 1] + "…"
    return f"does not meet the schema{f' at {place[:SHOWN]}' if place else ''}: {message}"


def _depth(text: str) -> int:
    """How deep brackets stand within each other, without those in strings."""
    if text.count("[") + text.count("{") < 2:
        return 1
    depth = deepest = 0
    for match in PIECE.finditer(text):
        piece = match[0]
        if piece in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif piece in "]}":
            depth -= 1
    return deepest


def _no_number(name: str) -> Any:
    raise ValueError(f"the value {name} is no number of JSON")


json_schema = RowRule(
    "json_schema",
    1,
    JsonSchema,
    "Removes rows whose answer is not the JSON that it should be.",
    _run,
    source="RFC 8259, JSON Schema 2020-12",
)
