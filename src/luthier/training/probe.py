"""A few real steps, to learn what this machine does: seconds per token, and the peak of memory.

    the largest micro-batch    the most that is held at once; everything is warmed up
    one of ordinary size       timed: forward and backward, then forward alone as in validation
    the largest again, then others of unlike lengths, while PATIENCE_S lasts: between tensors of other sizes the
                               allocator keeps holes, and memory grows for some steps before it stays

Nothing is kept: neither the weights nor what the method prepares for these rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.stage import Context

from .assembly import settled
from .batches import cut
from .machine import find
from .memory import peak_bytes_so_far, unlike
from .method import Method
from .mixing import order_of
from .plan import Probe
from .prefixes import Prefixes
from .rows import Row, Rows
from .spec import TrainSpec
from .trial import BACKWARD, FORWARD, OPTIMIZER, UNFOLD, Trial, begin

if TYPE_CHECKING:
    from luthier.models.template import Template

PATIENCE_S = 20.0
MICRO_BATCHES = 8
LEAST_AGAIN = 2
LOOKED_AT = 256  # steps whose micro-batches are formed


@dataclass(frozen=True)
class Groups:
    """Micro-batches as indices of rows: the largest, one of median size, and others of unlike sizes."""

    largest: list[int]
    ordinary: list[int]
    others: list[list[int]]

    @property
    def rows(self) -> list[int]:
        """Of all groups, each once, in order."""
        return sorted({i for group in (self.largest, self.ordinary, *self.others) for i in group})


def probe(
    spec: TrainSpec,
    method: Method,
    folders: Mapping[str, Path],
    splits: Mapping[str, Rows],
    template: Template,
    at: Context,
) -> Probe:
    """`splits` are tokenised, checked rows. Takes loading the model, two micro-batches, and at most about PATIENCE_S
    more. Raises ModelError when the largest micro-batch does not fit in memory."""
    rows, started = splits["train"], time.monotonic()
    order = order_of(spec, rows)
    looked_at = [order.step(step) for step in range(1, min(LOOKED_AT, order.steps_per_epoch) + 1)]
    steps = [*looked_at, [int(np.argmax(rows.tokens))]]
    there = {i: rows[i] for step in steps for i in step}
    # Whether rows share their beginnings is known when the model is there; what it is put together from, before.
    both = {share: choose(steps, there, spec.batch.micro_tokens, share) for share in (False, True)}
    spec = settled(spec, folders, splits, find(spec), at)
    needed = {i for chosen in both.values() for i in chosen.rows}
    with tempfile.TemporaryDirectory(prefix="luthier-probe-") as scratch:
        trial = begin(spec, method, folders, splits, needed, template, Path(scratch), at)
        start_s, chosen, machine = time.monotonic() - started, both[method.share], trial.made.machine
        trial.step([rows[i] for i in chosen.largest])
        ordinary = [rows[i] for i in chosen.ordinary]
        step, validation = trial.step(ordinary), trial.validate(ordinary)
        told = sum(row.tokens for row in ordinary)
        _grow(trial, rows, [chosen.largest, *chosen.others], at)
    return Probe(
        # Of the rows as they are tokenised, which a forecast counts: a method may learn from others that it unfolds.
        seconds_per_token=sum(step.seconds[part] for part in (UNFOLD, FORWARD, BACKWARD)) / told,
        seconds_per_validation_token=validation.seconds[FORWARD] / told,
        seconds_per_step=step.seconds[OPTIMIZER],
        start_seconds=start_s,
        peak_bytes=peak_bytes_so_far(machine.device),
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        tokens=step.tokens,
        largest_micro_batch=int(rows.tokens[chosen.largest].sum()),
    )


def choose(
    steps: Sequence[Sequence[int]], rows: Mapping[int, Row], micro_tokens: int, share: bool = False
) -> Groups:
    """Cut steps (indices of rows) into micro-batches as the loop does, and pick by the tokens that are computed."""
    sized = []
    for step in steps:
        of_step = [rows[i] for i in step]
        prefixes = Prefixes([one for row in of_step for one in row.sequences]) if share else None
        ends = list(accumulate(len(row.sequences) for row in of_step))
        for part in cut(of_step, micro_tokens, share=share):
            own = [s for k in part for s in range(ends[k] - len(of_step[k].sequences), ends[k])]
            size = prefixes.tokens(own) if prefixes else sum(of_step[k].tokens for k in part)
            sized.append((size, [step[k] for k in part]))
    sized.sort(key=lambda one: -one[0])
    middle = len(sized) // 2
    others = [k for k in unlike([size for size, _ in sized], MICRO_BATCHES) if k not in (0, middle)]
    return Groups(sized[0][1], sized[middle][1], [sized[k][1] for k in others])


def _grow(trial: Trial, rows: Rows, groups: Sequence[Sequence[int]], at: Context) -> None:
    begun = time.monotonic()
    for k, group in enumerate(groups):
        at.check()
        if k >= LEAST_AGAIN and time.monotonic() - begun > PATIENCE_S:
            break
        at.progress("probe: real steps", k, len(groups))
        trial.step([rows[i] for i in group])
    trial.validate([rows[i] for i in groups[0]])
