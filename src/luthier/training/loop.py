"""The loop: steps, validation, checkpoints, stopping. It names no technique: the method gives the loss, the adapter
says what moves, and both are values.

    validate if due ─▶ checkpoint if due ─▶ finished? ─▶ one optimizer step ─┐
          ▲                                                                  │
          └──────────────────────────────────────────────────────────────────┘

A step's loss is the sum over its supervised tokens divided by their number in the *whole* step, so it does not depend
on how the step is cut into micro-batches. Weights of rows count in both: Σ wᵢ·lossᵢ / Σ wᵢ over supervised tokens i.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from luthier.core.artifact import digest_of
from luthier.core.errors import Interrupted, ModelError, StoreError
from luthier.core.stage import Context
from luthier.core.testing import fault

from . import optim
from .batches import Order, pack, total_steps
from .checkpoint import Checkpoint, Checkpoints, Damaged
from .machine import Machine
from .method import Batch, Loss, Method
from .plan import validate_every
from .rows import Row, Rows
from .spec import TrainSpec
from .state import Best, State, stale

CHECKPOINT_EVERY_S = 60.0
NAMED = 8  # rows named in an error


@dataclass
class Loop:
    """`run` goes from wherever the newest checkpoint stands to the end; the model then holds the best weights."""

    spec: TrainSpec
    model: Any
    parameters: Sequence[tuple[str, torch.nn.Parameter]]
    method: Method
    train: Rows
    validation: Rows
    machine: Machine
    checkpoints: Checkpoints
    at: Context
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        spec, n = self.spec, len(self.train)
        self.order = Order(self.train.names, spec.seed, spec.batch.rows)
        self.total = total_steps(n, spec.batch.rows, spec.epochs, spec.max_steps)
        self.validate_every = validate_every(spec, n)
        self.optimizer = optim.build(self.parameters, spec)
        self.saved_step: int | None = None
        self.saved_at_s = time.monotonic()

    def run(self) -> State:
        self._resume()
        while True:
            try:
                if self._validation_due():
                    self._validate()
                self.state.stopped = self._reason_to_stop()
                if self._checkpoint_due():
                    self._save()
                if self.state.stopped:
                    break
                self.at.check()
            except Interrupted as stop:
                raise self._interrupted(stop) from stop
            self._step()
        if self.state.best and self.state.best.step != self.state.step:
            self._put_best(self.state.best)
        return self.state

    # -- one optimizer step -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        started = time.monotonic()
        step = self.state.step + 1
        rows = [self.train[i] for i in self.order.step(step)]
        rows = list(self.method.unfold(self.model, rows, seed_of(self.spec.seed, step)))
        parts = groups(rows, self.spec.batch.micro_tokens)
        batches = [self.method.collate(part) for part in parts]
        rate = optim.learning_rate(self.spec, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        figures = self._gradients(step, parts, batches)
        norm = optim.gradient_norm(self.parameters, self.spec.clip)
        self._need_finite(norm, "gradient norm", step, rows)
        fault("loop.gradients")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        fault("loop.stepped")
        self.state.step = step
        tokens, supervised = sum(b.tokens for b in batches), sum(b.supervised for b in batches)
        told = {"step": step, "loss": figures.loss, "learning_rate": rate, "gradient_norm": norm}
        self.state.steps.append({**told, "tokens": tokens, "supervised": supervised})
        self._tell({**told, **figures.shown()}, tokens, supervised, time.monotonic() - started)

    def _gradients(self, step: int, parts: Sequence[Sequence[Row]], batches: Sequence[Batch]) -> Figures:
        """Add up the gradients of all micro-batches."""
        weight = math.fsum(w for batch in batches for w in batch.row_weights)
        figures = Figures()
        for k, (rows, batch) in enumerate(zip(parts, batches, strict=True)):
            torch.manual_seed(seed_of(self.spec.seed, step, k))
            with self.machine.precision(self.model):
                loss = self.method.loss(self.model, batch.to(self.machine.device))
            self._need_finite(loss.sum.item(), "loss", step, rows)
            (loss.sum / weight).backward()
            fault("loop.backward")
            figures.add(rows, batch, loss)
        return figures

    def _need_finite(self, value: float, what: str, step: int, rows: Sequence[Row]) -> None:
        if math.isfinite(value):
            return
        named = ", ".join(row.id for row in rows[:NAMED]) + (", ..." if len(rows) > NAMED else "")
        raise ModelError(
            f"the {what} at step {step} is {value}, so training stopped there. The rows it came from: {named}.",
            remedy=f"Lower train.learning_rate (it was {self.spec.peak_learning_rate:g}), set train.clip, or use "
            "train.dtype: fp32; `luthier lineage ROW` shows a row. The last good checkpoint is kept.",
        )

    def _tell(self, figures: Mapping[str, Any], tokens: int, supervised: int, seconds: float) -> None:
        import psutil

        self.at.emit(
            "step",
            **figures,
            tokens=tokens,
            supervised=supervised,
            tokens_per_s=tokens / seconds,
            rss_bytes=psutil.Process().memory_info().rss,
            seconds=seconds,
        )
        self.at.progress(
            "train", figures["step"], self.total, loss=figures["loss"], tokens_per_s=tokens / seconds
        )

    # -- validation -------------------------------------------------------------------------------------------------

    def _validation_due(self) -> bool:
        step = self.state.step
        due = step % self.validate_every == 0 or step == self.total
        return bool(len(self.validation)) and due and not self.state.validated

    def _validate(self) -> None:
        started, step = time.monotonic(), self.state.step
        self.model.eval()
        rows = list(self.method.unfold(self.model, list(self.validation), seed_of(self.spec.seed)))
        parts, figures = groups(rows, self.spec.batch.micro_tokens), Figures()
        for k, part in enumerate(parts):
            self.at.check()
            self.at.progress(f"validate after step {step}", k, len(parts))
            batch = self.method.collate(part)
            with torch.no_grad(), self.machine.precision(self.model):
                loss = self.method.loss(self.model, batch.to(self.machine.device))
            figures.add(part, batch, loss)
        loss_value = figures.loss
        self._need_finite(loss_value, "validation loss", step, rows[:NAMED])
        self.state.validation.append({"step": step, "loss": loss_value})
        if self.state.best is None or loss_value < self.state.best.loss:
            self.state.best = Best(step, loss_value, self.checkpoints.next_name())
        seconds = time.monotonic() - started
        self.at.emit("validation", step=step, loss=loss_value, **figures.shown(), seconds=seconds)

    def _reason_to_stop(self) -> Any:
        if self.state.step == self.total:
            whole = total_steps(len(self.train), self.spec.batch.rows, self.spec.epochs, None)
            return "epochs" if self.total == whole else "max_steps"
        early = self.spec.early_stopping
        losses = [one["loss"] for one in self.state.validation]
        return (
            "early"
            if early and self.state.validated and stale(losses, early.min_delta) >= early.patience
            else None
        )

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        state, every = self.state, self.spec.checkpoint_every
        if state.step == self.saved_step:
            return False
        if state.stopped or (state.best and state.best.step == state.step):
            return True
        if every is not None:
            return state.step > 0 and state.step % every == 0
        return time.monotonic() - self.saved_at_s >= CHECKPOINT_EVERY_S

    def _save(self) -> None:
        state = self.state
        if state.best and state.best.step == state.step:
            state.best = replace(state.best, checkpoint=self.checkpoints.next_name())
        name, size_bytes = self.checkpoints.save(
            {"state": state.plain(), "machine": self.machine.plain()},
            {name: p.data for name, p in self.parameters},
            optim.state_tensors(self.optimizer, self.parameters),
            needs=[state.best.checkpoint] if state.best else [],
        )
        self.saved_step, self.saved_at_s = state.step, time.monotonic()
        self.at.emit("checkpoint", step=state.step, bytes=size_bytes, name=name)

    def _resume(self) -> None:
        found = self.checkpoints.newest(
            lambda name, why: self.at.emit("checkpoint.damaged", name=name, reason=why)
        )
        if found is None:
            return
        self._put(found)
        optim.restore(self.optimizer, self.parameters, found.optimizer())
        self.state = State.read(found.state["state"])
        self.saved_step = self.state.step
        self.at.emit("resumed", step=self.state.step, of=self.total, checkpoint=found.name)
        if changed := self.machine.differences(found.state["machine"]):
            self.at.emit(
                "not_exact",
                reason=f"gone on from step {self.state.step} on another machine: " + "; ".join(changed),
            )

    def _put(self, checkpoint: Checkpoint) -> None:
        weights = checkpoint.weights()
        with torch.no_grad():
            for name, p in self.parameters:
                p.copy_(weights[name])

    def _put_best(self, best: Best) -> None:
        try:
            self._put(self.checkpoints.open(best.checkpoint))
        except Damaged as why:
            raise StoreError(
                f"the best weights (step {best.step}) cannot be read back: {why}.",
                remedy="Check the disk and run the same command again: it goes on from the newest sound checkpoint.",
            ) from None

    def _interrupted(self, stop: Interrupted) -> Interrupted:
        if self.saved_step != self.state.step:
            self._save()
        return Interrupted(
            f"training stopped after step {self.state.step} of {self.total}; its state is kept.",
            remedy=stop.remedy or "Run the same command again to go on from there.",
        )


@dataclass
class Figures:
    """Sums over the micro-batches of a step or a validation: the loss, whatever else the method tells, and the loss of
    each group of rows by itself."""

    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    by_group: dict[str, list[float]] = field(default_factory=dict)  # [loss, weight]

    def add(self, rows: Sequence[Row], batch: Batch, loss: Loss) -> None:
        self.weight += math.fsum(batch.row_weights)
        for name, amount in {"loss": float(loss.sum.detach()), **loss.metrics}.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount
        for row, part, weight in zip(rows, loss.by_row.tolist(), batch.row_weights, strict=True):
            group = self.by_group.setdefault(row.group, [0.0, 0.0])
            group[0] += part
            group[1] += weight

    @property
    def loss(self) -> float:
        return self.sums["loss"] / self.weight

    def shown(self) -> dict[str, Any]:
        """What events carry beside the loss; groups only when there are several."""
        told: dict[str, Any] = {k: v / self.weight for k, v in self.sums.items() if k != "loss"}
        if len(self.by_group) > 1:
            told["groups"] = {name: loss / weight for name, (loss, weight) in sorted(self.by_group.items())}
        return told


def groups(rows: Sequence[Row], micro_tokens: int) -> list[list[Row]]:
    """The rows of a step (or of a validation), cut into micro-batches."""
    return [[rows[i] for i in part] for part in pack([row.tokens for row in rows], micro_tokens)]


def seed_of(*parts: int) -> int:
    """A seed that follows from whole numbers alone."""
    return int(digest_of(list(parts))[:15], 16)
