"""What may be wished of a run of the harness. Light: imports core only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from luthier.core.spec import Spec


class HarnessSpec(Spec):
    """Its tasks on one of our models."""

    tasks: list[str] = Field(min_length=1)
    """Names of tasks, groups or tags that the harness knows, or that `include` brings."""
    include: str | None = None
    """SHA-256 over the files of the folder with further tasks; the folder itself is the stage's root."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows of each task, its first."""
    shots: int | None = Field(default=None, ge=0)
    """Examples before each question; without it as many as the task says."""
    chat: bool = True
    """Whether prompts are put into the model's chat template."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of examples, and of answers that a task wants drawn."""
    resamples: int = Field(default=1000, ge=0)
    """Resamples of the harness' own bootstrap, for the errors of metrics that have no formula; 0 for none."""
    version: str = Field(min_length=1)
    """Of the package lm-eval: another one may ask or count otherwise."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of the weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    network: bool = False
    """Whether the harness may fetch the rows of its tasks."""

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("the same task stands twice")
        return value
