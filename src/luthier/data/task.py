"""What a model is to learn to do, as far as the data decides it: hold a conversation, choose a label, give a number, or write
JSON of a schema.

Not here: how answers are scored (evaluation/tasks) or rendered into tokens (models/template).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec

LARGEST_SCHEMA = 1_000_000
LONGEST_TOLD = 2_000
"""Characters of a schema that stands in the default instruction."""


class TaskSpec(Spec):
    kind: Literal["chat", "classify", "regress", "extract"] = "chat"
    """What is learnt: `chat` to answer freely, `classify` to answer with one label, `regress` to answer with a number, `extract`
    to answer with JSON of a schema."""
    instruction: str | None = None
    """What the model is told before every row that brings no system message of its own; classify and extract have a default."""
    instruction_role: Literal["system", "user"] = "system"
    """Where the instruction stands: a system message, or the opening of the first user message."""
    labels: Literal["auto"] | list[str] = "auto"
    """The allowed labels in order, or `auto` for all that occur, sorted; classify only."""
    schema_: Literal["auto"] | dict[str, Any] | str = Field(default="auto", alias="schema")
    """The JSON Schema that every answer must meet, written out or as a JSON file, or `auto` for what the training rows have in
    common; extract only."""

    @model_validator(mode="after")
    def _schema_fits(self) -> TaskSpec:
        if self.schema_ != "auto" and self.kind != "extract":
            raise ValueError(f"a schema belongs to `kind: extract`; this task is {self.kind}")
        if isinstance(self.schema_, dict):
            from .schema import refuse

            refuse(self.schema_)
        return self

    def settled(self, root: Path) -> TaskSpec:
        """The same with a schema's file read: identity is what it holds. Raises DataError."""
        if isinstance(self.schema_, dict) or self.schema_ == "auto":
            return self
        return self.model_copy(update={"schema_": _schema_of(root / Path(self.schema_).expanduser())})

    @model_validator(mode="after")
    def _labels_fit(self) -> TaskSpec:
        if self.instruction is not None and not self.instruction.strip():
            raise ValueError("the instruction is blank; write one or leave the key out")
        if self.labels == "auto":
            return self
        if self.kind != "classify":
            raise ValueError(f"labels belong to `kind: classify`; this task is {self.kind}")
        if len(self.labels) < 2:
            raise ValueError("classify needs at least two labels")
        if twice := sorted({label for label in self.labels if self.labels.count(label) > 1}):
            raise ValueError(f"the label {twice[0]!r} stands twice in labels")
        if odd := [label for label in self.labels if label != label.strip() or not label]:
            raise ValueError(f"the label {odd[0]!r} is blank or has spaces around it")
        return self


def _schema_of(path: Path) -> dict[str, Any]:
    from .json_text import loads
    from .schema import refuse

    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= LARGEST_SCHEMA else None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"task.schema: {path} cannot be read: {why}.",
            remedy="Name a file with a JSON Schema, beside the recipe, or write the schema out.",
        ) from None
    if text is None:
        raise DataError(
            f"task.schema: {path} is larger than {LARGEST_SCHEMA:,} bytes.",
            remedy="Name a file with a JSON Schema.",
        )
    try:
        schema = loads(text)
        if not isinstance(schema, dict):
            raise ValueError("it holds no object")
        refuse(schema)
    except ValueError as error:
        raise DataError(
            f"task.schema: {path}: {error}.", remedy="Correct it there; nothing has been read."
        ) from None
    return schema


class SourceTaskSpec(Spec):
    """Of one source among several. Its kind and labels are the recipe's: one dataset is measured as one task."""

    instruction: str
    """What the model is told before every row of this source that brings no system message of its own."""
    instruction_role: Literal["system", "user"] = "system"
    """Where the instruction stands: a system message, or the opening of the first user message."""

    @model_validator(mode="after")
    def _says_something(self) -> SourceTaskSpec:
        if not self.instruction.strip():
            raise ValueError("the instruction is blank; write one or leave the source's task out")
        return self


def default_instruction(labels: list[str]) -> str:
    """What a classifier is told when the recipe does not say.

    >>> default_instruction(["billing", "login"])
    'Classify the text. Answer with exactly one of these labels and nothing else: billing, login'
    """
    return "Classify the text. Answer with exactly one of these labels and nothing else: " + ", ".join(labels)


def extract_instruction(schema: dict[str, Any] | None) -> str:
    """What an extractor is told when the recipe does not say: the schema, where there is one that is short enough.

    >>> extract_instruction(None)
    'Extract the data that the text holds. Answer with JSON and nothing else.'
    >>> extract_instruction({"type": "object"})
    'Extract the data that the text holds. Answer with JSON and nothing else, by this JSON Schema: {"type":"object"}'
    """
    told = "Extract the data that the text holds. Answer with JSON and nothing else"
    written = "" if schema is None else json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"{told}, by this JSON Schema: {written}" if 0 < len(written) <= LONGEST_TOLD else f"{told}."
