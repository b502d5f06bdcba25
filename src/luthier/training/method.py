"""The seam of a training method: records become rows, rows a batch, a batch a summed loss. The loop knows no more.

    encode    record      -> Example        which tokens, which of them are learnt, and what else the loss reads
    attach    (once)                        a module of its own on the model, if it has one; `save` writes it
    prepare   (once)                        figures that need the model as it was before the first step
    unfold    rows        -> rows           by asking the model (what it writes is learnt from); most return them as they are
    collate   rows        -> Batch          on the CPU; pure
    loss      model, batch -> Loss          differentiable

A method is a class named in core/plugin.py under "method" or by an entry point; `spec` is the Spec of its settings.
Its file must be light to import (torch inside functions), because a recipe is read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from luthier.core.spec import Spec

if TYPE_CHECKING:
    from luthier.core.stage import Context
    from luthier.models.shapes import Facts
    from luthier.models.template import Encoded, Template

    from .machine import Machine
    from .rows import Row, Rows


class MethodSettings(Spec):
    """The parent of a method's settings."""

    def models(self) -> Mapping[str, str]:
        """Base models that the method needs beside the one that is trained, by role; `Work.folders` will hold them."""
        return {}

    def asks_start(self) -> str | None:
        """The setting, if any, that asks the model from before the first step again in every step: the adapter must then
        be one that can be switched off."""
        return None


class NoSettings(MethodSettings):
    """Of a method that has none."""


@dataclass(frozen=True)
class Example:
    """One record as a method sees it: one sequence or several (chosen and rejected, say).

    `signal` is a number that belongs to the row (a rating, a value to predict); `answer` a text to compare with.
    """

    sequences: Sequence[Encoded]
    signal: float | None = None
    answer: str | None = None


class Batch(Protocol):
    """A micro-batch. Weights are known before anything is computed, because the loop divides by their sum over all
    micro-batches of the optimizer step, never by a micro-batch's own."""

    @property
    def tokens(self) -> int:
        """Tokens of its rows."""

    @property
    def supervised(self) -> int:
        """Tokens (or whatever the method counts) that carry loss."""

    @property
    def row_weights(self) -> Sequence[float]:
        """Each row's part of the normaliser; for sft its supervised tokens times its weight."""

    def to(self, device: Any) -> Batch:
        """The same batch with its tensors there."""


@dataclass(frozen=True)
class Loss:
    """`sum` is a scalar tensor, not yet divided. `by_row` [R] is the same sum row by row, detached. `metrics` are sums
    too, and shown divided by the weight."""

    sum: Any
    by_row: Any
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What `prepare` may use. `folders` holds the base and whatever models the settings name, by role; `scratch`
    outlives a crash; `identity` names the data and the base that figures kept there follow from."""

    folders: Mapping[str, Path]
    template: Template
    machine: Machine
    micro_tokens: int
    scratch: Path
    identity: str
    at: Context


class Method(Protocol):
    """Must be a pure function of rows, weights and torch's random state: cutting a step into other micro-batches
    may change the result by rounding only. Inherit from it to have `prepare` and `unfold` do nothing."""

    spec: ClassVar[type[MethodSettings]]
    """The Spec of its settings."""
    watch: ClassVar[tuple[str, Literal["min", "max"]]] = ("loss", "min")
    """The validation figure that says which weights are best, unless the recipe names another."""
    figures: tuple[str, ...] = ("loss",)
    """The validation figures there are; a recipe may watch one of them."""
    task: ClassVar[str | None] = None
    """The only kind of task that it learns; None: any."""
    through_vocabulary: ClassVar[bool] = True
    """Whether its loss reads the output head, as wide as the vocabulary. For plans and profiles."""
    unit: ClassVar[str] = "nats per supervised token"
    """What its loss counts, as the caption of a chart says it."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Which of a record's own judgements of its answer it uses: `rejected`, `rating`. Rows that bring others are told."""
    share: bool = False
    """Whether `collate` may compute once what sequences of a micro-batch begin with: set where nothing draws dropout."""

    def __init__(self, settings: Any) -> None: ...

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        """One record (data.records.RECORD) as tokens. Raises ModelError and its kinds, DataError."""

    def check(self, splits: Mapping[str, Rows]) -> None:
        """Look at all rows together, before anything is computed. Raises DataError where there is nothing to learn."""

    def attach(self, model: Any, splits: Mapping[str, Rows], work: Work, seed: int) -> None:
        """Put a module of one's own on the model (a head). What of it requires gradients is trained with the adapter."""

    def save(self, model: Any, folder: Path) -> None:
        """Write what `attach` put on the model beside it, and take it off: the adapter is saved next."""

    def prepare(self, model: Any, splits: Mapping[str, Rows], work: Work) -> None:
        """Called once, before a checkpoint is put back: `model` is what training starts from, on its device. What goes
        through the rows tells its progress (`work.at.progress`): a plan takes from that how long all rows will take."""

    def unfold(self, model: Any, rows: Sequence[Row], seed: int) -> Sequence[Row]:
        """The rows that this step really learns from. Must follow from its arguments."""
        return rows

    def grows(self) -> tuple[int, int]:
        """For plans, of `unfold`: how many rows a row of training becomes (one of validation stays one), and how many
        tokens each of them may have more than the row that it came from."""
        return 1, 0

    def collate(self, rows: Sequence[Row]) -> Batch:
        """One micro-batch of these rows, on the CPU."""

    def loss(self, model: Any, batch: Any) -> Loss:
        """The summed loss, differentiable unless gradients are off."""

    def holds(self, facts: Facts, others: Mapping[str, Facts], tokens: int, width: int) -> Mapping[str, int]:
        """For plans: bytes it holds, by name, beside the model and one micro-batch of `tokens` in a format of `width`
        bytes: another model, a cache of generated tokens. `others`: facts of the models that its settings name."""
        return {}
