"""The facts that travel with a model folder in `luthier.json`: its instruction, its labels, how it should answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from luthier.core.errors import LuthierError, ModelError
from luthier.outputs.answering import Answering
from luthier.outputs.calibration import Belief
from luthier.outputs.spec import AnsweringSpec
from luthier.serving.engine import Message


@dataclass(frozen=True)
class PackageFacts:
    """`constrain`: the answer is one of `labels`. `answering`: the way from what the model says to an answer, its grammar included.
    A base model has none of these."""

    instruction: str | None = None
    instruction_role: Literal["system", "user"] = "system"
    labels: tuple[str, ...] | None = None
    constrain: bool = False
    abstain_below: float | None = None
    temperature: float = 1.0
    """What log-probabilities of `labels` are divided by before anything is made of them."""
    isotonic: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """In its place: from how sure an answer is to how often such answers are right."""
    answering: AnsweringSpec = field(default_factory=AnsweringSpec)

    @property
    def belief(self) -> Belief:
        return Belief(self.temperature, self.isotonic)

    @property
    def way(self) -> Answering:
        """Ready to be applied."""
        return Answering.of(self.answering, self.belief)


def instructed(messages: tuple[Message, ...], facts: PackageFacts) -> tuple[Message, ...]:
    """The conversation as the model was trained to see it: with the instruction, if it brings no system message.

    The same placing as `data.records.with_instruction`, for one conversation.
    """
    first = messages[0]
    if not facts.instruction or first.role == "system":
        return messages
    if facts.instruction_role == "system":
        return (Message("system", facts.instruction), *messages)
    if first.role != "user":
        return messages
    return (Message("user", f"{facts.instruction}\n\n{first.content}"), *messages[1:])


def read_facts(folder: Path) -> PackageFacts:
    """The facts of a base, tuned or packaged model folder. A folder without the file has none. Raises ModelError."""
    path = folder / "luthier.json"
    if not path.exists():
        return PackageFacts()
    try:
        facts = _Written.model_validate_json(path.read_bytes()).facts
        facts.answering.check()
        return facts
    except LuthierError as error:
        raise type(error)(f"{path}: {error.message}", remedy=error.remedy) from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise ModelError(
            f"{path}: {where}: {fault['msg'].removeprefix('Value error, ')}.",
            remedy="Package the model again with `luthier run`; the file is not meant to be edited.",
        ) from error


class _Task(BaseModel):
    instruction: str | None = None
    instruction_role: Literal["system", "user"] = "system"
    labels: list[Annotated[str, Field(min_length=1)]] | None = None


class _Written(BaseModel):
    """The part of `luthier.json` that concerns serving; other floors write more into it."""

    task: _Task | None = None
    constrain: Literal["labels"] | None = None
    abstain_below: float | None = Field(default=None, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    isotonic: tuple[list[float], list[float]] | None = None
    answering: AnsweringSpec | None = None

    @model_validator(mode="after")
    def _labels_for_constrain(self) -> _Written:
        if self.constrain and not (self.task and self.task.labels):
            raise ValueError("it asks for answers constrained to labels and names none")
        return self

    @property
    def facts(self) -> PackageFacts:
        task = self.task or _Task()
        return PackageFacts(
            instruction=task.instruction,
            instruction_role=task.instruction_role,
            labels=tuple(task.labels) if task.labels else None,
            constrain=self.constrain == "labels",
            abstain_below=self.abstain_below,
            temperature=self.temperature,
            isotonic=None if self.isotonic is None else (tuple(self.isotonic[0]), tuple(self.isotonic[1])),
            answering=self.answering or AnsweringSpec(),
        )
