"""A recipe's data half, guessed from one file, with a reason in words for every choice. Data only: who asked writes it
down, a person corrects it, and nothing is hidden.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .connectors import connect
from .connectors.cells import text_of
from .connectors.protocol import Estimate, Head, Secret
from .json_text import dumps
from .maps import MapSpec, Part, columns_of
from .schema import read
from .shapes import Shape, detect
from .spec import DEFAULT, DEFAULT_QUALITY, SourceSpec

SAMPLE_ROWS = 2_000
GROUPS = re.compile(
    r"(customer|client|user|account|session|conversation|thread|ticket|case|author|family|group|patient|device|document|doc|order|"
    r"url|domain|company|tenant)(_?(id|key|uuid|number|no))?$",
    re.IGNORECASE,
)
IDS = re.compile(r"(.*_)?(id|uuid|key|guid)$", re.IGNORECASE)
READ = ("user", "messages", "text", "rejected", "rating")
MOST_LABELS = 50
LONGEST_LABEL = 60
MOST_KEYS_SHOWN = 8


@dataclass(frozen=True)
class Choice:
    """One value for the recipe, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Proposal:
    """What `luthier init` writes. Rules are (section, entry as in a recipe, reason), in order."""

    files: str
    format: str
    columns: list[str]
    layout: Choice
    map: Choice
    others: list[Choice]
    task: Choice
    method: Choice
    labels: list[str] | None
    group_by: Choice
    rules: list[tuple[Literal["quality", "quantity"], str | dict[str, Any], str]]
    split: Choice
    estimate: Estimate
    sampled_rows: int
    confidence: float


def propose(files: str, base: Path, secret: Secret = lambda text: text) -> Proposal:
    """Look at the first rows of `files` (as a recipe would write it). Raises DataError when nothing can be made of it."""
    source = SourceSpec.model_validate({"files": files})
    connector = connect(source, base, secret)
    estimate = connector.estimate()
    head = connector.head(SAMPLE_ROWS)
    return propose_of(files, head, detect(head.columns, head.rows, source.default_name), estimate)


def propose_of(files: str, head: Head, shape: Shape, estimate: Estimate) -> Proposal:
    """The same of rows that were read, in a layout that is known."""
    answers = _answers(shape, head.rows)
    task, labels = _task(shape, answers)
    if labels is not None and shape.map.label is None and isinstance(shape.map.assistant, str):
        renamed = shape.map.model_copy(update={"assistant": None, "label": shape.map.assistant})
        shape = replace(shape, map=renamed)
    taken = {
        name
        for part in (*(getattr(shape.map, name) for name in READ), shape.map.answer)
        if part
        for name in columns_of(part)
    }
    group = _group(head.columns, head.rows, taken)
    chosen = _map(shape, head.columns, head.rows, taken | {group.value}, answers)
    return Proposal(
        files=files,
        format=head.format,
        columns=head.columns,
        layout=Choice(shape.name, shape.reason),
        map=chosen,
        others=[Choice(_written(one.map), one.reason) for one in shape.others],
        task=task,
        method=_method(shape),
        labels=labels,
        group_by=group,
        rules=_rules(shape, head.rows, answers, labels),
        split=_split(estimate, len(head.rows)),
        estimate=estimate,
        sampled_rows=len(head.rows),
        confidence=shape.confidence,
    )


def _method(shape: Shape) -> Choice:
    """What can be learnt from the layout, by the method's name."""
    if shape.map.rejected is not None:
        return Choice("dpo", "every row has a better and a worse answer")
    if shape.map.rating is not None:
        return Choice("kto", f"{shape.map.rating!r} says of every answer whether it is good")
    return Choice("sft", "every row shows what to say")


def _answers(shape: Shape, rows: Sequence[dict[str, Any]]) -> list[str | None]:
    """The last answer of every row; None where there is none, or where it is no text."""
    part = shape.map.answer or shape.map.messages
    if part is None:
        return []
    return [_answer(row.get(columns_of(part)[0]), shape.keys) for row in rows]


def _answer(cell: Any, keys: tuple[str, str]) -> str | None:
    if isinstance(cell, list):
        turns = [turn for turn in cell if isinstance(turn, dict)]
        last = turns[-1] if turns and turns[-1].get(keys[0]) in ("assistant", "gpt") else {}
        cell = last.get(keys[1])
    if isinstance(cell, dict):
        try:
            return dumps(cell)
        except (TypeError, ValueError):
            return None
    return None if cell is None or isinstance(cell, list) else text_of(cell)


def _task(shape: Shape, answers: list[str | None]) -> tuple[Choice, list[str] | None]:
    told = [answer for answer in answers if isinstance(answer, str) and answer.strip()]
    distinct = Counter(told)
    if shape.map.rejected is not None or shape.map.rating is not None:
        return Choice("chat", "the rows say which answers are better, not which label is right"), None
    few = 2 <= len(distinct) <= MOST_LABELS and len(distinct) * 5 <= len(told)
    if few and max(map(len, distinct)) <= LONGEST_LABEL:
        why = f"{len(told)} answers have only {len(distinct)} different values"
        return Choice("classify", why), sorted(distinct)
    if shape.name == "text":
        return Choice("chat", "the rows are plain text to learn as it stands"), None
    if told and (keys := _object_keys(told)) is not None:
        return Choice("extract", f"all {len(told)} answers are JSON objects, with {keys}"), None
    return Choice(
        "chat", f"{len(told)} answers have {len(distinct)} different values, so they are free text"
    ), None


def _object_keys(answers: Sequence[str]) -> str | None:
    """What the keys of answers are, in words; None where not all are JSON objects."""
    found: Counter[str] = Counter()
    for answer in answers:
        try:
            value = read(answer) if answer.lstrip().startswith("{") else None
        except ValueError:
            return None
        if not isinstance(value, dict):
            return None
        found.update(value.keys())
    names = [repr(name[:40]) for name, _ in found.most_common(MOST_KEYS_SHOWN)]
    more = f" and {len(found) - len(names)} more" if len(found) > len(names) else ""
    return f"the keys {', '.join(names)}{more}" if names else "no keys"


def _group(columns: Sequence[str], rows: Sequence[dict[str, Any]], taken: set[str]) -> Choice:
    """A column whose equal values likely belong together: named like one, with values that repeat but are many."""
    for name in columns:
        if name in taken or not GROUPS.search(name):
            continue
        values = _plain_values(name, rows)
        distinct = len(set(values))
        if values and 10 <= distinct <= 0.9 * len(values):
            return Choice(
                name,
                f"{len(values)} rows share {distinct} values of {name!r}: equal ones must not stand on two sides of the split",
            )
    return Choice(
        None, "no column looks like a customer, conversation or other group whose rows belong together"
    )


def _map(
    shape: Shape,
    columns: Sequence[str],
    rows: Sequence[dict[str, Any]],
    taken: set[str],
    answers: list[str | None],
) -> Choice:
    wish = shape.map
    reason = shape.reason
    for name in columns:
        if name not in taken and IDS.search(name):
            values = _plain_values(name, rows)
            if len(values) == len(rows) > 1 and len(set(values)) == len(values):
                wish = wish.model_copy(update={"id": name})
                reason += f"; {name!r} names every row once"
                break
    missing = sum(answer is None for answer in answers)
    if missing:
        wish = wish.model_copy(update={"on_bad_row": "set_aside"})
        reason += f"; {missing} of the first {len(rows)} rows have no answer and would be set aside"
    return Choice(_written(wish), reason)


def _written(wish: MapSpec) -> dict[str, Part]:
    return {
        name: value for name, value in wish.plain().items() if value != MapSpec.model_fields[name].default
    }


def _rules(
    shape: Shape, rows: Sequence[dict[str, Any]], answers: list[str | None], labels: list[str] | None
) -> list[tuple[Literal["quality", "quantity"], str | dict[str, Any], str]]:
    inputs = _inputs(shape, rows)
    repeated = len(inputs) - len(set(inputs))
    rules: list[tuple[Literal["quality", "quantity"], str | dict[str, Any], str]] = [
        (
            "quality",
            DEFAULT,
            f"{', '.join(DEFAULT_QUALITY)}: of the first {len(rows)} rows {sum(not text for text in inputs)} have an empty input, "
            f"and {repeated} repeat an earlier one",
        )
    ]
    if labels:
        sizes = Counter(answer for answer in answers if answer)
        most, least = max(sizes.values()), min(sizes.values())
        if most > 5 * least:
            why = f"the largest label has {most} rows and the smallest {least}"
            rules.append(("quantity", {"balance": {"at_most": "median"}}, why))
    return rules


def _inputs(shape: Shape, rows: Sequence[dict[str, Any]]) -> list[str]:
    part = shape.map.user or shape.map.text
    if part is None:
        return [str(row.get(columns_of(shape.map.messages or shape.map.chosen or "")[0])) for row in rows]
    return [
        " ".join(" ".join(str(row.get(name) or "") for name in columns_of(part)).casefold().split())
        for row in rows
    ]


def _split(estimate: Estimate, sampled: int) -> Choice:
    rows = estimate.rows if estimate.rows is not None else sampled
    if rows < 2_000:
        return Choice(
            {"validation": 0.1, "test": 0.2},
            f"about {rows} rows: a fifth is needed to measure with some certainty",
        )
    return Choice({"validation": 0.1, "test": 0.1}, f"about {rows:,} rows: a tenth is enough to measure")


def _plain_values(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = (row.get(name) for row in rows)
    return [str(cell) for cell in cells if cell is not None and not isinstance(cell, list | dict)]
