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

from . import keeping, optim
from .ahead import Ahead
from .batches import cut, total_steps
from .checkpoint import Checkpoint, Checkpoints, Damaged
from .figures import NAMED, Figures
from .machine import Machine, enough_memory
from .method import Batch, Loss, Method
from .mixing import order_of
from .parallel import Alone, World
from .plan import validate_every
from .rows import Row, Rows
from .spec import TrainSpec
from .state import BROKEN, Good, Kept, State, Stopped
from .stopping import diverged, spent, stale, watch_of

CHECKPOINT_EVERY_S = 60.0


class NotFinite(ModelError):
    """A loss or a gradient is no number. The weights are those before that step."""


@dataclass
class Loop:
    """`run` goes from wherever the newest checkpoint stands to the end; the model then holds the weights to keep."""

    spec: TrainSpec
    model: Any
    parameters: Sequence[tuple[str, torch.nn.Parameter]]
    method: Method
    train: Rows
    validation: Rows
    machine: Machine
    checkpoints: Checkpoints
    at: Context
    world: World = field(default_factory=Alone)
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        spec, n = self.spec, len(self.train)
        self.order = order_of(spec, self.train)
        self.total = total_steps(n, spec.batch.rows, spec.epochs, spec.max_steps)
        self.ahead = Ahead(self.train, self.order, self.total)
        self.validate_every = validate_every(spec, n)
        self.watch = watch_of(spec.early_stopping, self.method.watch)
        self.optimizer = optim.build(self.parameters, spec)
        self.saved_step: int | None = None
        self.saved_at_s = self.counted_at_s = time.monotonic()

    def run(self) -> State:
        self._resume()
        self.counted_at_s = time.monotonic()
        try:
            while not self.state.stopped:
                try:
                    self._turn()
                except NotFinite as found:
                    self._give_up(found, "not_finite")
            self.state.kept = self._keep()
        except Interrupted as stop:
            raise self._interrupted(stop) from stop
        finally:
            self.ahead.close()
        self.at.emit("kept", **{**vars(self.state.kept), "steps": list(self.state.kept.steps)})
        return self.state

    def _turn(self) -> None:
        """What is due between two steps, then a step."""
        if self._validation_due():
            self._validate()
        stopped = self._reason_to_stop()
        if stopped in ("time", "tokens", "money") and len(self.validation) and not self.state.validated:
            self._validate()
        if stopped == "diverged":
            lately = [one["loss"] for one in self.state.steps[-3:]]
            self._give_up(self._ran_away(lately), "diverged")
            return
        self.state.stopped = stopped
        if stopped in ("time", "money"):
            self.at.emit(
                "not_exact",
                reason=f"the limit of {stopped} ended training at step {self.state.step}: how far it gets depends on the "
                "machine's speed, so a second run may end elsewhere",
            )
        if self._checkpoint_due():
            self._save()
        if not stopped:
            self._check()
            self._step()

    def _check(self) -> None:
        """Raises Interrupted in every process when the user asked any of them to stop."""
        try:
            self.at.check()
        except Interrupted:
            self.world.gather(True)
            raise
        if any(self.world.gather(False)):
            raise Interrupted("another process of this run was asked to stop.")

    # -- one optimizer step -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        started = time.monotonic()
        step = self.state.step + 1
        rows = self.ahead.take(step)
        rows = list(self.method.unfold(self.model, rows, seed_of(self.spec.seed, step)))
        rate = optim.learning_rate(self.spec, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        figures = self._gradients(step, rows)
        if figures.trouble:
            raise self._no_number("loss", figures.loss, step, figures.trouble)
        norm = optim.gradient_norm(self.parameters, self.spec.clip)
        if not math.isfinite(norm):
            raise self._no_number("gradient norm", norm, step, [row.id for row in rows])
        fault("loop.gradients")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        fault("loop.stepped")
        self.state.step = step
        self.state.tokens += figures.tokens
        told = {"step": step, "loss": figures.loss, "learning_rate": rate, "gradient_norm": norm}
        told |= {"tokens": figures.tokens, "supervised": figures.supervised, **figures.shown()}
        self.state.steps.append(told)
        self._tell(told, figures.tokens, time.monotonic() - started)

    def _gradients(self, step: int, rows: Sequence[Row]) -> Figures:
        """Add up the gradients of all micro-batches, those of other processes included."""
        budget = self.world.budget(rows, self.spec.batch.micro_tokens)
        parts = groups(rows, budget, share=self.method.share)
        own = self.world.deal([sum(row.tokens for row in part) for part in parts])
        batches = {k: self.method.collate(parts[k]) for k in own.parts}
        weight = self.world.total(math.fsum(w for batch in batches.values() for w in batch.row_weights))
        figures = Figures()
        for k, batch in batches.items():
            torch.manual_seed(seed_of(self.spec.seed, step, k))
            with enough_memory(batch.tokens):
                loss = self._loss_of(batch)
                (loss.sum / (weight / self.world.averages)).backward()
            fault("loop.backward")
            figures.add(parts[k], batch, loss)
        for k in own.idle:
            (self._loss_of(self.method.collate(parts[k])).sum * 0.0).backward()
        self.world.add_gradients(self.parameters)
        return Figures.merged(self.world.gather(figures.plain()))

    def _loss_of(self, batch: Batch) -> Loss:
        with self.machine.precision(self.model):
            return self.method.loss(self.model, batch.to(self.machine.device))

    def _tell(self, figures: Mapping[str, Any], tokens: int, seconds: float) -> None:
        import psutil

        speed = tokens / seconds
        rss_bytes = psutil.Process().memory_info().rss
        self.at.emit("step", **figures, tokens_per_s=speed, rss_bytes=rss_bytes, seconds=seconds)
        watched = {name: figures[name] for name in ("loss", self.watch.metric) if name in figures}
        self.at.progress("train", figures["step"], self.total, **watched, tokens_per_s=speed)

    # -- validation -------------------------------------------------------------------------------------------------

    def _validation_due(self) -> bool:
        step = self.state.step
        due = step % self.validate_every == 0 or step == self.total
        return bool(len(self.validation)) and due and not self.state.validated

    def _validate(self) -> None:
        started, step = time.monotonic(), self.state.step
        figures = self._measure(f"validate after step {step}")
        if not math.isfinite(figures.loss):
            named = figures.trouble or self.validation.names[:NAMED]
            raise self._no_number("validation loss", figures.loss, step, named)
        value = self.watch.measured(figures.values())
        self.state.validation.append({"step": step, "loss": figures.loss, **figures.shown()})
        self.state.rank(Good(step, value, figures.loss, self._next_name()), self.watch, self.spec.ranked)
        self.saved_step = (
            None  # what was saved of this step, by a stop in its validation, does not know of it
        )
        seconds = time.monotonic() - started
        self.at.emit("validation", **self.state.validation[-1], seconds=seconds)

    def _measure(self, what: str) -> Figures:
        """The figures of the validation rows under the weights that the model holds."""
        self.model.eval()
        rows = list(self.method.unfold(self.model, list(self.validation), seed_of(self.spec.seed)))
        budget = self.world.budget(rows, self.spec.batch.micro_tokens)
        parts = groups(rows, budget, share=self.method.share)
        own = self.world.deal([sum(row.tokens for row in part) for part in parts])
        figures = Figures()
        for done, k in enumerate(own.parts):
            if self.world.size == 1:  # others would wait for one that leaves here
                self.at.check()
            self.at.progress(what, done, len(own.parts))
            batch = self.method.collate(parts[k])
            with torch.no_grad(), enough_memory(batch.tokens):
                figures.add(parts[k], batch, self._loss_of(batch))
        for k in own.idle:
            with torch.no_grad():
                self._loss_of(self.method.collate(parts[k]))
        return Figures.merged(self.world.gather(figures.plain()))

    # -- stopping ---------------------------------------------------------------------------------------------------

    def _reason_to_stop(self) -> Stopped | None:
        state, spec = self.state, self.spec
        now = time.monotonic()
        state.seconds, self.counted_at_s = state.seconds + now - self.counted_at_s, now
        state.seconds = self.world.gather(state.seconds)[0]
        if state.step == self.total:
            whole = total_steps(len(self.train), spec.batch.rows, spec.epochs, None)
            return "epochs" if self.total == whole else "max_steps"
        if self.method.watch[0] == "loss" and diverged(self._lately(), spec.divergence):
            return "diverged"
        values = [one[self.watch.metric] for one in state.validation]
        early = spec.early_stopping
        if early and state.validated and stale(values, self.watch, early.min_delta) >= early.patience:
            return "early"
        return spent(spec.stop_at, state.seconds, state.tokens, self.at.hourly)

    def _lately(self) -> list[float]:
        """As many step losses as `diverged` looks at: the first few and the last ones."""
        told, rule = self.state.steps, self.spec.divergence
        if rule is None or len(told) <= 2 * rule.patience + rule.window:
            return [one["loss"] for one in told]
        some = [*told[: rule.patience], *told[-rule.patience - rule.window :]]
        return [one["loss"] for one in some]

    def _give_up(self, found: ModelError, stopped: Stopped) -> None:
        """End with the best validated weights; where training never got better than its start, raise `found`."""
        best = self.state.best
        if best is None or best.step == 0:
            raise found
        self.optimizer.zero_grad(set_to_none=True)
        self.at.emit(stopped, step=self.state.step, reason=found.message, best_step=best.step)
        self.state.stopped = stopped
        if self._checkpoint_due():
            self._save()

    def _no_number(self, what: str, value: float, step: int, ids: Sequence[str]) -> NotFinite:
        named = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
        return NotFinite(
            f"the {what} at step {step} is {value}, so training stopped there. The rows it came from: {named}.",
            remedy=f"Lower train.learning_rate (it was {self.spec.peak_learning_rate:g}), set train.clip, or use "
            "train.dtype: fp32; `luthier lineage ROW` shows a row. The last good checkpoint is kept.",
        )

    def _ran_away(self, lately: Sequence[float]) -> ModelError:
        rule = self.spec.divergence
        assert rule is not None
        told = ", ".join(f"{loss:.4g}" for loss in lately)
        return ModelError(
            f"training diverged: at step {self.state.step} the loss has been above {rule.factor:g} times its running "
            f"median, and above where it began, for {rule.patience} steps (the last ones: {told}).",
            remedy=f"Lower train.learning_rate (it was {self.spec.peak_learning_rate:g}) or raise train.warmup; "
            "train.divergence: null lets it go on.",
        )

    # -- which weights are kept -------------------------------------------------------------------------------------

    def _keep(self) -> Kept:
        """Put the weights that become the model into it."""
        state, best = self.state, self.state.best
        if best is None:
            return Kept("last", (state.step,), None)
        if self.spec.keep == "last" and state.stopped not in BROKEN:
            return Kept("last", (state.step,), state.validation[-1]["loss"] if state.validated else None)
        if self.spec.keep == "average" and len(state.ranking) > 1:
            return self._keep_average(best)
        why = (
            f"the last weights are of no use (stopped: {state.stopped})" if self.spec.keep == "last" else None
        )
        if best.step != state.step or state.stopped in BROKEN:
            self._put_mean([best])
        return Kept("best", (best.step,), best.loss, why)

    def _keep_average(self, best: Good) -> Kept:
        losses: dict[tuple[int, ...], float] = {}

        def measure(some: Sequence[Good]) -> float:
            self._put_mean(some)
            figures = self._measure("validate an average")
            losses[tuple(one.step for one in some)] = figures.loss
            return figures.values()[self.watch.metric]

        chosen, value = keeping.greedy(self.state.ranking, self.watch, measure)
        self._put_mean(chosen)
        steps = tuple(one.step for one in chosen)
        self.at.emit("averaged", steps=list(steps), value=value, best=best.value, tried=len(losses))
        if len(chosen) > 1:
            return Kept("average", steps, losses[steps])
        return Kept("best", steps, best.loss, "every average validated worse than the best weights alone")

    def _put_mean(self, some: Sequence[Good]) -> None:
        """In the order of steps, so that the same weights always add up to the same bits."""
        found = sorted(some, key=lambda one: one.step)
        try:
            opened = [self.checkpoints.open(one.checkpoint) for one in found]
        except Damaged as why:
            steps = " and ".join(str(one.step) for one in found)
            raise StoreError(
                f"the best weights (step {steps}) cannot be read back: {why}.",
                remedy="Check the disk and run the same command again: it goes on from the newest sound checkpoint.",
            ) from None
        self._put(keeping.mean(one.weights() for one in opened) if len(opened) > 1 else opened[0].weights())

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.parameters:
                self.world.put(p, weights[name])

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        state, every = self.state, self.spec.checkpoint_every
        if state.step == self.saved_step:
            return False
        if state.stopped or state.ranked:
            return True
        if every is not None:
            return state.step > 0 and state.step % every == 0
        return self.world.gather(time.monotonic() - self.saved_at_s >= CHECKPOINT_EVERY_S)[0]

    def _save(self) -> None:
        state, name = self.state, self._next_name()
        state.ranking = [
            replace(one, checkpoint=name) if one.step == state.step else one for one in state.ranking
        ]
        weights = self.world.whole({name: p.data for name, p in self.parameters})
        moments = self.world.whole(optim.state_tensors(self.optimizer, self.parameters))
        if self.world.rank == 0:
            told = {"state": state.plain(), "machine": self.machine.plain()}
            needs = [one.checkpoint for one in state.ranking]
            _, size_bytes = self.checkpoints.save(told, weights, moments, needs)
            self.at.emit("checkpoint", step=state.step, bytes=size_bytes, name=name)
        self.world.barrier()
        self.saved_step, self.saved_at_s = state.step, time.monotonic()

    def _next_name(self) -> str:
        """Process 0 writes, so it knows what is there."""
        return str(self.world.gather(self.checkpoints.next_name())[0])

    def _resume(self) -> None:
        found = self.checkpoints.newest(
            lambda name, why: self.at.emit("checkpoint.damaged", name=name, reason=why)
        )
        if found is None:
            return
        self._go_on_from(found)
        self.at.emit("resumed", step=self.state.step, of=self.total, checkpoint=found.name)
        if changed := self.machine.differences(found.state["machine"]):
            self.at.emit(
                "not_exact",
                reason=f"gone on from step {self.state.step} on another machine: " + "; ".join(changed),
            )

    def _go_on_from(self, found: Checkpoint) -> None:
        self._put(found.weights())
        optim.restore(self.optimizer, self.parameters, found.optimizer(), self.world.like)
        self.state = State.read(found.state["state"])
        self.saved_step = self.state.step

    def _interrupted(self, stop: Interrupted) -> Interrupted:
        if self.saved_step != self.state.step:
            self._save()
        return Interrupted(
            f"training stopped after step {self.state.step} of {self.total}; its state is kept.",
            remedy=stop.remedy or "Run the same command again to go on from there.",
        )


def groups(rows: Sequence[Row], micro_tokens: int, *, share: bool = False) -> list[list[Row]]:
    """The rows of a step (or of a validation), cut into micro-batches; `share` as the method has it."""
    return [[rows[i] for i in part] for part in cut(rows, micro_tokens, share=share)]


def seed_of(*parts: int) -> int:
    """A seed that follows from whole numbers alone."""
    return int(digest_of(list(parts))[:15], 16)
