"""Two real steps, to learn what this machine does: seconds per token, and the peak of memory.

    step 1   the largest micro-batch of the first epoch: memory reaches its peak, and everything is warmed up
    step 2   a micro-batch of ordinary size: timed, forward and backward, then forward alone as in validation

Nothing is written and the model is thrown away.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from luthier.core import plugin

from . import optim
from .batches import Order, steps_per_epoch
from .loop import groups
from .machine import find
from .plan import Probe
from .rows import Row, Rows
from .spec import TrainSpec


def probe(spec: TrainSpec, base: Path, rows: Rows) -> Probe:
    """Train on some of `rows` for two steps. Takes as long as about two micro-batches and loading the model."""
    from luthier.models.weights import load

    machine = find(spec)
    started = time.monotonic()
    adapter = plugin.load("adapter", spec.adapter.kind)()
    model = load(base, dtype=machine.weights_dtype(spec.adapter.kind), device=machine.device)
    model = adapter.attach(model, spec.adapter, spec.seed)
    start_seconds = time.monotonic() - started
    parameters = adapter.trainable(model)
    method, optimizer = spec.method.load()(spec.method.settings), optim.build(parameters, spec)
    model.train()

    def step(batch: Any) -> tuple[float, float]:
        """Seconds of (forward and backward, optimizer)."""
        begun = time.monotonic()
        with machine.precision(model):
            loss = method.loss(model, batch)
        (loss.sum / sum(batch.row_weights)).backward()
        middle = time.monotonic()
        optim.gradient_norm(parameters, spec.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return middle - begun, time.monotonic() - middle

    largest, ordinary = _two_groups(spec, rows)
    step(method.collate(largest).to(machine.device))
    peak = peak_bytes_so_far()
    batch = method.collate(ordinary).to(machine.device)
    seconds, optimizer_seconds = step(batch)
    begun = time.monotonic()
    with torch.no_grad(), machine.precision(model):
        method.loss(model.eval(), batch).sum.item()
    return Probe(
        seconds_per_token=seconds / batch.tokens,
        seconds_per_validation_token=(time.monotonic() - begun) / batch.tokens,
        seconds_per_step=optimizer_seconds,
        start_seconds=start_seconds,
        peak_bytes=peak,
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        tokens=batch.tokens,
        largest_micro_batch=sum(row.tokens for row in largest),
    )


def _two_groups(spec: TrainSpec, rows: Rows) -> tuple[list[Row], list[Row]]:
    """The largest micro-batch of the first epoch, and the median one by tokens."""
    order = Order(rows.names, spec.seed, spec.batch.rows)
    every = [
        group
        for step in range(1, steps_per_epoch(len(rows), spec.batch.rows) + 1)
        for group in groups([rows[i] for i in order.step(step)], spec.batch.micro_tokens)
    ]
    every.sort(key=lambda group: sum(row.tokens for row in group))
    return every[-1], every[len(every) // 2]


def peak_bytes_so_far() -> int:
    """The most memory this process has held at once since it began."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts kilobytes
