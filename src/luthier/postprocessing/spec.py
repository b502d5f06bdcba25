"""What a person may wish of the packaged model. Light: imports core and the adapters' spec only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import SpecError
from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.models.spec import KEPT_BESIDE

Form = Literal["adapter", "merged", "int8", "int4", "gguf", "gguf-q8", "gguf-q4", "onnx"]
FORMS: tuple[Form, ...] = ("adapter", "merged", "int8", "int4", "gguf", "gguf-q8", "gguf-q4", "onnx")
"""In the order in which they are made; what each is: postprocessing/forms.py."""


class AbstainSpec(Spec):
    """When the model had better not answer."""

    risk: float = Field(gt=0, lt=1)
    """The largest share of wrong answers among those that are given."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """How sure that must be, from the validation rows."""


class PostprocessSpec(Spec):
    """How answers are refined, and in which forms the model is packed."""

    constrain: Literal["auto", "labels"] | None = "auto"
    """`labels`: only a label of the task can be the answer; `auto`: labels for classify, nothing for chat; null: nothing."""
    calibrate: Literal["auto", "temperature"] | None = "auto"
    """`temperature`: probabilities are corrected by one number that the validation rows give; `auto`: that for classify,
    nothing for others; null: they stay as the model gives them."""
    abstain_below: Share | None = None
    """Below this share of probability the model declines to answer; needs answers constrained to labels."""
    abstain: AbstainSpec | None = None
    """In the place of `abstain_below`: the share of wrong answers that is tolerated, as in {risk: 0.02}; the validation rows
    give the probability from which on the model answers."""
    export: list[Form] | None = Field(default=None, min_length=1)
    """The forms to pack: `adapter` (peft), `merged` (whole weights), `int8` and `int4` (whole, the blocks' layers in 8 or 4 bits),
    `gguf`, `gguf-q8` and `gguf-q4` (llama.cpp, in 16, 8 or about 5 bits), `onnx` (ONNX Runtime); without it the adapter for lora and
    ia3, whole weights for full and head."""

    @field_validator("export")
    @classmethod
    def _each_once(cls, value: list[Form] | None) -> list[Form] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("the same form stands twice")
        return value

    @model_validator(mode="after")
    def _abstains_from_something(self) -> PostprocessSpec:
        for name in ("abstain_below", "abstain"):
            if getattr(self, name) is not None and self.constrain is None:
                raise ValueError(f"`{name}` needs probabilities of labels; set `constrain: labels`")
        if self.abstain_below is not None and self.abstain is not None:
            raise ValueError("abstain_below and abstain both say when to decline; keep one")
        return self

    def calibrating(self, kind: str) -> bool:
        """Whether the model's probabilities are looked at on the validation rows before it is measured and packed."""
        return kind == "classify" and (self.calibrate is not None or self.abstain is not None)

    def constrained(self, kind: str, own_head: bool = False) -> Literal["labels"] | None:
        """What the answers of this kind of task are held to; `own_head`: training puts a head of its own on the model.
        Raises SpecError when the task has no labels, or a head that can say nothing else is left free."""
        if kind == "classify":
            if own_head and self.constrain is None:
                raise SpecError(
                    "postprocess.constrain is null, and this model has a classification head: it can say nothing but a label.",
                    remedy="Leave constrain out.",
                )
            return None if self.constrain is None else "labels"
        for name, asked in (
            ("constrain: labels", self.constrain == "labels"),
            ("abstain_below", self.abstain_below is not None),
            ("abstain", self.abstain is not None),
            ("calibrate: temperature", self.calibrate == "temperature"),
        ):
            if asked:
                raise SpecError(
                    f"postprocess: {name} needs labels, and a {kind} task has none.",
                    remedy="Remove it, or set task.kind to classify.",
                )
        return None

    def forms(self, adapter: str) -> tuple[Form, ...]:
        """The folders to make. Raises SpecError when an adapter is asked of a model without one."""
        if self.export is None:
            return ("adapter",) if adapter in KEPT_BESIDE else ("merged",)
        if adapter not in KEPT_BESIDE and "adapter" in self.export:
            raise SpecError(
                f"postprocess.export: adapter was asked, and {adapter} fine-tuning has no adapter.",
                remedy="Write export: [merged], or train with adapter {kind: lora}.",
            )
        return tuple(form for form in FORMS if form in self.export)
