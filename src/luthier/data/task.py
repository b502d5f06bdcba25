"""What a model is to learn to do, as far as the data decides it: hold a conversation, or choose a label.

Not here: how answers are scored (evaluation/tasks) or rendered into tokens (models/template).
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from luthier.core.spec import Spec


class TaskSpec(Spec):
    kind: Literal["chat", "classify", "regress"] = "chat"
    """What is learnt: `chat` to answer freely, `classify` to answer with one label, `regress` to answer with a number."""
    instruction: str | None = None
    """What the model is told before every row that brings no system message of its own; classify has a default."""
    instruction_role: Literal["system", "user"] = "system"
    """Where the instruction stands: a system message, or the opening of the first user message."""
    labels: Literal["auto"] | list[str] = "auto"
    """The allowed labels in order, or `auto` for all that occur, sorted; classify only."""

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
