"""What training would take, before anything is spent: steps by counting, memory from formulas, time from a probe's steps.
Tokens are counted where rows are learnt from as they are. A method that unfolds them (into answers, say) is known by an
upper bound, or by what the probe's rows became.

A forecast follows from the spec, the models' facts, the rows' lengths and the probe's figures (and, where `train.parallel`
gives no number of processes, from the GPUs there are). Not here: the formulas of memory (training/memory), money
(cost/forecast) and the probe itself (training/probe).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.core.errors import SpecError
from luthier.models.shapes import Dtype, Facts
from luthier.models.spec import LoraSpec

from .batches import steps_per_epoch, total_steps
from .memory import Lengths, Team, largest_micro_batch, peak_bytes, settle, team_of
from .spec import VALIDATIONS_PER_EPOCH, TrainSpec

SMALLER_MICRO_TOKENS = (1024, 512, 256)


@dataclass(frozen=True)
class Probe:
    """A few real steps of one process, measured on this machine (training/probe). What is said per token is per token of
    rows as they are tokenised, before a method unfolds them."""

    seconds_per_token: float
    seconds_per_validation_token: float
    seconds_per_read_token: float  # one token through the model, forward alone
    seconds_per_step: float  # the optimizer's share, whatever the tokens
    seconds_per_prepared_row: float  # what the method computes of each row before the first step
    start_seconds: float  # loading the models
    tokens_per_token: float  # that a step learns from; 1 where the method does not unfold rows
    supervised_per_supervised: float
    validation_tokens_per_token: float
    peak_bytes: int  # of the whole process, from the loading of the models on
    dtype: Dtype
    device: str
    threads: int
    tokens: int  # what it was measured on
    largest_micro_batch: int


@dataclass(frozen=True)
class Forecast:
    """`tokens` and `supervised` are of all steps together, `validation_tokens` of all validations together; `known` says
    how: counted, as the probe's rows grew, or the most that they can grow to. With early stopping and limits (`stop_at`)
    all of these are upper bounds.

    `lengths` are those of the rows as tokenised, `grown` as they may be unfolded. `peak_bytes` names its parts, of all
    processes that share a memory; `seconds`, None without a probe, is one process's.
    """

    spec: TrainSpec
    facts: Facts
    others: Mapping[str, Facts]
    lengths: Lengths
    grown: Lengths
    team: Team
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
    def known(self) -> Literal["counted", "measured", "bound"]:
        if self.grown is self.lengths:
            return "counted"
        return "measured" if self.probe else "bound"

    @property
    def measured_bytes(self) -> int | None:
        """The probe's peak (its first step holds the largest micro-batch), once for each process in this memory."""
        if self.probe is None:
            return None
        return self.team.sharing * self.probe.peak_bytes + self.peak_bytes.get("exchange", 0)

    @property
    def peak_total_bytes(self) -> int:
        """What was measured, else the parts' sum. Where rows grow, those of the run may grow longer than the probe's did:
        the larger of the two."""
        measured, planned = self.measured_bytes, sum(self.peak_bytes.values())
        if measured is None:
            return planned
        return measured if self.known == "counted" else max(measured, planned)


@dataclass(frozen=True)
class Suggestion:
    """The least change that fits: `settings` are `--set` assignments, `effect` says what they cost."""

    settings: tuple[str, ...]
    effect: str
    peak_bytes: int


def refuse_impossible(spec: TrainSpec, context: int) -> None:
    """What can be refused before any work. Raises SpecError."""
    if spec.longest is not None and spec.longest > context:
        raise SpecError(
            f"train.longest is {spec.longest:,}, and the model's context is {context:,} tokens.",
            remedy="Lower it or leave it out, or choose a base with a longer context.",
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
    device: str | None = None,
) -> Forecast:
    """`dtype` is what `auto` stands for on this machine, `device` where it computes; the probe knows both too. With
    neither, fp32 (an upper bound where an adapter is trained) on the processor. `others` are the facts of models that the
    method needs beside the base; `limit_bytes` is the machine's memory, which decides `activation_checkpointing: auto`
    (without it: off). Raises SpecError where the number of processes is not known."""
    if dtype is None:
        dtype = spec.dtype if spec.dtype != "auto" else (probe.dtype if probe else "fp32")
    if device is None:
        device = probe.device if probe else "cpu"
    if limit_bytes is not None:
        spec = settle(spec, facts, lengths, dtype, limit_bytes, others, device)
    n_rows, team = len(lengths.train), team_of(spec, device)
    grown = lengths.grown(spec, facts.context)
    steps = total_steps(n_rows, spec.batch.rows, spec.epochs, spec.max_steps)
    every = validate_every(spec, n_rows)
    validations = 1 + steps // every + (steps % every > 0) if len(lengths.validation) else 0

    def counted(told: Lengths) -> tuple[float, float, float]:
        """Tokens, supervised tokens, and those of validation."""
        return *told.of_steps(steps, spec.batch.rows), float(validations * told.validation[:, 0].sum())

    as_tokenised = counted(lengths)
    tokens, supervised, validation = counted(grown) if probe is None else as_tokenised
    if probe and grown is not lengths:
        tokens, supervised = tokens * probe.tokens_per_token, supervised * probe.supervised_per_supervised
        validation *= probe.validation_tokens_per_token
    largest = largest_micro_batch(grown, spec.batch.micro_tokens)
    return Forecast(
        spec=spec,
        facts=facts,
        others=others or {},
        lengths=lengths,
        grown=grown,
        team=team,
        probe=probe,
        dtype=dtype,
        steps=steps,
        validations=validations,
        tokens=round(tokens),
        supervised=round(supervised),
        validation_tokens=round(validation),
        trained_parameters=spec.adapter.trained_parameters(facts),
        peak_bytes=peak_bytes(spec, facts, largest, dtype, others, team=team),
        seconds=_seconds(probe, steps, lengths, as_tokenised[0], as_tokenised[2]) if probe else None,
    )


def _seconds(probe: Probe, steps: int, lengths: Lengths, tokens: float, validation_tokens: float) -> float:
    return (
        probe.start_seconds
        + len(lengths.all) * probe.seconds_per_prepared_row
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
    largest = {n: largest_micro_batch(made.grown, n) for n in sizes}
    for changes in _sets_of(_changes(made)):
        for micro_tokens in sizes:
            if not changes and micro_tokens == sizes[0]:
                continue
            spec, dtype = made.spec, made.dtype
            for change in changes:
                spec, dtype = change.on(spec), change.dtype or dtype
            parts = peak_bytes(spec, made.facts, largest[micro_tokens], dtype, made.others, team=made.team)
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
    if spec.adapter.moves_base and spec.parallel.kind != "fsdp":  # which can do no adapter
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
