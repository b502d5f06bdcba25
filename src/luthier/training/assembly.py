"""Everything a step needs, put together in one place: for training, for its probe and for its profile alike.

    machine ─▶ weights ─▶ adapter on them ─▶ the method's own module ─▶ what moves ─▶ the method's figures
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import plugin
from luthier.core.stage import Context

from .machine import Machine, find
from .method import Method, Work
from .spec import TrainSpec

if TYPE_CHECKING:
    from luthier.models.template import Template

    from .rows import Rows


@dataclass(frozen=True)
class Assembly:
    """`parameters` are those that move, by name, in a stable order."""

    model: Any
    adapter: Any
    method: Method
    parameters: list[tuple[str, Any]]
    machine: Machine


def assemble(
    spec: TrainSpec,
    method: Method,
    folders: Mapping[str, Path],
    splits: Mapping[str, Rows],
    template: Template,
    scratch: Path,
    identity: str,
    at: Context,
) -> Assembly:
    """`folders`: base, dataset and the models that the method names, by role. Raises SpecError, ModelError."""
    from luthier.models.weights import load

    machine = find(spec)
    adapter = plugin.load("adapter", spec.adapter.kind)()
    model = load(folders["base"], dtype=machine.weights_dtype(spec.adapter.kind), device=machine.device)
    model = adapter.attach(model, spec.adapter, spec.seed)
    work = Work(folders, template, machine, spec.batch.micro_tokens, scratch, identity, at)
    method.attach(model, splits, work, spec.seed)
    parameters = adapter.trainable(model)
    method.prepare(model, splits, work)
    return Assembly(model, adapter, method, parameters, machine)
