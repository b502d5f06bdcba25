"""A few real steps, to learn what this machine does: seconds per token, and the peak of memory.

    what the method prepares   timed, from the first progress over the rows on
    the largest micro-batch    the most that is held at once; everything is warmed up
    one of ordinary size       timed: forward and backward
    one of validation rows     forward alone, answered first where the method does so
    the largest again, then others of unlike lengths, while PATIENCE_S lasts: between tensors of other sizes the
                               allocator keeps holes, and memory grows for some steps before it stays
    the validation rows again  timed

Of one process, whatever `train.parallel` says. Nothing is kept: neither the weights nor what the method prepares for
these rows.
"""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.artifact import Artifact
from luthier.core.event import Event
from luthier.core.stage import Context
from luthier.core.units import Money

from .assembly import settled
from .batches import cut
from .machine import find
from .memory import forget_peak, peak_bytes_so_far, unlike
from .method import Method
from .mixing import order_of
from .plan import Probe
from .prefixes import Prefixes
from .rows import Row, Rows
from .spec import TrainSpec
from .trial import BACKWARD, FORWARD, OPTIMIZER, UNFOLD, StepTimes, Trial, begin

if TYPE_CHECKING:
    from luthier.models.template import Template

VERSION = 2
"""Of what the figures mean: those of another one are measured again."""
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


class Preparing:
    """The context of a method's `prepare`, which notes for how long that goes through rows: from the first progress it tells
    to its end. What comes before (a teacher is loaded, say) is done once, however many rows there are."""

    def __init__(self, at: Context) -> None:
        self._at = at
        self._since: float | None = None
        self.seconds = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """In which the method prepares (assembly)."""
        self._since = None
        yield
        if self._since is not None:
            self.seconds += time.monotonic() - self._since

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        self._since = self._since or time.monotonic()
        self._at.progress(what, done, total, **facts)

    @property
    def home(self) -> Path:
        return self._at.home

    @property
    def root(self) -> Path:
        return self._at.root

    @property
    def run(self) -> str:
        return self._at.run

    @property
    def hourly(self) -> Money | None:
        return self._at.hourly

    def emit(self, kind: str, **data: Any) -> Event:
        return self._at.emit(kind, **data)

    def check(self) -> None:
        self._at.check()

    def folder(self, artifact: Artifact) -> Path:
        return self._at.folder(artifact)

    def secret(self, text: str) -> str:
        return self._at.secret(text)


def probe(
    spec: TrainSpec,
    method: Method,
    folders: Mapping[str, Path],
    splits: Mapping[str, Rows],
    template: Template,
    at: Context,
) -> Probe:
    """`splits` are tokenised, checked rows. Takes loading the models, what the method prepares for some rows, three
    micro-batches, and at most about PATIENCE_S more. Raises ModelError when the largest micro-batch does not fit in memory."""
    rows, started = splits["train"], time.monotonic()
    order = order_of(spec, rows)
    looked_at = [order.step(step) for step in range(1, min(LOOKED_AT, order.steps_per_epoch) + 1)]
    steps = [*looked_at, [int(np.argmax(rows.tokens))]]
    there = {i: rows[i] for step in steps for i in step}
    # Whether rows share their beginnings is known when the model is there; what it is put together from, before.
    both = {share: choose(steps, there, spec.batch.micro_tokens, share) for share in (False, True)}
    machine, preparing = find(spec), Preparing(at)
    spec = settled(spec, folders, splits, machine, at)
    needed = {"train": [i for chosen in both.values() for i in chosen.rows]}
    needed["validation"] = fill(splits["validation"].tokens.tolist(), spec.batch.micro_tokens)
    forget_peak(machine.device)
    with tempfile.TemporaryDirectory(prefix="luthier-probe-") as scratch:
        trial = begin(
            spec, method, folders, splits, needed, template, Path(scratch), preparing, preparing.turn
        )
        start_s = time.monotonic() - started - preparing.seconds
        chosen, machine = both[method.share], trial.made.machine
        largest, ordinary = ([rows[i] for i in some] for some in (chosen.largest, chosen.ordinary))
        taken = [(some, trial.step(some)) for some in (largest, ordinary)]
        # Without a validation split it only says how long reading a token takes.
        validated = [splits["validation"][i] for i in needed["validation"]] or ordinary
        trial.validate(validated)
        taken += _again(trial, rows, [chosen.largest, *chosen.others], at)
        validation = trial.validate(
            validated
        )  # as all but the first of a run: nothing is new to the libraries
    step, told = taken[1][1], sum(row.tokens for row in ordinary)
    tokens_ratio, supervised_ratio = _unfolded(taken)
    validation_told = sum(row.tokens for row in validated)
    return Probe(
        seconds_per_token=sum(step.seconds[part] for part in (UNFOLD, FORWARD, BACKWARD)) / told,
        seconds_per_validation_token=sum(validation.seconds[part] for part in (UNFOLD, FORWARD))
        / validation_told,
        seconds_per_read_token=validation.seconds[FORWARD] / validation.tokens,
        seconds_per_step=step.seconds[OPTIMIZER],
        seconds_per_prepared_row=preparing.seconds / sum(map(len, trial.made.splits.values())),
        start_seconds=start_s,
        tokens_per_token=tokens_ratio,
        supervised_per_supervised=supervised_ratio,
        validation_tokens_per_token=validation.tokens / validation_told,
        peak_bytes=peak_bytes_so_far(machine.device),
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        tokens=step.tokens,
        largest_micro_batch=int(rows.tokens[chosen.largest].sum()),
    )


def fill(tokens: Sequence[int], budget: int) -> list[int]:
    """Indices of the first rows that fill a micro-batch; rows are sorted by an id that says nothing of their length.

    >>> fill([40, 30, 50], 100), fill([300, 10], 100), fill([], 100)
    ([0, 1], [0], [])
    """
    fit = bisect_right(list(accumulate(tokens)), budget)
    return list(range(min(max(fit, 1), len(tokens))))


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


def _again(
    trial: Trial, rows: Rows, groups: Sequence[Sequence[int]], at: Context
) -> list[tuple[list[Row], StepTimes]]:
    """Steps on these groups of rows, as many as there is patience for."""
    begun, taken = time.monotonic(), []
    for k, group in enumerate(groups):
        at.check()
        if k >= LEAST_AGAIN and time.monotonic() - begun > PATIENCE_S:
            break
        at.progress("probe: real steps", k, len(groups))
        some = [rows[i] for i in group]
        taken.append((some, trial.step(some)))
    return taken


def _unfolded(taken: Sequence[tuple[Sequence[Row], StepTimes]]) -> tuple[float, float]:
    """Tokens, and supervised tokens, that steps learnt from for one of the rows that they were given."""
    sequences = [one for rows, _ in taken for row in rows for one in row.sequences]
    tokens, supervised = (
        sum(len(one.ids) for one in sequences),
        sum(one.supervised_count for one in sequences),
    )
    return sum(t.tokens for _, t in taken) / tokens, sum(t.supervised for _, t in taken) / supervised
