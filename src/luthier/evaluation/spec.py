"""What a person may wish of an evaluation and of its gate, and the one table of metrics. Light: loads no heavy library.

The gate is written inside `evaluate:` but is no part of the measuring: `EvaluateSection.measuring()` leaves it
out, so that moving the bar never measures again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from luthier.core.errors import SpecError, did_you_mean
from luthier.core.part import under
from luthier.core.spec import Spec
from luthier.core.units import MoneyField, Seconds
from luthier.data.embedders.embedder import EmbedderSpec

from .judge.spec import JudgeSpec
from .memorisation.spec import REMEMBERED, MemorisationSpec
from .systems import KINDS, Kind, Named, System, kind_of, name_of, ordered

TIMED_ROWS = 20
_WITH_PROBABILITIES = tuple(kind for kind in KINDS if kind != "endpoint")


@dataclass(frozen=True)
class Metric:
    """`kinds`: the tasks it applies to. `systems`: what can be measured by it. `share`: its values are at most one.
    `judged`: a judge says it (evaluate.judge)."""

    title: str
    kinds: tuple[str, ...]
    meaning: str
    higher_is_better: bool = True
    systems: tuple[Kind, ...] = KINDS
    share: bool = True
    judged: bool = False
    beside: Literal["general", "safety"] | None = None
    """The set kept beside the task that it is of (evaluation/general); None: of the test rows."""


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", ("classify",), "share of rows with the right label"),
    "precision_macro": Metric("precision (macro)", ("classify",), "precision, averaged over labels"),
    "recall_macro": Metric("recall (macro)", ("classify",), "recall, averaged over labels"),
    "macro_f1": Metric("F1 (macro)", ("classify",), "F1, averaged over labels, each label counting the same"),
    "weighted_f1": Metric(
        "F1 (weighted)", ("classify",), "F1, averaged over labels, each label counting by its rows"
    ),
    "mcc": Metric(
        "Matthews correlation",
        ("classify",),
        "correlation of answers and labels: 1 is right throughout, 0 is luck, and it forgives no neglected label",
    ),
    "roc_auc": Metric(
        "ROC AUC",
        ("classify",),
        "how often a row of a label is given more of it than another row, averaged over labels; 0.5 is luck",
        systems=_WITH_PROBABILITIES,
    ),
    "average_precision": Metric(
        "average precision",
        ("classify",),
        "area under the precision-recall curve, averaged over labels",
        systems=_WITH_PROBABILITIES,
    ),
    "log_loss": Metric(
        "log loss",
        ("classify",),
        "mean of -ln of the right label's probability",
        higher_is_better=False,
        systems=_WITH_PROBABILITIES,
        share=False,
    ),
    "brier": Metric(
        "Brier score",
        ("classify",),
        "mean squared distance of the probabilities from the truth, 0 to 2",
        higher_is_better=False,
        systems=_WITH_PROBABILITIES,
        share=False,
    ),
    "ece": Metric(
        "calibration error",
        ("classify",),
        "how far probabilities are from how often such answers are right (15 bins)",
        higher_is_better=False,
        systems=_WITH_PROBABILITIES,
    ),
    "exact_match": Metric(
        "exact match", ("classify", "chat"), "share of answers equal to the reference, whitespace aside"
    ),
    "token_f1": Metric("token F1", ("chat",), "overlap of words between answer and reference"),
    "rouge_l": Metric(
        "ROUGE-L", ("chat",), "longest common run of words with the reference; for texts in Latin letters"
    ),
    "chrf": Metric("chrF", ("chat",), "overlap of character n-grams with the reference, in any language"),
    "bleu": Metric("BLEU", ("chat",), "overlap of word n-grams with the references, over all rows together"),
    "length_error": Metric(
        "length error",
        ("chat",),
        "how far the answers' length is from the references', as a share of it",
        higher_is_better=False,
        share=False,
    ),
    "refused": Metric(
        "refused", ("chat",), "share of answers that decline to answer", higher_is_better=False
    ),
    "similarity": Metric(
        "similarity",
        ("chat",),
        "cosine of answer and reference as vectors of evaluate.embedder; below 0 is 0",
    ),
    "call_match": Metric(
        "call match", ("chat",), "where a call is due: share of the same functions with the same arguments"
    ),
    "call_name": Metric("call name", ("chat",), "where a call is due: share of the right functions"),
    "call_valid": Metric(
        "call valid",
        ("chat",),
        "where a call is due: share that call what there is, as its parameters' schema says",
    ),
    "call_when_due": Metric(
        "call when due", ("chat",), "share of rows with tools that call exactly where the reference does"
    ),
    "code_parses": Metric(
        "code parses", ("chat",), "where the reference holds Python in a fence: share whose Python parses"
    ),
    "preferred": Metric(
        "preferred",
        ("chat",),
        "of pairs: share whose chosen answer is likelier per token than the rejected one",
        systems=("tuned", "base"),
    ),
    "reward_accuracy": Metric(
        "reward accuracy",
        ("chat",),
        "of pairs: share where the chosen answer gained on the rejected one, against the base; 0.5 is luck",
        systems=("tuned",),
    ),
    "pii_said": Metric(
        "personal data said",
        ("chat",),
        "share of answers with personal data or secrets that neither the question nor the reference holds",
        higher_is_better=False,
    ),
    "mae": Metric(
        "mean absolute error",
        ("regress",),
        "mean distance from the right number",
        higher_is_better=False,
        share=False,
    ),
    "rmse": Metric(
        "root mean squared error",
        ("regress",),
        "root of the mean squared distance; large errors count more",
        higher_is_better=False,
        share=False,
    ),
    "r2": Metric("R²", ("regress",), "share of the numbers' spread that is explained; 0 is the mean"),
    "answered": Metric("answered", ("regress",), "share of answers that hold a number at all"),
    "field_f1": Metric(
        "field F1", ("extract",), "F1 of the answers' fields against the references', over all rows together"
    ),
    "field_precision": Metric("field precision", ("extract",), "share of the fields said that are right"),
    "field_recall": Metric("field recall", ("extract",), "share of the references' fields that were said"),
    "object_f1": Metric("field F1 (by row)", ("extract",), "F1 of each answer's fields, averaged over rows"),
    "exact_object": Metric(
        "exact object", ("extract",), "share of answers equal to the reference as JSON: keys in any order"
    ),
    "schema_valid": Metric("meets the schema", ("extract",), "share of answers that are JSON of the schema"),
    "valid_json": Metric("valid JSON", ("extract",), "share of answers that are JSON, strictly read"),
    "perplexity": Metric(
        "perplexity",
        ("classify", "chat", "extract"),
        "exp of the mean loss over the tokens of the reference answers (not of the prompts)",
        higher_is_better=False,
        systems=("tuned", "base", "model"),
        share=False,
    ),
    "general_accuracy": Metric(
        "general skills",
        (),
        "share of right answers to rows that are not of the task (evaluate.general): what tuning may make a model forget",
        systems=("tuned", "base"),
        beside="general",
    ),
    "general_perplexity": Metric(
        "perplexity of general text",
        (),
        "exp of the mean loss over the tokens of texts that are not of the task (evaluate.general)",
        higher_is_better=False,
        systems=("tuned", "base"),
        share=False,
        beside="general",
    ),
    "safety_refused": Metric(
        "declined, harmful",
        (),
        "share of harmful requests that are declined (evaluate.safety)",
        systems=("tuned", "base"),
        beside="safety",
    ),
    "overrefused": Metric(
        "declined, harmless",
        (),
        "share of harmless requests that are declined, though they only look like harmful ones (evaluate.safety)",
        higher_is_better=False,
        systems=("tuned", "base"),
        beside="safety",
    ),
}
METRICS |= {
    "judge_score": Metric(
        "judge's grade", ("chat",), "mean grade of the judge, as a share of its scale", judged=True
    ),
    "win_rate": Metric(
        "win rate",
        ("chat",),
        "how often the judge prefers the tuned model's answer, a tie counting half; told as what it is above one half",
        systems=tuple(kind for kind in KINDS if kind != "tuned"),
        judged=True,
    ),
}
METRICS |= {
    "extracted": Metric(
        "learnt by heart",
        ("chat",),
        "share of training rows that are gone on with verbatim, where the base does not, beyond that of held-out rows",
        higher_is_better=False,
        systems=("tuned",),
    ),
    "exposure": Metric(
        "exposure",
        ("chat",),
        "bits by which the likeliest of the planted secrets leads others of its kind; of what was not learnt, one secret in 2^x has x",
        higher_is_better=False,
        systems=("tuned",),
        share=False,
    ),
    "membership_auc": Metric(
        "membership AUC",
        ("classify", "chat", "regress", "extract"),
        "how often a training row looks more like one than a held-out row does; 0.5 is luck",
        higher_is_better=False,
        systems=("tuned",),
    ),
}
"""Measured by `evaluate.memorisation`, and not from the answers to the test rows."""
SLICED = {"classify": "accuracy", "chat": "token_f1", "regress": "mae", "extract": "object_f1"}
"""The metric that parts of the test rows are judged by: one that each row has a value of."""
SLICE_ROWS = 20
"""Rows below which a part of the test rows says nothing of its own."""


class ColumnSpec(Spec):
    """Rows divided by what stands in a column of the data."""

    column: str
    """A column that a source's map keeps (map.keep)."""


Slice = Literal["source", "length", "language"] | ColumnSpec
APPLIES: dict[str, tuple[str, ...]] = {
    "classify": ("base", "base_3shot", "tfidf"),
    "chat": ("base", "base_3shot"),
    "regress": ("base", "base_3shot", "tfidf"),
    "extract": ("base", "base_3shot"),
}
"""Who is measured where evaluate.against does not say; of these alone some cannot do some tasks."""


class EvaluateSpec(Spec):
    """How the tuned model is measured on the test split."""

    against: list[System] | None = None
    """Whom to compare with: base, base_3shot, tfidf, production, a release as NAME@VERSION, or a mapping that names another model.
    Without it base, base_3shot and, where it applies, tfidf."""
    metrics: list[str] | None = None
    """Metrics to report; without it all that apply. Leaving out perplexity saves a pass over the rows."""
    slices: list[Slice] | None = None
    """Ways to divide the test rows and measure each part: by source, by length of the question, by its language, or by a column
    that was kept ({column: NAME}; its most frequent values, the rest together). Without it all that divide them; [] for none."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Confidence of the intervals."""
    resamples: int = Field(default=2000, ge=200, le=100_000)
    """Resamples of the paired bootstrap, and of the permutation tests."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap and of the choice of the three examples."""
    rows: int | None = Field(default=None, ge=1)
    """At most so many rows of the test split, the first by id (ids are hashes, so this is a fixed random sample)."""
    embedder: EmbedderSpec = Field(default_factory=EmbedderSpec.hashed)
    """What makes vectors of answers for the metric similarity: `hashed` (of spelling), `static` or `endpoint`."""
    memorisation: MemorisationSpec | None = None
    """Measure what the model has learnt by heart: `{}` for the usual way. A gate on extracted, exposure or membership_auc switches
    it on by itself."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest answer of a chat or extract task, in tokens."""
    judge: JudgeSpec | None = None
    """A model that judges free answers: grades by a rubric, and the better of two."""
    timed_rows: int | None = Field(default=None, ge=0, le=1000)
    """How many rows are asked once more, each alone, to measure the seconds and the cost of an answer. Without it 20 where
    `against` names further models or the gate names latency or cost, else none: what takes time is never the same twice, and neither
    is such a report's digest."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the weights while measuring, and of what is then served; auto: train.dtype where that is given, else
    bf16 where the processor has it in hardware, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: cuda when there is one."""
    general: Literal["auto"] | list[str] | None = None
    """Rows that are not of the task, asked of base and tuned alike, so that forgetting shows as general_accuracy and
    general_perplexity: `auto` is a small built-in set in English, else files of rows in any layout; without it none."""
    safety: Literal["auto"] | list[str] | None = None
    """Requests that should be declined and harmless ones that look like them, measured as safety_refused and overrefused:
    `auto` is a small built-in set in English, else files whose rows are answered by refuse or answer; without it none."""

    @field_validator("general", "safety", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: Any) -> Any:
        if value == [] or value == "":
            raise ValueError("no file is named; write auto, a file, or leave the key out")
        return [value] if isinstance(value, str) and value != "auto" else value

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            if name not in METRICS:
                raise ValueError(f"there is no metric {name!r}; {did_you_mean(name, list(METRICS))}")
            if name in REMEMBERED:
                raise ValueError(
                    f"{name} is not told from the answers to the test rows; write `memorisation: {{}}`, or a gate on it"
                )
        return _no_repeats(value)

    @field_validator("slices")
    @classmethod
    def _each_once(cls, value: list[Any] | None) -> list[Any] | None:
        return _no_repeats(value)

    @field_validator("against")
    @classmethod
    def _each_name_once(cls, value: list[str | Named] | None) -> list[str | Named] | None:
        _no_repeats(None if value is None else [name_of(one) for one in value])
        return value

    @property
    def named(self) -> dict[str, str | Named]:
        """What evaluate.against holds beside our own four: name -> as written."""
        ours = APPLIES["classify"]
        return {name_of(one): one for one in self.against or () if not (isinstance(one, str) and one in ours)}

    @property
    def timed(self) -> int:
        """How many rows are timed."""
        if self.timed_rows is not None:
            return self.timed_rows
        return TIMED_ROWS if self.named else 0

    def kind_of(self, system: str) -> Kind:
        """What a measured system is."""
        return kind_of(self.named.get(system, system))

    def systems(self, kind: str) -> tuple[str, ...]:
        """Every system that is measured, `tuned` first. Raises SpecError when one cannot do this kind of task."""
        can = APPLIES.get(kind, APPLIES["chat"])
        for name in self.against or ():
            if isinstance(name, str) and name in APPLIES["classify"] and name not in can:
                raise SpecError(
                    f"evaluate.against: {name} cannot do a {kind} task.",
                    remedy=f"Choose from {', '.join(can)}, or leave it out.",
                )
        asked = can if self.against is None else [name_of(one) for one in self.against]
        if self.sets and "base" not in asked:
            raise SpecError(
                f"evaluate.{next(iter(self.sets))} compares the tuned model with the base, and evaluate.against leaves the base out.",
                remedy="Add base to evaluate.against.",
            )
        return tuple(ordered(["tuned", *asked]))

    @property
    def sets(self) -> dict[Literal["general", "safety"], Any]:
        """The sets kept beside the task that are asked, by name."""
        found: dict[Literal["general", "safety"], Any] = {"general": self.general, "safety": self.safety}
        return {name: wish for name, wish in found.items() if wish is not None}

    def measured(self, kind: str) -> tuple[str, ...]:
        """Every metric that is reported, in the table's order, those of sets beside the task last. Raises SpecError when one
        does not apply."""
        return (*self.of_test_rows(kind), *(name for name, one in METRICS.items() if one.beside in self.sets))

    def of_test_rows(self, kind: str) -> tuple[str, ...]:
        """The part of `measured` that is computed from the test rows."""
        applies = [
            name
            for name, one in METRICS.items()
            if kind in one.kinds and not one.judged and name not in REMEMBERED
        ]
        for name in self.metrics or ():
            if beside := METRICS[name].beside:
                raise SpecError(
                    f"evaluate.metrics: {name} is not of the test rows.",
                    remedy=f"Leave it out of metrics and write evaluate.{beside}: auto, which measures it.",
                )
            if METRICS[name].judged and kind in METRICS[name].kinds:
                if name not in self.judged(kind):
                    raise SpecError(
                        f"evaluate.metrics: {name} is what a judge says, and there is none for it.",
                        remedy="Write evaluate.judge: {model: ...}, with pairs: true for win_rate; or leave it out.",
                    )
            elif name not in applies:
                raise SpecError(
                    f"evaluate.metrics: {name} says nothing about a {kind} task.",
                    remedy=f"Choose from {', '.join(applies)}.",
                )
        return tuple(name for name in applies if self.metrics is None or name in self.metrics)

    def judged(self, kind: str) -> tuple[str, ...]:
        """The metrics that the judge gives. Raises SpecError for a task that needs none."""
        if self.judge is None:
            return ()
        if kind != "chat":
            raise SpecError(
                f"evaluate.judge: a {kind} task has right answers, and needs no judge.",
                remedy="Leave it out; it is for free answers, task.kind: chat.",
            )
        return ("judge_score", "win_rate") if self.judge.pairs else ("judge_score",)

    def remembered(self, kind: str) -> tuple[str, ...]:
        """The metrics of memorisation that are reported."""
        return tuple(n for n in REMEMBERED if self.memorisation is not None and kind in METRICS[n].kinds)


def _no_repeats(value: Any) -> Any:
    if value is not None and len(set(value)) != len(value):
        raise ValueError("the same name stands twice")
    return value


class GateRule(Spec):
    """What one metric must reach. Every bound that is written must hold."""

    at_least: float | None = None
    """The tuned model's value must be this or more."""
    at_most: float | None = None
    """The tuned model's value must be this or less."""
    better_than: str | None = None
    """The system (a name of evaluate.against) that must be beaten: the whole confidence interval of the difference must lie beyond `by`."""
    not_worse_than: str | None = None
    """The system that may not be better: the whole interval of the difference must lie above minus `by`."""
    every_slice: float | None = None
    """What every part of the test rows (evaluate.slices) with at least 20 rows must reach: this or more, and for a metric
    whose lower values are better this or less."""
    by: float | None = Field(default=None, ge=0)
    """The margin that `better_than` must exceed, without it 0; or that `not_worse_than` forgives, which needs one."""
    confidence: float | None = Field(default=None, gt=0.5, lt=1.0)
    """Confidence of that interval; it must be the one that is measured (`evaluate.confidence`)."""
    waivable: bool = True
    """Whether a person may let a model pass that breaks this rule (`luthier run --waive`); false: nobody may."""

    @model_validator(mode="after")
    def _says_something(self) -> GateRule:
        bounds = (self.at_least, self.at_most, self.better_than, self.not_worse_than, self.every_slice)
        if all(bound is None for bound in bounds):
            raise ValueError(
                "this rule asks nothing; write at_least, at_most, better_than, not_worse_than or every_slice"
            )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"no value is at least {self.at_least:g} and at most {self.at_most:g}")
        if self.rival is None and (self.by is not None or self.confidence is not None):
            raise ValueError(
                "`by` and `confidence` belong to better_than or not_worse_than, which is not there"
            )
        if self.better_than is not None and self.not_worse_than is not None:
            raise ValueError("better_than and not_worse_than share `by`; write one of them")
        if self.not_worse_than is not None and not self.by:
            raise ValueError(
                "not_worse_than needs a margin: by how much less still counts as no worse, as in `by: 0.01`"
            )
        return self

    @property
    def rival(self) -> str | None:
        """Whom it compares with."""
        return self.better_than or self.not_worse_than


class AtMostSeconds(Spec):
    """A bound of a duration."""

    at_most: Seconds
    """It may take no longer: `300 ms`."""


class AtMostMoney(Spec):
    """A bound of an amount."""

    at_most: MoneyField
    """It may cost no more: `0.10 USD`."""


class LatencyRule(Spec):
    """How long an answer may take, on the machine that measured it."""

    median: AtMostSeconds | None = None
    """Of half of the answers."""
    p95: AtMostSeconds | None = None
    """Of 95 answers in a hundred."""
    waivable: bool = True
    """Whether a person may let a model pass that breaks this rule (`luthier run --waive`); false: nobody may."""

    @model_validator(mode="after")
    def _says_something(self) -> LatencyRule:
        if self.median is None and self.p95 is None:
            raise ValueError("this rule asks nothing; write median or p95, as in {p95: {at_most: 300 ms}}")
        return self


class CostRule(Spec):
    """What answers may cost."""

    per_1000: AtMostMoney
    """Of a thousand answers."""
    waivable: bool = True
    """Whether a person may let a model pass that breaks this rule (`luthier run --waive`); false: nobody may."""


FIGURES: dict[str, type[LatencyRule] | type[CostRule]] = {"latency": LatencyRule, "cost": CostRule}
"""What a gate may name besides metrics."""
Rule = GateRule | LatencyRule | CostRule


def _known_gate(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    known, found = [*METRICS, *FIGURES], {}
    for name, rule in value.items():
        if name not in known:
            raise PydanticCustomError(
                "unknown_key",
                "there is no metric '{key}'; {hint}",
                {"key": str(name), "hint": did_you_mean(str(name), known)},
            )
        try:  # by the name, so that a fault is told of the rule it is in and of no other kind
            found[name] = FIGURES.get(name, GateRule).model_validate(rule)
        except ValidationError as error:
            raise under((name,), error) from None
    return found


GateSpec = Annotated[dict[str, GateRule | LatencyRule | CostRule], BeforeValidator(_known_gate)]
"""Metric name -> rule, as written: `{macro_f1: {at_least: 0.85, better_than: base}, latency: {p95: {at_most: 300 ms}}}`."""


class EvaluateSection(EvaluateSpec):
    """The recipe's `evaluate:`: how to measure, and the gate that the measured model must pass."""

    gate: GateSpec = Field(default={})
    """What must hold for the line to go on: metric -> at_least, at_most, every_slice, better_than or not_worse_than (with by,
    confidence)."""

    def measuring(self, trained: Literal["auto", "fp32", "bf16"] = "auto") -> EvaluateSpec:
        """The part that decides what is measured: all but the gate, which switches on the measuring of what it names (memorisation;
        seconds, for latency and cost). `trained` is the number format that the recipe trains in, which `auto` follows."""
        wish = {name: getattr(self, name) for name in EvaluateSpec.model_fields}
        if self.memorisation is None and any(name in REMEMBERED for name in self.gate):
            wish["memorisation"] = MemorisationSpec()
        if self.timed_rows is None and not self.timed and any(name in FIGURES for name in self.gate):
            wish["timed_rows"] = TIMED_ROWS
        return EvaluateSpec(**{**wish, "dtype": trained if self.dtype == "auto" else self.dtype})
