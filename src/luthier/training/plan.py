"""What training would take, before anything is spent: steps and tokens exactly, memory from formulas, time from a
probe's steps. Pure: a forecast follows from the spec, the models' facts, the rows' lengths and the probe's figures.

Not here: the formulas of memory (training/memory), money (cost/forecast) and the probe itself (training/probe).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.errors import SpecError
from luthier.models.shapes import Dtype, Facts
from luthier.models.spec import LoraSpec

from .batches import steps_per_epoch, total_steps
from .memory import Lengths, largest_micro_batch, peak_bytes, settle
from .spec import VALIDATIONS_PER_EPOCH, TrainSpec

SMALLER_MICRO_TOKENS = (1024, 512, 256)


@dataclass(frozen=True)
class Probe:
    """Two real steps, measured on this machine (training/probe)."""

    seconds_per_token: float
    seconds_per_validation_token: float
    seconds_per_step: float  # the optimizer's share, whatever the tokens
    start_seconds: float  # loading the model
    peak_bytes: int  # of the whole process
    dtype: Dtype
    device: str
    threads: int
    tokens: int  # what it was measured on
    largest_micro_batch: int


@dataclass(frozen=True)
class Forecast:
    """`tokens` and `supervised` are of all steps together, `validation_tokens` of all validations together.

    With early stopping and limits (`stop_at`) these are upper bounds. `peak_bytes` names its parts; `seconds` is None without a probe.
    """

    spec: TrainSpec
    facts: Facts
    others: Mapping[str, Facts]
    lengths: Lengths
    probe: Probe | None
    dtype: Dtype
    steps: int
    validations: int
    tokens: int
    supervised: int
    validation_tokens: int
    trained_parameters: int
    peak_bytes: Mapping[str, int]
    seconds: float | None

    @property
    def peak_total_bytes(self) -> int:
        """Measured where there was a probe (its second step holds the largest micro-batch), else the parts' sum."""
        return self.probe.peak_bytes if self.probe else sum(self.peak_bytes.values())


@dataclass(frozen=True)
class Suggestion:
    """The least change that fits: `settings` are `--set` assignments, `effect` says what they cost."""

    settings: tuple[str, ...]
    effect: str
    peak_bytes: int


def limit_of(spec: TrainSpec, context: int) -> int:
    """Most tokens of a row."""
    return min(spec.longest or context, context)


def refuse_impossible(spec: TrainSpec, context: int, n_validation: int) -> None:
    """What can be refused before any work. Raises SpecError."""
    if spec.longest is not None and spec.longest > context:
        raise SpecError(
            f"train.longest is {spec.longest:,}, and the model's context is {context:,} tokens.",
            remedy="Lower it or leave it out, or choose a base with a longer context.",
        )
    if spec.early_stopping and n_validation == 0:
        raise SpecError(
            "train.early_stopping watches the validation loss, and the validation split has no rows.",
            remedy="Set data.split.validation (0.1, say), or leave early_stopping out.",
        )


def validate_every(spec: TrainSpec, n_rows: int) -> int:
    """Steps between validations.

    >>> validate_every(TrainSpec(), 160), validate_every(TrainSpec(), 16)
    (2, 1)
    """
    per_epoch = steps_per_epoch(n_rows, spec.batch.rows)
    return spec.validate_every or max(1, per_epoch // VALIDATIONS_PER_EPOCH)


def forecast(
    spec: TrainSpec,
    facts: Facts,
    lengths: Lengths,
    probe: Probe | None = None,
    dtype: Dtype | None = None,
    others: Mapping[str, Facts] | None = None,
    limit_bytes: int | None = None,
) -> Forecast:
    """`dtype` is what `auto` stands for on this machine; the probe knows it too. With neither, fp32: an upper bound.
    `others` are the facts of models that the method needs beside the base; `limit_bytes` is the machine's memory, which
    decides `activation_checkpointing: auto` (without it: off)."""
    if dtype is None:
        dtype = spec.dtype if spec.dtype != "auto" else (probe.dtype if probe else "fp32")
    if limit_bytes is not None:
        spec = settle(spec, facts, lengths, dtype, limit_bytes, others)
    n_rows = len(lengths.train)
    steps = total_steps(n_rows, spec.batch.rows, spec.epochs, spec.max_steps)
    passes = _passes(steps, n_rows, spec.batch.rows)
    tokens, supervised = (round(passes * n) for n in lengths.epoch)
    every = validate_every(spec, n_rows)
    validations = 1 + steps // every + (steps % every > 0) if len(lengths.validation) else 0
    validation_tokens = validations * int(lengths.validation[:, 0].sum())
    largest = largest_micro_batch(lengths, spec.batch.micro_tokens)
    return Forecast(
        spec=spec,
        facts=facts,
        others=others or {},
        lengths=lengths,
        probe=probe,
        dtype=dtype,
        steps=steps,
        validations=validations,
        tokens=tokens,
        supervised=supervised,
        validation_tokens=validation_tokens,
        trained_parameters=spec.adapter.trained_parameters(facts),
        peak_bytes=peak_bytes(spec, facts, largest, dtype, others),
        seconds=_seconds(probe, steps, tokens, validation_tokens) if probe else None,
    )


def _passes(steps: int, n_rows: int, rows: int) -> float:
    """How often each row is seen on average: exact at whole epochs."""
    whole, rest = divmod(steps, steps_per_epoch(n_rows, rows))
    return whole + min(1.0, rest * rows / n_rows)


def _seconds(probe: Probe, steps: int, tokens: int, validation_tokens: int) -> float:
    return (
        probe.start_seconds
        + tokens * probe.seconds_per_token
        + steps * probe.seconds_per_step
        + validation_tokens * probe.seconds_per_validation_token
    )


# -- what would fit -----------------------------------------------------------------------------------------------------


def suggest(made: Forecast, limit_bytes: int) -> Suggestion | None:
    """The least change whose forecast fits in `limit_bytes`; None if none does. Changes are tried in the order of what
    they cost (`_changes`), each of them with smaller micro-batches too. Where a probe measured this machine, its ratio
    to the formula corrects the others."""
    ratio = made.peak_total_bytes / sum(made.peak_bytes.values())
    sizes = [made.spec.batch.micro_tokens]
    sizes += [n for n in SMALLER_MICRO_TOKENS if n < sizes[0]]
    largest = {n: largest_micro_batch(made.lengths, n) for n in sizes}
    for changes in _sets_of(_changes(made)):
        for micro_tokens in sizes:
            if not changes and micro_tokens == sizes[0]:
                continue
            spec, dtype = made.spec, made.dtype
            for change in changes:
                spec, dtype = change.on(spec), change.dtype or dtype
            parts = peak_bytes(spec, made.facts, largest[micro_tokens], dtype, made.others)
            if (peak := round(ratio * sum(parts.values()))) <= limit_bytes:
                cut = [] if micro_tokens == sizes[0] else [_smaller(micro_tokens)]
                told = [*changes, *cut]
                return Suggestion(tuple(c.setting for c in told), "; ".join(c.effect for c in told), peak)
    return None


@dataclass(frozen=True)
class _Change:
    setting: str
    effect: str
    update: Mapping[str, Any] = field(default_factory=dict)  # of the spec
    adapter: Mapping[str, Any] = field(default_factory=dict)  # of its adapter
    dtype: Dtype | None = None

    def on(self, spec: TrainSpec) -> TrainSpec:
        spec = spec.model_copy(update=dict(self.update))
        if not self.adapter:
            return spec
        return spec.model_copy(update={"adapter": spec.adapter.model_copy(update=dict(self.adapter))})


def _smaller(micro_tokens: int) -> _Change:
    return _Change(f"train.batch.micro_tokens={micro_tokens}", "the same model, somewhat slower")


def _changes(made: Forecast) -> list[_Change]:
    """What could be changed besides the micro-batches, the least costly first."""
    told, spec = [], made.spec
    if made.dtype == "fp32":
        effect = "losses differ in the third digit"
        told.append(_Change("train.dtype=bf16", effect, {"dtype": "bf16"}, dtype="bf16"))
    if spec.activation_checkpointing is not True:
        effect = "the same model, about a third slower"
        told.append(
            _Change("train.activation_checkpointing=true", effect, {"activation_checkpointing": True})
        )
    if spec.adapter.moves_base:
        effect = "only an adapter is trained"
        told.append(_Change("train.adapter={kind: lora}", effect, {"adapter": LoraSpec()}))
    if isinstance(spec.adapter, LoraSpec) and spec.adapter.quantize is None:
        for bits, effect in (
            ("8bit", "a frozen base of 8 bits, slower"),
            ("4bit", "a frozen base of 4 bits, slower"),
        ):
            told.append(_Change(f"train.adapter.quantize={bits}", effect, adapter={"quantize": bits}))
    return told


def _sets_of(changes: Sequence[_Change]) -> Iterator[tuple[_Change, ...]]:
    """Every set of changes, at most one of a kind: first those without the costliest, so none comes before a part of
    it.

    >>> a, b = _Change("a.x=1", ""), _Change("b.y=1", "")
    >>> [[c.setting for c in one] for one in _sets_of([a, b])]
    [[], ['a.x=1'], ['b.y=1'], ['a.x=1', 'b.y=1']]
    """
    for chosen in range(1 << len(changes)):
        one = tuple(change for i, change in enumerate(changes) if chosen >> i & 1)
        if len({change.setting.partition("=")[0] for change in one}) == len(one):
            yield one
