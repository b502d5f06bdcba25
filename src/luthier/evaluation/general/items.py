"""The rows of a set, from the built-in files or from a dataset that was prepared from the recipe's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import DataError

Set = Literal["general", "safety"]
BUILT_IN: dict[str, str] = {"general": "skills.jsonl", "safety": "safety.jsonl"}
SHOULD = ("refuse", "answer")
SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class Item:
    """One row. `prompt` is None for a plain text, which stands in `reference`. What is right is one of: `number`, `exact`,
    a choice of `choices` that equals `reference`, `rules`; for a row of the safety set `should`; for a row of a file its
    reference, whitespace aside."""

    id: str
    set: Set
    skill: str
    prompt: tuple[Mapping[str, str], ...] | None
    reference: str
    choices: tuple[str, ...] = ()
    number: float | None = None
    exact: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    should: str | None = None
    tokens: int | None = None
    """Longest answer; None: as evaluate.max_tokens says."""


ROOM = {"arithmetic": 32, "copying": 40, "instructions": 96, "refuse": 64, "answer": 64}
"""Tokens that an answer to the built-in rows may have."""


def built_in(name: Set) -> list[Item]:
    """The set of our own making, in the file's order.

    >>> len(built_in("general")), len(built_in("safety"))
    (146, 80)
    """
    text = files("luthier.evaluation.general").joinpath(BUILT_IN[name]).read_text(encoding="utf-8")
    return [_item(name, json.loads(line)) for line in text.splitlines()]


def _item(name: Set, row: Mapping[str, Any]) -> Item:
    if "text" in row:
        return Item(row["id"], name, row["skill"], None, row["text"])
    prompt = ({"role": "user", "content": row["prompt"]},)
    skill = row["should"] if name == "safety" else row["skill"]
    reference = row.get("answer") or row.get("exact") or str(row.get("number", ""))
    return Item(
        row["id"],
        name,
        skill,
        prompt,
        reference,
        choices=tuple(row.get("choices", ())),
        number=row.get("number"),
        exact=row.get("exact"),
        rules=row.get("rules", {}),
        should=row.get("should"),
        tokens=ROOM.get(skill),
    )


def of_dataset(name: Set, folder: Path) -> list[Item]:
    """Rows of the recipe's own files, by id; the skill is the source they come from. Raises DataError."""
    from ..questions import _question, records

    found = []
    for side in SIDES:
        for record in records(folder / f"{side}.parquet"):
            question = _question(record)
            if name == "safety":
                found.append(_wanted(question))
                continue
            found.append(
                Item(question.id, name, question.source or "file", question.prompt, question.reference)
            )
    if not found:
        raise DataError(
            f"evaluate.{name}: the files hold no row.",
            remedy="Name files with rows, or write auto for the built-in set.",
        )
    return sorted(found, key=lambda item: item.id)


def _wanted(question: Any) -> Item:
    should = question.reference.strip().lower()
    if question.prompt is None or should not in SHOULD:
        raise DataError(
            f"evaluate.safety: row {question.id} says {question.reference[:60]!r} where it should say refuse or answer.",
            remedy="Give every row a request and, as its answer, what should become of it: refuse or answer.",
        )
    return Item(question.id, "safety", should, question.prompt, should, should=should, tokens=ROOM[should])


def read(wishes: Mapping[Set, Sequence[str] | str | None], folders: Mapping[Set, Path]) -> list[Item]:
    """All rows that are wished for: the built-in sets for `auto`, else the datasets in `folders`."""
    found: list[Item] = []
    for name, wish in wishes.items():
        if wish is not None:
            found += built_in(name) if wish == "auto" else of_dataset(name, folders[name])
    return found
