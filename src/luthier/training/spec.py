"""What a person may wish of training. Light: imports core and the adapters' spec only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from luthier.core.part import PartSpec
from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.models.spec import AdapterSpec, LoraSpec

from .method import MethodSettings

DEFAULT_LEARNING_RATE = {"lora": 2e-4, "full": 2e-5}
VALIDATIONS_PER_EPOCH = 4


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
    """When to stop because the validation loss no longer falls."""

    patience: int = Field(default=3, ge=1)
    """Validations in a row without a new low before training stops."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much the loss must fall to count as a new low."""


class TrainSpec(Spec):
    """How the base model is changed."""

    method: MethodSpec = Field(default_factory=lambda: MethodSpec.model_validate("sft"))
    """What is learnt from a row, by name or as {name: settings}: `sft` learns to say the assistant's turns."""
    adapter: AdapterSpec = LoraSpec()
    """What moves: `{kind: lora, rank: 16}` or `{kind: full}`."""
    epochs: float = Field(default=3.0, gt=0, le=10_000)
    """Passes over the training rows; may be a fraction."""
    max_steps: int | None = Field(default=None, ge=1)
    """At most so many optimizer steps, whatever `epochs` says."""
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate; without it 2e-4 for lora and 2e-5 for full."""
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
    """Most tokens of a row; without it the model's context. Rows are never cut."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """A row with more tokens than that: stop before training, or leave the row out and record it."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; without it four times an epoch. The start and the last step are always validated."""
    early_stopping: EarlyStoppingSpec | None = None
    """Stop when the validation loss no longer falls; needs a validation split."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; without it one a minute. Each new best validation is kept in any case."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the computation; auto: bf16 where the processor has it in hardware, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: cuda when there is one."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the order of rows, the adapter's start and dropout."""

    @property
    def other_models(self) -> Mapping[str, str]:
        """Base models that the method's settings name, by role: a teacher, say."""
        return self.method.settings.models() if isinstance(self.method.settings, MethodSettings) else {}

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or DEFAULT_LEARNING_RATE[self.adapter.kind]
