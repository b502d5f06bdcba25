"""What of a recipe's training cannot be, as far as it shows without a base, a row or a weight: in one pass, as soon as the
recipe is read.

Not here: what the base's facts show (models/spec.refuse_strange_layers), what the rows show (training/rows, each method)
and what money shows (stopping.refuse_unpriced). The stage keeps the same rules for who calls it without a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.errors import SpecError

from .launch import processes_of, refuse_unshardable
from .method import Method, MethodSettings
from .mixing import refuse_strangers
from .spec import TrainSpec
from .stopping import refuse_unwatched, refuse_without_validation


def refuse(spec: TrainSpec, task: str, sources: Sequence[str], *, validated: bool) -> None:
    """`task` is the kind of task, `sources` are the names of the data's, `validated`: a share of the rows is to be held back
    for validation. Raises SpecError."""
    method: Method = spec.method.load()(spec.method.settings)
    _refuse_task(spec, method, task)
    _refuse_adapter(spec)
    if not validated:
        refuse_without_validation(spec, 0)
    refuse_unwatched(spec.early_stopping, method)
    refuse_strangers(spec, sources)
    refuse_unshardable(spec)
    processes_of(spec)


def _refuse_task(spec: TrainSpec, method: Method, task: str) -> None:
    if method.task not in (None, task):
        raise SpecError(
            f"train.method is {spec.method.name}, which learns a {method.task} task, and task.kind is {task}.",
            remedy=f"Set task.kind: {method.task}, or choose another method (sft learns any task).",
        )


def _refuse_adapter(spec: TrainSpec) -> None:
    settings = spec.method.settings
    setting = settings.asks_start() if isinstance(settings, MethodSettings) else None
    if setting and not spec.adapter.beside:
        raise SpecError(
            f"train.method {spec.method.name} with {setting} compares with the model before training, and with "
            f"train.adapter.kind: {spec.adapter.kind} that model is gone after the first step.",
            remedy=f"Use train.adapter.kind: lora, which can be switched off, or set {setting}: 0.",
        )
