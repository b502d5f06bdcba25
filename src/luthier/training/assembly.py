"""Everything a step needs, put together in one place: for training, for its probe and for its profile alike.

machine ─▶ weights ─▶ adapter on them ─▶ the method's own module ─▶ what moves ─▶ the method's figures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import plugin
from luthier.core.artifact import digest_of
from luthier.core.stage import Context
from luthier.core.units import show_bytes

from .machine import Machine, find
from .memory import Lengths, machine_bytes, settle
from .method import Method, Work
from .recompute import recompute_blocks
from .spec import TrainSpec

if TYPE_CHECKING:
    from luthier.models.fast import Quick
    from luthier.models.template import Template

    from .rows import Rows


Turn = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Assembly:
    """`spec` with its `activation_checkpointing` decided; `parameters` are those that move, by name, in a stable order. `quick` is what was
    fused; it must be restored before weights are saved."""

    spec: TrainSpec
    model: Any
    adapter: Any
    method: Method
    parameters: list[tuple[str, Any]]
    machine: Machine
    quick: Quick | None
    splits: Mapping[str, Rows]
    work: Work
    turn: Turn

    def prepare_plain(self) -> None:
        """The method's figures once more, of the model without its fused parts: what a step is compared with must come
        from what a step is computed by. Kept under a name of their own."""
        identity = digest_of({"work": self.work.identity, "computed": "plain"})
        with self.turn():
            self.method.prepare(self.model, self.splits, replace(self.work, identity=identity))


def assemble(
    spec: TrainSpec,
    method: Method,
    folders: Mapping[str, Path],
    splits: Mapping[str, Rows],
    template: Template,
    scratch: Path,
    identity: str,
    at: Context,
    turn: Turn = nullcontext,
) -> Assembly:
    """`folders`: base, dataset and the models that the method names, by role. `turn`: in it the method prepares, so that
    of several processes one does the work and the others find it. Raises SpecError, ModelError."""
    from luthier.models.fast import quicken
    from luthier.models.line import steady
    from luthier.models.weights import load

    machine = find(spec)
    spec = settled(spec, folders, splits, machine, at)
    adapter = plugin.load("adapter", spec.adapter.kind)()
    model = load(folders["base"], dtype=machine.weights_dtype(spec.adapter.kind), device=machine.device)
    model = adapter.attach(model, spec.adapter, spec.seed)
    method.share = steady(model)
    work = Work(folders, template, machine, spec.batch.micro_tokens, scratch, identity, at)
    method.attach(model, splits, work, spec.seed)
    parameters = adapter.trainable(model)
    # While weights are sharded there is nothing to fuse: each lies in pieces.
    quick = None if spec.parallel.kind == "fsdp" else quicken(model)
    if quick is not None:
        machine = replace(machine, kernels="plain" if "kernels" in quick.left else "compiled", fused=True)
    with turn():
        method.prepare(model, splits, work)
    if spec.activation_checkpointing is True:
        recompute_blocks(model, machine.precision)
    return Assembly(spec, model, adapter, method, parameters, machine, quick, splits, work, turn)


def settled(
    spec: TrainSpec, folders: Mapping[str, Path], splits: Mapping[str, Rows], machine: Machine, at: Context
) -> TrainSpec:
    """`activation_checkpointing: auto` decided by what this machine has; an event tells when that turns it on."""
    from luthier.models.weights import describe

    if spec.activation_checkpointing != "auto":
        return spec
    facts = {role: describe(folders[role]) for role in ("base", *spec.other_models)}
    base, there = facts.pop("base"), machine_bytes(machine.device)
    decided = settle(spec, base, Lengths.of(splits, spec), machine.dtype, there, facts, machine.device)
    if decided.activation_checkpointing:
        at.emit(
            "activation_checkpointing",
            reason=f"training would need more than the {show_bytes(there)} that this machine has; "
            "blocks are computed again in the backward pass, which takes about a third longer",
        )
    return decided
