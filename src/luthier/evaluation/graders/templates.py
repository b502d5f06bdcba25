"""Templates of graders and evals: `{{item.path}}` and `{{sample.path}}` in a text, where a path is names and places of plain JSON.

    check(text)               is it one; which of the two does it look at
    rendered(text, names)     with the values in place; a text as it is, anything else as JSON

There are no filters, calls, conditions or loops: what is between the braces is looked up, and what was put in is not looked at again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.errors import SpecError

LONGEST = 200_000
LONGEST_RENDERED = 1_000_000
MOST_REFERENCES = 200
_REFERENCE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"\s{0,8}(item|sample)((?:\.[A-Za-z0-9_-]{1,128}|\[[0-9]{1,6}\]){0,16})\s{0,8}", re.ASCII)
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]", re.ASCII)
OUTPUT_JSON = "output_json"


class Missing(SpecError):
    """A template looks at something that is not there. `not_json`: it wants JSON of an answer that is none."""

    def __init__(self, path: str, *, not_json: bool = False) -> None:
        why = "the answer is not JSON" if not_json else "there is nothing there"
        super().__init__(f"{{{{{path}}}}}: {why}.", remedy="Correct the template, or the row.")
        self.not_json = not_json


class TooLong(SpecError):
    pass


def check(text: str, where: str = "the template") -> frozenset[str]:
    """{"item", "sample"}: what it looks at. Raises SpecError.

    >>> sorted(check("{{ item.question }} -> {{sample.output_text}}")), sorted(check("plain"))
    (['item', 'sample'], [])
    """
    if len(text) > LONGEST:
        raise SpecError(
            f"{where} has {len(text):,} characters, more than {LONGEST:,}.", remedy="Write it shorter."
        )
    found = []
    for match in _REFERENCE.finditer(text):
        path = _PATH.fullmatch(match[1])
        if path is None:
            raise SpecError(
                f"{where} holds {match[0][:80]!r}, which is no reference.",
                remedy="Write {{item.NAME}} or {{sample.output_text}}; there is nothing else between double braces.",
            )
        found.append(path)
    rest = _REFERENCE.sub("", text)
    if "{{" in rest or "}}" in rest:
        raise SpecError(
            f"{where} holds double braces that are not closed, or not opened.",
            remedy="Write {{item.NAME}}; double braces have no other use here.",
        )
    if len(found) > MOST_REFERENCES:
        raise SpecError(f"{where} refers to more than {MOST_REFERENCES} values.", remedy="Write it shorter.")
    return frozenset(path[1] for path in found)


def rendered(
    text: str, names: Mapping[str, Any], shown: Callable[[str, str], str] = lambda _, value: value
) -> str:
    """Of a text that was checked. `shown(path, value)`: how a value is put in. Raises Missing, TooLong.

    >>> rendered("{{item.a.b[1]}}/{{ sample.output_text }}", {"item": {"a": {"b": [1, {"c": 2}]}}, "sample": {"output_text": "{{item.a}}"}})
    '{"c": 2}/{{item.a}}'
    """
    length = len(text)

    def put(match: re.Match[str]) -> str:
        nonlocal length
        path = match[1].strip()
        made = shown(path, as_text(looked_up(path, names)))
        length += len(made)
        if length > LONGEST_RENDERED:
            raise TooLong(
                f"a template became longer than {LONGEST_RENDERED:,} characters.",
                remedy="Look at less of the row.",
            )
        return made

    return _REFERENCE.sub(put, text)


def looked_up(path: str, names: Mapping[str, Any]) -> Any:
    """The value at `item.x[0].y`. Raises Missing, and SpecError for what is no path."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise SpecError(f"{path[:80]!r} is no reference.", remedy="Write item.NAME.")
    value: Any = names.get(match[1], {})
    for step in _STEP.finditer(match[2]):
        name, place = step.groups()
        if isinstance(value, Mapping) and name is not None and name in value:
            value = value[name]
        elif isinstance(value, list) and (place or name).isdigit() and int(place or name) < len(value):
            value = value[int(place or name)]
        else:
            raise Missing(path, not_json=match[1] == "sample" and match[2].startswith(f".{OUTPUT_JSON}"))
    return value


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
