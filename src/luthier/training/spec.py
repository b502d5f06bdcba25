"""What a person may wish of training. Light: imports core and the adapters' spec only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.part import PartSpec
from luthier.core.spec import Spec
from luthier.core.units import Count, Money, MoneyField, Seconds, Share
from luthier.models.spec import AdapterSpec, LoraSpec

from .method import MethodSettings

VALIDATIONS_PER_EPOCH = 4
AVERAGE_OF = 3


class MethodSpec(PartSpec):
    """What is learnt from a row; written `sft` or `{dpo: {beta: 0.1}}`."""

    kind = "method"
    example = "{dpo: {beta: 0.1}}"


class BatchSpec(Spec):
    """How many rows make an optimizer step, and how it is cut to fit in memory."""

    rows: int = Field(default=16, ge=1, le=100_000)
    """Rows per optimizer step; the last step of an epoch may have fewer."""
    micro_tokens: int = Field(default=2048, ge=16, le=10_000_000)
    """Most tokens computed at once; a longer row goes alone. Less needs less memory and learns the same."""


class EarlyStoppingSpec(Spec):
    """When to stop because validation no longer gets better."""

    metric: str | None = None
    """Which validation figure is watched (loss, token_accuracy, ...), and decides which weights are best; without it the method's own."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether less or more of it is better; auto: known from the figure's name."""
    patience: int = Field(default=3, ge=1)
    """Validations in a row without a new best before training stops."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much the figure must get better to count as a new best."""


class StopAtSpec(Spec):
    """What may be spent on training. When it is, training stops after that step, validates once more and keeps what the recipe keeps."""

    time: Seconds | None = Field(default=None, gt=0)
    """Time spent in steps and validations, those before a stop and restart included (`30 min`)."""
    tokens: Count | None = Field(default=None, gt=0)
    """Tokens that steps have computed (`2M`)."""
    money: MoneyField | None = None
    """What that time costs at the price of `budget.machine`, times `budget.machines` (`5 USD`)."""

    @field_validator("money")
    @classmethod
    def _some(cls, money: Money | None) -> Money | None:
        if money is not None and money.amount <= 0:
            raise ValueError(f"{money} buys no step; write more than 0")
        return money


class DivergenceSpec(Spec):
    """When training is given up because the loss runs away; the best validated weights are kept."""

    factor: float = Field(default=2.0, gt=1)
    """How many times the running median of the step losses is too much."""
    patience: int = Field(default=8, ge=1)
    """Steps in a row above that, and above the loss that training began with."""
    window: int = Field(default=50, ge=2)
    """Steps before those that the median is taken of."""


class MixSpec(Spec):
    """How much of each source an epoch holds: `{weights: {tickets: 0.7, faq: 0.3}}` or `{temperature: 2}`."""

    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """Each source's share by name, in any unit; every source is named, and 0 leaves one out."""
    temperature: float | None = Field(default=None, ge=1, le=1000)
    """Shares by size to the power of 1 over this: 1 is by size, more brings small sources forward."""

    @model_validator(mode="after")
    def _one_of_them(self) -> MixSpec:
        if (self.weights is None) == (self.temperature is None):
            raise ValueError("a mix is either {weights: {NAME: SHARE, ...}} or {temperature: T}")
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError("every weight is 0, so nothing would be trained on")
        return self


class ParallelSpec(Spec):
    """Several processes of this machine that share the work of each step; the result is one process's up to rounding."""

    kind: Literal["none", "ddp", "fsdp"] = "none"
    """none; ddp: the whole model in each process; fsdp: weights, gradients and moments cut across processes (full fine-tuning only)."""
    processes: int | None = Field(default=None, ge=1, le=64)
    """How many; without it one per GPU."""

    @model_validator(mode="after")
    def _of_some_kind(self) -> ParallelSpec:
        if self.kind == "none" and self.processes is not None:
            raise ValueError(
                f"processes: {self.processes} without a kind; add kind: ddp (or fsdp), or remove it"
            )
        return self


class TrainSpec(Spec):
    """How the base model is changed."""

    method: MethodSpec = Field(default_factory=lambda: MethodSpec.model_validate("sft"))
    """What is learnt from a row, by name or as {name: settings}: `sft` learns to say the assistant's turns."""
    adapter: AdapterSpec = LoraSpec()
    """What moves: `{kind: lora, rank: 16}`, `{kind: ia3}`, `{kind: full}`, `{kind: full, last_layers: 4}` or `{kind: head}`."""
    mix: Literal["by_size"] | MixSpec = "by_size"
    """How much of each source an epoch holds: every row once, or a share of the draws for each."""
    order: Literal["shuffled", "short_first"] | list[str] = "shuffled"
    """In what order rows come: shuffled, the first epoch from short to long, or source after source as listed here."""
    epochs: float = Field(default=3.0, gt=0, le=10_000)
    """Passes over the training rows; may be a fraction."""
    max_steps: int | None = Field(default=None, ge=1)
    """At most so many optimizer steps, whatever `epochs` says."""
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate; without it 2e-4 for lora, 3e-3 for ia3, 2e-5 for full (6e-4 from random weights), 1e-3 for head."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warm-up: to zero along a cosine, to zero along a line, or not at all."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay (AdamW) on matrices; never on norms and biases."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest gradient norm; longer gradients are scaled down to it. null: no limit."""
    batch: BatchSpec = BatchSpec()
    """Rows per optimizer step and tokens per micro-batch."""
    longest: int | None = Field(default=None, ge=2)
    """Most tokens of a row; without it the model's context. Rows are never cut. Of a method that writes
    answers of its own (`grpo`, `distill` at level: sequence) the question alone counts."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """A row with more tokens than that: stop before training, or leave the row out and record it."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; without it four times an epoch. The start and the last step are always validated."""
    early_stopping: EarlyStoppingSpec | None = None
    """Stop when validation no longer gets better; needs a validation split."""
    stop_at: StopAtSpec = StopAtSpec()
    """Stop when so much time or so many tokens are spent; the learning rate still falls as if all epochs were done."""
    divergence: DivergenceSpec | None = DivergenceSpec()
    """Give up when the loss runs away and keep the best validated weights; for methods that watch their loss. null: never."""
    keep: Literal["best", "last", "average"] = "best"
    """Which weights become the model: the best validated, the last, or the average of the best ones where it validates better still."""
    average_of: int | None = Field(default=None, ge=2, le=20)
    """Most weights that `keep: average` takes together, without it 3; a checkpoint of each is held on disk."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; without it one a minute. Each new best validation is kept in any case."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the computation; auto: bf16 where the processor has it in hardware, else fp32."""
    activation_checkpointing: bool | Literal["auto"] = "auto"
    """Keep only each block's input and compute the rest again in the backward pass: less memory, about a third slower, the
    same result. auto: only where training would not fit in memory otherwise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: cuda when there is one."""
    parallel: ParallelSpec = ParallelSpec()
    """Whether several processes share the work."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the order of rows, the adapter's start and dropout."""

    @model_validator(mode="after")
    def _average_of_what(self) -> TrainSpec:
        if self.average_of is not None and self.keep != "average":
            raise ValueError(
                f"average_of is read with keep: average alone, and keep is {self.keep}; remove one or the other"
            )
        return self

    @property
    def ranked(self) -> int:
        """How many of the best validated weights are held until the end."""
        return (self.average_of or AVERAGE_OF) if self.keep == "average" else 1

    @property
    def other_models(self) -> Mapping[str, str]:
        """Base models that the method's settings name, by role: a teacher, say."""
        return self.method.settings.models() if isinstance(self.method.settings, MethodSettings) else {}

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or self.adapter.default_learning_rate
