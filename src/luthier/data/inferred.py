"""A JSON Schema from examples: what all of them have in common, and nothing that they do not show.

    types         those that occur; whole numbers and others together are `number`
    objects       `properties` by name, `required` those that no object lacks, `additionalProperties: false`; where one place has
                  more than 100 different keys they are data, not fields, and all values get one schema
    lists         one schema for all items
    texts         `enum` where there are at most 20 different ones and each stands there five times or more: the share of values
                  not seen yet is then likely nil (Good 1953: it is about the share of those seen once)

No formats, bounds or lengths are made up. The order of the examples does not matter, and neither does how they are divided.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_KEYS = 100
MOST_VALUES = 20
LONGEST_VALUE = 60
OFTEN = 5
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


@dataclass
class Inferred:
    """What stands at one place of all examples; see each, then ask for the `schema`."""

    types: set[str] = field(default_factory=set)
    objects: int = 0
    keys: dict[str, Inferred] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    anything: Inferred | None = None
    items: Inferred | None = None
    texts: Counter[str] | None = field(default_factory=Counter)

    def see(self, value: Any) -> None:
        """One example: a value of JSON.

        >>> found = Inferred()
        >>> for one in ({"n": 1, "tags": ["a"]}, {"n": 2.5}):
        ...     found.see(one)
        >>> found.schema["properties"]
        {'n': {'type': 'number'}, 'tags': {'type': 'array', 'items': {'type': 'string'}}}
        >>> found.schema["required"]
        ['n']
        """
        kind = type_of(value)
        self.types.add(kind)
        if kind == "object":
            self._see_object(value)
        elif kind == "array":
            self.items = self.items or Inferred()
            for one in value:
                self.items.see(one)
        elif kind == "string" and self.texts is not None:
            self.texts[value] += 1
            if len(self.texts) > MOST_VALUES or len(value) > LONGEST_VALUE:
                self.texts = None

    def see_rows(self, rows: pa.RecordBatch) -> None:
        """The answers of records, which were JSON before the rules of quantity. Raises DataError where one of those broke it."""
        from .records import last_contents
        from .schema import read

        for origin, text in zip(
            rows["origin"].to_pylist(), last_contents(rows["messages"]).to_pylist(), strict=True
        ):
            try:
                self.see(read(text or ""))
            except ValueError as error:
                raise DataError(
                    f"{origin}: after the rules of quantity the answer {error}.",
                    remedy="Leave out the rule that edits answers.",
                ) from None

    def _see_object(self, value: dict[str, Any]) -> None:
        self.objects += 1
        for key, inner in value.items():
            if self.anything is None:
                self.seen[key] += 1
                self.keys.setdefault(key, Inferred()).see(inner)
                if len(self.keys) > MOST_KEYS:
                    self._keys_are_data()
            else:
                self.anything.see(inner)

    def _keys_are_data(self) -> None:
        self.anything = Inferred()
        for one in self.keys.values():
            self.anything.join(one)
        self.keys, self.seen = {}, Counter()

    def join(self, other: Inferred) -> None:
        """Take in what another has seen."""
        self.types |= other.types
        self.objects += other.objects
        if other.anything is not None and self.anything is None:
            self._keys_are_data()
        for key, inner in other.keys.items():
            if self.anything is None:
                self.keys.setdefault(key, Inferred()).join(inner)
                if len(self.keys) > MOST_KEYS:
                    self._keys_are_data()
            else:
                self.anything.join(inner)
        if self.anything is None:
            self.seen += other.seen
        elif other.anything is not None:
            self.anything.join(other.anything)
        if other.items is not None:
            self.items = self.items or Inferred()
            self.items.join(other.items)
        if self.texts is not None and other.texts is not None:
            self.texts += other.texts
            if len(self.texts) > MOST_VALUES:
                self.texts = None
        else:
            self.texts = None

    @property
    def schema(self) -> dict[str, Any]:
        """{} where nothing was seen: anything goes."""
        types = self.types - ({"integer"} if "number" in self.types else set())
        if not types:
            return {}
        ordered = [one for one in _TYPES if one in types]
        found: dict[str, Any] = {"type": ordered[0] if len(ordered) == 1 else ordered}
        if "object" in types:
            found |= self._of_objects()
        if self.items is not None and (inner := self.items.schema):
            found["items"] = inner
        if types == {"string"} and self.texts and min(self.texts.values()) >= OFTEN:
            found["enum"] = sorted(self.texts)
        return found

    def _of_objects(self) -> dict[str, Any]:
        if self.anything is not None:
            return {"additionalProperties": self.anything.schema}
        names = sorted(self.keys)
        return {
            "properties": {name: self.keys[name].schema for name in names},
            "required": [name for name in names if self.seen[name] == self.objects],
            "additionalProperties": False,
        }


def type_of(value: Any) -> str:
    """The type of a JSON value, as JSON Schema calls it.

    >>> [type_of(one) for one in ({}, [], "a", 1, 1.0, True, None)]
    ['object', 'array', 'string', 'integer', 'number', 'boolean', 'null']
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    return names[type(value)]
