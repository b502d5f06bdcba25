"""What a person may wish of the packaged model. Light: imports core and the adapters' spec only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import SpecError
from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.models.spec import KEPT_BESIDE
from luthier.outputs.spec import AnsweringSpec, Constrain, FallbackSpec, HeldSpec, StepSpec, VoteSpec

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

    answers: list[StepSpec] = Field(default=[])
    """Steps from what the model says to an answer, in order, as in [json, {schema: {schema: answer.json}}]; measured and served
    alike."""
    constrain: Constrain = "auto"
    """`labels`: only a label of the task can be the answer; `auto`: labels for classify, nothing for others; null: nothing;
    {regex: ...} or {json_schema: ...}: what the model writes must match."""
    calibrate: Literal["auto", "temperature", "isotonic"] | None = "auto"
    """`temperature`: probabilities of labels are corrected by one number that the validation rows give; `isotonic`: the confidence
    of an answer becomes how often such answers are right, for labels and for free texts; `auto`: temperature for classify, and
    isotonic for others where abstain, abstain_below or fallback.below is asked; null: they stay as the model gives them."""
    vote: VoteSpec | None = None
    """Draw several answers and take what most of them say; the share of votes is the confidence."""
    fallback: FallbackSpec | None = None
    """Ask another model where this one is not sure, or where the steps refused its answer."""
    abstain_below: Share | None = None
    """Below this confidence the model declines to answer: the label's probability, the share of votes, or of a free text the
    geometric mean of its tokens' probabilities, each calibrated."""
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
        if self.abstain_below is not None and self.abstain is not None:
            raise ValueError("abstain_below and abstain both say when to decline; keep one")
        return self

    def calibrating(self, kind: str) -> bool:
        """Whether the model's confidence is looked at on the validation rows before it is measured and packed."""
        if self._labelled(kind) or self.calibrate == "isotonic":
            return self.calibrate is not None or self.abstain is not None
        return self.abstain is not None or (self.calibrate is not None and self._asks_how_sure)

    @property
    def _asks_how_sure(self) -> bool:
        below = self.fallback is not None and self.fallback.below is not None
        return below or self.abstain is not None or self.abstain_below is not None

    def isotonic(self, kind: str) -> bool:
        """Whether confidence is calibrated by an isotonic line."""
        return self.calibrate == "isotonic" or (self.calibrate == "auto" and not self._labelled(kind))

    def _labelled(self, kind: str) -> bool:
        return kind == "classify" and self.constrain in ("auto", "labels")

    def constrained(self, kind: str, own_head: bool = False) -> Literal["labels"] | HeldSpec | None:
        """What the answers of this kind of task are held to; `own_head`: training puts a head of its own on the model.
        Raises SpecError when the task has no labels, or a head that can say nothing else is left free."""
        if own_head:
            self._refuse_for_head(kind)
        if isinstance(self.constrain, HeldSpec):
            return self.constrain
        if kind == "classify":
            return None if self.constrain is None else "labels"
        for name, asked in (
            ("constrain: labels", self.constrain == "labels"),
            ("calibrate: temperature", self.calibrate == "temperature"),
        ):
            if asked:
                raise SpecError(
                    f"postprocess: {name} needs labels, and a {kind} task has none.",
                    remedy="Remove it, or set task.kind to classify.",
                )
        return None

    def _refuse_for_head(self, kind: str) -> None:
        if kind == "classify" and self.constrain is None:
            raise SpecError(
                "postprocess.constrain is null, and this model has a classification head: it can say nothing but a label.",
                remedy="Leave constrain out.",
            )
        told = "a label" if kind == "classify" else "a number"
        for name, asked in (
            ("constrain", isinstance(self.constrain, HeldSpec)),
            ("vote", self.vote is not None),
            ("calibrate: isotonic", kind != "classify" and self.calibrate == "isotonic"),
            ("abstain", kind != "classify" and (self.abstain is not None or self.abstain_below is not None)),
            (
                "fallback.below",
                kind != "classify" and self.fallback is not None and self.fallback.below is not None,
            ),
        ):
            if asked:
                raise SpecError(
                    f"postprocess.{name} is for answers that are written, and the head of this model gives {told}.",
                    remedy="Remove it, or train with method sft.",
                )

    def answering(self, kind: str, own_head: bool = False) -> AnsweringSpec:
        """The way from what the model says to an answer, as measured and served. Raises SpecError."""
        held = self.constrained(kind, own_head)
        if held == "labels" and self.vote is not None:
            raise SpecError(
                "postprocess.vote draws answers that are written, and with `constrain: labels` the probability of each label is known.",
                remedy="Remove vote; or write constrain: null and the step snap.",
            )
        return AnsweringSpec(answers=self.answers, constrain=held, vote=self.vote, fallback=self.fallback)

    def inlined(self, read: Callable[[str], str]) -> PostprocessSpec:
        """With the contents of files in it; `read` gives a file's text. Raises SpecError."""
        held = self.constrain if isinstance(self.constrain, HeldSpec) else None
        told = AnsweringSpec(answers=self.answers, constrain=held).inlined(read)
        constrain = self.constrain if held is None else told.constrain
        return self.model_copy(update={"answers": told.answers, "constrain": constrain})

    def check(self, task: Mapping[str, Any], read: Callable[[str], str], own_head: bool = False) -> None:
        """All that can be told before anything is spent: files, schemas, expressions, labels. `task` is a description whose
        `labels` and `schema` may be stand-ins. Raises SpecError, MissingPart."""
        self.inlined(read).answering(task["kind"], own_head).bound(task).check()

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
