"""json_schema: answers that must be JSON are, and are what a schema says. For extraction, tool arguments,
structured labels.

    json_schema: {schema: {type: object, required: [city]}, repair: fences}

JSON is taken strictly (RFC 8259): no NaN, no comments, nothing around it, no key twice in one object.
`repair: fences` takes off the Markdown fence that models like to put around it, and nothing else. An answer
that is too long or nested too deep is refused, not read.

The schema is checked before any row is read. It stands in the recipe, whole: a $ref may point into the schema
alone, for nothing is ever fetched. `format` is not enforced, as JSON Schema 2020-12 leaves it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from luthier.core.spec import Spec
from luthier.data.schema import checker, read, refuse

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened

FENCED = re.compile(
    r"\s*+(`{3,}+|~{3,}+)[ \t]*+[\w+-]*+[ \t]*+\r?\n(?P<inside>.*\n)?[ \t]*+\1[ \t]*+\s*+", re.DOTALL
)
MOST_FENCES = 3
"""Around each other."""
Meets = Callable[[Any], str | None]


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
        if schema is not None:
            refuse(schema)
        return schema


def _run(rows: Opened, settings: JsonSchema) -> Said:
    import numpy as np

    meets = None if settings.schema_ is None else checker(settings.schema_, "json_schema with a schema")
    why: dict[int, str] = {}
    mended: dict[int, str] = {}  # text to what is within its fence
    places = np.array([], np.int64)
    labels = rows.label.to_list()
    mended_labels = list(labels)
    if settings.on != "label":
        places = _answers(rows, settings)
        for place, text in zip(places.tolist(), rows.text.gather(places).to_list(), strict=True):
            row = int(rows.row[place])
            inside, reason = _judged(text, settings, meets)
            if reason:
                why.setdefault(row, f"the answer {reason}")
            elif inside != text:
                mended[place] = inside
                if labels[row] == text:
                    mended_labels[row] = inside
    else:
        _judge_labels(rows, settings, meets, why, mended, mended_labels)
    return _said(rows, why, mended, mended_labels if mended_labels != labels else None)


def _answers(rows: Opened, settings: JsonSchema) -> np.ndarray:
    import numpy as np

    mask = rows.says("assistant")
    return np.flatnonzero(mask) if settings.on == "assistant" else (last := rows.last(mask))[last >= 0]


def _judge_labels(
    rows: Opened,
    settings: JsonSchema,
    meets: Meets | None,
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
        inside, reason = _judged(label, settings, meets)
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


def _judged(text: str, settings: JsonSchema, meets: Meets | None) -> tuple[str, str | None]:
    """(the JSON of an answer, what is wrong with it)"""
    reason = wrong(text, settings, meets)
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
    within = wrong(inside, settings, meets)
    return (inside, None) if within is None else (text, within)


def wrong(text: str, settings: JsonSchema, meets: Meets | None = None) -> str | None:
    """
    >>> wrong('{"a": 1}', JsonSchema()), wrong("{'a': 1}", JsonSchema())
    (None, 'is not JSON: Expecting property name enclosed in double quotes at character 2')
    """
    try:
        value = read(text, settings.longest, settings.deepest)
    except ValueError as error:
        return str(error)
    return None if meets is None else meets(value)


json_schema = RowRule(
    "json_schema",
    2,
    JsonSchema,
    "Removes rows whose answer is not the JSON that it should be.",
    _run,
    source="RFC 8259, JSON Schema 2020-12",
)
