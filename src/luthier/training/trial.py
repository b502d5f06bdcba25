"""A few real steps on an assembled model: what the loop does to rows, without order, checkpoints or events. The probe
and the profile measure these; nothing they learn is kept.

Each part of a step runs in a region that torch's profiler shows by name. Not here: which rows (probe, profile).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.profiler import record_function

from luthier.core.stage import Context

from . import agreement, optim
from .assembly import Assembly, Turn, assemble
from .loop import groups, seed_of
from .machine import enough_memory
from .method import Batch, Method
from .rows import Row, Rows
from .spec import TrainSpec
from .split_time import BACKBONE, BACKWARD, FORWARD, INPUT, OPTIMIZER, UNFOLD

if TYPE_CHECKING:
    from luthier.models.template import Template


@dataclass(frozen=True)
class StepTimes:
    """Seconds of each region, and what was computed: `tokens` of the rows, `computed` of them in the model (fewer where
    rows share a beginning), `lengths` of the sequences as inputs (a last token is never one)."""

    seconds: Mapping[str, float]
    tokens: int
    supervised: int
    micro_batches: int
    computed: int
    lengths: tuple[int, ...]

    @property
    def total_s(self) -> float:
        return math.fsum(self.seconds.values())


@dataclass
class Trial:
    """Steps change the assembled model, as training would. `fused` names the parts of it that are."""

    spec: TrainSpec
    made: Assembly
    fused: tuple[str, ...] = ()
    steps: int = field(default=0, init=False)
    _computed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.optimizer = optim.build(self.made.parameters, self.spec)
        decoder_of(self.made.model).register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        ids = named.get("input_ids", inputs[0] if inputs else None)
        self._computed += 0 if ids is None else ids.numel()

    def step(self, rows: Sequence[Row]) -> StepTimes:
        """One optimizer step on these rows, cut into micro-batches as the loop cuts them. Raises ModelError when one of
        them does not fit in memory."""
        made, seconds = self.made, dict.fromkeys((UNFOLD, INPUT, FORWARD, BACKWARD, OPTIMIZER), 0.0)
        self.steps += 1
        made.model.train()
        with _timed(UNFOLD, seconds):
            rows = list(made.method.unfold(made.model, list(rows), seed_of(self.spec.seed, self.steps)))
        batches, self._computed = self._batches(rows, seconds), 0
        weight = math.fsum(w for batch in batches for w in batch.row_weights)
        for k, batch in enumerate(batches):
            torch.manual_seed(seed_of(self.spec.seed, self.steps, k))
            with enough_memory(batch.tokens):
                with _timed(FORWARD, seconds), made.machine.precision(made.model):
                    loss = made.method.loss(made.model, batch)
                with _timed(BACKWARD, seconds):
                    (loss.sum / weight).backward()
        with _timed(OPTIMIZER, seconds):
            optim.gradient_norm(made.parameters, self.spec.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return self._told(seconds, rows, batches)

    def validate(self, rows: Sequence[Row]) -> StepTimes:
        """These rows as in a validation: forward alone, and what the method asks of the model before. Rows are answered as
        the run will answer them where they are some that `begin` was given as validation rows."""
        made, seconds = self.made, dict.fromkeys((UNFOLD, INPUT, FORWARD), 0.0)
        made.model.eval()
        with _timed(UNFOLD, seconds):
            rows = list(made.method.unfold(made.model, list(rows), seed_of(self.spec.seed)))
        batches, self._computed = self._batches(rows, seconds), 0
        for batch in batches:
            with _timed(FORWARD, seconds), torch.no_grad(), made.machine.precision(made.model):
                made.method.loss(made.model, batch).sum.item()
        return self._told(seconds, rows, batches)

    def _batches(self, rows: Sequence[Row], seconds: dict[str, float]) -> list[Batch]:
        method, device = self.made.method, self.made.machine.device
        with _timed(INPUT, seconds):
            parts = groups(list(rows), self.spec.batch.micro_tokens, share=method.share)
            return [method.collate(part).to(device) for part in parts]

    def _told(self, seconds: dict[str, float], rows: Sequence[Row], batches: Sequence[Batch]) -> StepTimes:
        return StepTimes(
            seconds,
            sum(batch.tokens for batch in batches),
            sum(batch.supervised for batch in batches),
            len(batches),
            self._computed,
            tuple(len(one.ids) - 1 for row in rows for one in row.sequences),
        )


def begin(
    spec: TrainSpec,
    method: Method,
    folders: Mapping[str, Path],
    splits: Mapping[str, Rows],
    which: Mapping[str, Iterable[int]],
    template: Template,
    scratch: Path,
    at: Context,
    turn: Turn = nullcontext,
) -> Trial:
    """A trial on these rows of each split alone, whatever there are: the method prepares no others, in `turn`. Fused
    parts are checked as a run checks them, and taken out where they differ. `spec` is settled (assembly)."""
    rows = splits["train"]
    needed = {split: set(which.get(split, ())) for split in splits}
    needed["train"].update(np.argsort(rows.tokens, kind="stable")[: agreement.PACKED_ROWS].tolist())
    few = {split: one.take(sorted(needed[split])) for split, one in splits.items()}
    made = assemble(spec, method, folders, few, template, scratch, "trial", at, turn)
    if made.quick is None:
        return Trial(spec, made)
    told, _ = agreement.fused(spec, made, made.quick, agreement.sample_of(spec, made, rows), at)
    return Trial(spec, made, fused=tuple(told["parts"]) if told["used"] else ())


def decoder_of(model: Any) -> Any:
    """The part from token ids to the last hidden states, below an adapter too."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.get_decoder()


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    begun = time.perf_counter()
    with record_function(name):
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a region's time is the device's, not that of putting work in its queue
    seconds[name] += time.perf_counter() - begun


@contextmanager
def marked_backbone(model: Any) -> Iterator[None]:
    """Show the decoder's forward pass to the profiler as the region BACKBONE."""
    opened: list[Any] = []

    def enter(*_: Any) -> None:
        opened.append(record_function(BACKBONE))
        opened[-1].__enter__()

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    decoder = decoder_of(model)
    hooks = [decoder.register_forward_pre_hook(enter), decoder.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
