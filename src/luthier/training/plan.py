"""What training would take, before anything is spent: steps and tokens exactly, memory from formulas, time from a
two-step probe. Pure: a forecast follows from the spec, the model's facts, the rows' lengths and the probe's figures.

Not here: money (cost/forecast) and the probe itself (training/probe).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from luthier.core.errors import SpecError
from luthier.models.spec import FullSpec, LoraSpec

from .batches import steps_per_epoch, total_steps
from .spec import VALIDATIONS_PER_EPOCH, BatchSpec, TrainSpec

if TYPE_CHECKING:
    from .rows import Rows

Dtype = Literal["fp32", "bf16"]
WIDTH_BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2}
RUNTIME_BYTES = 900_000_000
"""Python, torch, transformers and their working buffers, measured on Linux with a CPU build of torch."""
FRAGMENTATION: dict[Dtype, float] = {"fp32": 0.8, "bf16": 0.0}
"""Measured with glibc on CPU at 1,000 and 2,000 tokens: with each large tensor mapped by itself the peak is the sum of
the other parts, to a few per cent, and training is slower."""
SMALLER_MICRO_TOKENS = (1024, 512, 256)


class Facts(Protocol):
    """What of models.weights.ModelFacts is read here."""

    @property
    def parameters(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def context(self) -> int: ...


@dataclass(frozen=True)
class Lengths:
    """(tokens, supervised tokens) of every row of each split."""

    train: tuple[tuple[int, int], ...]
    validation: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, splits: Mapping[str, Rows]) -> Lengths:
        """From tokenised rows (`train.tokenised`)."""

        def pairs(rows: Rows) -> tuple[tuple[int, int], ...]:
            return tuple(zip(rows.tokens.tolist(), rows.supervised_tokens.tolist(), strict=True))

        return cls(pairs(splits["train"]), pairs(splits["validation"]))


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

    With early stopping these are upper bounds. `peak_bytes` names its parts; `seconds` is None without a probe.
    """

    spec: TrainSpec
    facts: Facts
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
    spec: TrainSpec, facts: Facts, lengths: Lengths, probe: Probe | None = None, dtype: Dtype | None = None
) -> Forecast:
    """`dtype` is what `auto` stands for on this machine; the probe knows it too. With neither, fp32: an upper bound."""
    if dtype is None:
        dtype = spec.dtype if spec.dtype != "auto" else (probe.dtype if probe else "fp32")
    steps = total_steps(len(lengths.train), spec.batch.rows, spec.epochs, spec.max_steps)
    passes = _passes(steps, len(lengths.train), spec.batch.rows)
    tokens = round(passes * sum(n for n, _ in lengths.train))
    every = validate_every(spec, len(lengths.train))
    validations = 1 + steps // every + (steps % every > 0) if lengths.validation else 0
    validation_tokens = validations * sum(n for n, _ in lengths.validation)
    return Forecast(
        spec=spec,
        facts=facts,
        lengths=lengths,
        probe=probe,
        dtype=dtype,
        steps=steps,
        validations=validations,
        tokens=tokens,
        supervised=round(passes * sum(s for _, s in lengths.train)),
        validation_tokens=validation_tokens,
        trained_parameters=trained_parameters(spec, facts),
        peak_bytes=peak_bytes(spec, facts, lengths, dtype),
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


# -- memory -------------------------------------------------------------------------------------------------------------
# Legend: P parameters, R trained parameters, T tokens and S supervised tokens of the largest micro-batch, L layers,
# h hidden, q = heads·head_size, k = kv_heads·head_size, i intermediate, V vocabulary, r rank, c bytes of the format.


def peak_bytes(spec: TrainSpec, facts: Facts, lengths: Lengths, dtype: Dtype) -> dict[str, int]:
    """The parts that are alive together when the largest micro-batch turns from forward to backward.

    weights      c·P with LoRA. Full fine-tuning keeps fp32 masters, 4·P, and with bf16 also the copy that autocast
                 makes of them for the pass, 2·P.
    adapter      4·R with LoRA (always fp32); 0 for full, where the weights themselves move.
    gradients    4·R: accumulated in fp32 over the micro-batches of a step.
    optimizer    8·R: AdamW's two moments in fp32.
    activations  T·L·`activation_bytes`: what each layer keeps for its backward.
    allocator    FRAGMENTATION·activations: holes that the C library's allocator keeps between kept and passing tensors.
    logits       S·V·(c + 12): the logits in the model's format, then in fp32, their log-softmax and its gradient.
    runtime      constant.
    """
    largest_T, largest_S = largest_micro_batch(lengths, spec.batch.micro_tokens)
    c, trained = WIDTH_BYTES[dtype], trained_parameters(spec, facts)
    full = spec.adapter.kind == "full"
    activations = largest_T * facts.layers * activation_bytes(spec, facts, dtype)
    return {
        "weights": facts.parameters * ((6 if c == 2 else 4) if full else c),
        "adapter": 0 if full else 4 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": activations,
        "allocator": round(FRAGMENTATION[dtype] * activations),
        "logits": largest_S * facts.vocabulary * (c + 12),
        "runtime": RUNTIME_BYTES,
    }


def activation_bytes(spec: TrainSpec, facts: Facts, dtype: Dtype) -> int:
    """Bytes that one layer of a Llama-like block keeps per token (eager autograd, no checkpointing).

    two norms     the fp32 input of each, 4·2·h, and its output, the input of what follows, c·2·h
    attention     queries, keys, values (k each), the output and its reordered copy: c·(3·q + 2·k)
    feed-forward  gate, its activation, up, and their product: c·4·i
    LoRA          A's output at each of seven matrices: c·7·r; with dropout, the dropped inputs and masks again:
                  (c + 1)·(5·h + q + i)
    """
    c, h, i = WIDTH_BYTES[dtype], facts.hidden, facts.intermediate
    q, k = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    kept = 8 * h + c * (2 * h + 3 * q + 2 * k + 4 * i)
    if isinstance(spec.adapter, LoraSpec):
        kept += c * 7 * spec.adapter.rank
        if spec.adapter.dropout > 0:
            kept += (c + 1) * (5 * h + q + i)
    return kept


def trained_parameters(spec: TrainSpec, facts: Facts) -> int:
    """P for full. LoRA: r·(in + out) for each adapted matrix of each layer; shapes are those of a Llama-like block,
    and a name that such a block does not have counts as its largest matrix."""
    if isinstance(spec.adapter, FullSpec):
        return facts.parameters
    h, i = facts.hidden, facts.intermediate
    q, k = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    sums = {
        "q_proj": h + q,
        "k_proj": h + k,
        "v_proj": h + k,
        "o_proj": q + h,
        "gate_proj": h + i,
        "up_proj": h + i,
        "down_proj": i + h,
    }
    targets: Sequence[str] = list(sums) if spec.adapter.targets == "all-linear" else spec.adapter.targets
    return (
        facts.layers
        * spec.adapter.rank
        * sum(sums.get(t.rpartition(".")[2], max(sums.values())) for t in targets)
    )


def largest_micro_batch(lengths: Lengths, micro_tokens: int) -> tuple[int, int]:
    """Upper bounds of a micro-batch's tokens and supervised tokens: the budget, or the longest row where that is
    more; supervised tokens as if the rows richest in them met in one micro-batch."""
    rows = (*lengths.train, *lengths.validation)
    budget = max(max(n for n, _ in rows), min(micro_tokens, sum(n for n, _ in rows)))
    left, supervised = budget, 0
    for tokens, told in sorted(rows, key=lambda row: -row[1] / row[0]):
        if tokens <= left:
            left, supervised = left - tokens, supervised + told
    return budget, max(supervised, max(s for _, s in rows))


# -- what would fit -----------------------------------------------------------------------------------------------------


def suggest(made: Forecast, limit_bytes: int) -> Suggestion | None:
    """The least change whose forecast fits in `limit_bytes`; None if none does. Changes are tried in order of what
    they cost: smaller micro-batches (slower, the same model), then bf16, then LoRA. Where a probe measured this
    machine, its ratio to the formula corrects the others."""
    told = sum(made.peak_bytes.values())
    ratio = made.peak_total_bytes / told
    for settings, effect, spec in _changes(made):
        dtype = made.dtype if spec.dtype == made.spec.dtype else None
        peak = round(ratio * sum(forecast(spec, made.facts, made.lengths, None, dtype).peak_bytes.values()))
        if peak <= limit_bytes:
            return Suggestion(settings, effect, peak)
    return None


def _changes(made: Forecast) -> Iterator[tuple[tuple[str, ...], str, TrainSpec]]:
    spec = made.spec
    smaller = [n for n in SMALLER_MICRO_TOKENS if n < spec.batch.micro_tokens]
    heavier: list[tuple[tuple[str, ...], list[str], TrainSpec]] = [((), [], spec)]
    if made.dtype == "fp32":
        half = spec.model_copy(update={"dtype": "bf16"})
        heavier.append((("train.dtype=bf16",), ["losses differ in the third digit"], half))
    if spec.adapter.kind == "full":
        for settings, effects, one in list(heavier):
            lora = one.model_copy(update={"adapter": LoraSpec()})
            heavier.append(
                ((*settings, "train.adapter.kind=lora"), [*effects, "only an adapter is trained"], lora)
            )
    for settings, effects, one in heavier:
        if settings:
            yield settings, "; ".join(effects), one
        for n in smaller:
            cut = one.model_copy(update={"batch": BatchSpec(rows=spec.batch.rows, micro_tokens=n)})
            slower = "the same model, somewhat slower"
            yield (
                (*settings, f"train.batch.micro_tokens={n}"),
                "; ".join([*effects, slower] if effects else [slower]),
                cut,
            )
