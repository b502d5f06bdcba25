"""What a person may wish of a merge of several models. Light: imports core and the models' spec only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec
from luthier.models.spec import Dtype


class LinearSpec(Spec):
    kind: Literal["linear"] = "linear"
    """The weighted mean of the models' weights; only the weights' proportions count."""


class TaskArithmeticSpec(Spec):
    kind: Literal["task_arithmetic"] = "task_arithmetic"
    """The base and the weighted sum of what each model learnt; a negative weight takes something out (Ilharco et al. 2023)."""


class TiesSpec(Spec):
    kind: Literal["ties"] = "ties"
    """What each model learnt, trimmed, and averaged where signs agree (Yadav et al. 2023)."""
    density: float = Field(default=0.2, gt=0, le=1)
    """The share of each tensor's change that is kept, the largest first."""


class DareSpec(Spec):
    kind: Literal["dare"] = "dare"
    """What each model learnt, thinned out by chance and scaled up, before it is combined (Yu et al. 2024)."""
    density: float = Field(default=0.5, gt=0, le=1)
    """The chance of each number to stay."""
    then: Literal["linear", "ties"] = "linear"
    """How the thinned changes are combined: their weighted sum, or by the elected sign."""
    seed: int = Field(default=0, ge=0)
    """Which numbers are dropped."""


class SlerpSpec(Spec):
    kind: Literal["slerp"] = "slerp"
    """Along the arc between two models; their weights are not used."""
    t: float = Field(default=0.5, ge=0, le=1)
    """0 is the first model, 1 the second."""


LawSpec = Annotated[
    LinearSpec | TaskArithmeticSpec | TiesSpec | DareSpec | SlerpSpec, Field(discriminator="kind")
]


class MergeSpec(Spec):
    """How models of one base become one."""

    method: LawSpec = LinearSpec()
    """The law: linear, task_arithmetic, ties, dare or slerp."""
    weights: list[float] = Field(min_length=1)
    """One per model, in their order."""
    dtype: Dtype | None = None
    """The number format of the result; null: the base's own."""

    @model_validator(mode="after")
    def _weights_fit_the_law(self) -> MergeSpec:
        kind, weights = self.method.kind, self.weights
        if kind == "slerp" and len(weights) != 2:
            raise ValueError(f"slerp goes from one model to one other, and {len(weights)} are given")
        if kind == "slerp" and any(weight != 1 for weight in weights):
            raise ValueError("slerp: t alone says how far to go, and weights are not used; leave them out")
        if kind == "linear" and sum(weights) <= 0:
            raise ValueError(
                "linear: the weights' sum must be above 0; to take a task out use task_arithmetic"
            )
        if kind == "linear" and min(weights) < 0:
            raise ValueError("linear: a weight below 0 is no share; to take a task out use task_arithmetic")
        if kind in ("task_arithmetic", "ties", "dare") and not any(weights):
            raise ValueError(f"{kind}: every weight is 0, so the result would be the base")
        return self
