"""The tuned model asked the validation rows: by one metric to choose between models, and by its probabilities to calibrate it.

inputs: model (tuned), base, dataset        out: validation.json, predictions.parquet
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.core.stage import Context, Output, Stage
from luthier.data.embedders.embedder import EmbedderSpec
from luthier.outputs.spec import AnsweringSpec

from .memorisation.spec import REMEMBERED
from .spec import METRICS, EvaluateSpec
from .systems import System

if TYPE_CHECKING:
    import pyarrow as pa

    from .refining import Refining

MOST = 2_000
SPLIT = "validation.parquet"
AGAINST_BASE = ("reward_accuracy",)
"""Metrics that need the base's answers beside the tuned model's, which a trial does not ask for."""


class ValidateSpec(Spec):
    """By what a model is judged on the validation rows, and how it is asked."""

    metric: str
    """A metric of the task."""
    embedder: EmbedderSpec = Field(default_factory=EmbedderSpec.hashed)
    """What makes vectors of answers, for similarity."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest answer of a chat or extract task, in tokens."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    against: list[System] = Field(default=[])
    """Systems without training that are asked the same rows."""
    answering: AnsweringSpec | None = None
    """The way from what the model says to an answer, another model left out; null: labels, or what it says."""

    @model_serializer(mode="wrap")
    def _as_before(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was validated before there were such keeps its identity."""
        told: dict[str, Any] = standard(self)
        return {name: value for name, value in told.items() if name not in ("against", "answering") or value}


def validate(
    spec: ValidateSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    from . import compare, predictions, tasks
    from .refining import Refining

    folders = {role: at.folder(inputs[role]) for role in ("model", "base", "dataset")}
    task = json.loads((folders["dataset"] / "dataset.json").read_text(encoding="utf-8"))["task"]
    wish = EvaluateSpec(
        against=spec.against,
        metrics=[spec.metric],
        embedder=spec.embedder,
        max_tokens=spec.max_tokens,
        timed_rows=0,
        dtype=spec.dtype,
        device=spec.device,
    )
    way = None if spec.answering is None else Refining.of(spec.answering, task, spec.max_tokens)
    table = answers(wish, task, folders, scratch, at, way)
    mine = predictions.by_system(table)["tuned"]
    found = compare.at_sample(tasks.of(task).statistics(mine), len(mine))
    if spec.metric not in found:
        raise DataError(
            f"{spec.metric} cannot be computed of the {len(mine)} validation rows that were answered.",
            remedy="Name another metric in search.metric, or give data.split.validation a larger share.",
        )
    predictions.write(table, out / "predictions.parquet")
    told = {"metric": spec.metric, "value": found[spec.metric], "rows": len(mine)}
    (out / "validation.json").write_text(json.dumps(told, allow_nan=False) + "\n", encoding="utf-8")
    return Output({spec.metric: found[spec.metric], "rows": len(mine)})


STAGE = Stage("validation", 2, validate)


def answers(
    wish: EvaluateSpec,
    task: Mapping[str, Any],
    folders: Mapping[str, Path],
    scratch: Path,
    at: Context,
    refining: Refining | None = None,
) -> pa.Table:
    """What the tuned model says of the first validation rows by id, as a table of predictions. Raises DataError where there is
    no row."""
    from . import predictions, prompted, questions, similar, tasks
    from .suite import plain_baseline

    tuned = json.loads((folders["model"] / "luthier.json").read_text(encoding="utf-8"))
    asked = questions.read(folders["dataset"] / SPLIT, MOST)
    parts: dict[str, tuple[()]] = {one.id: () for one in asked}
    bench = prompted.Bench(
        wish,
        task,
        tasks.of(task, wish.max_tokens),
        asked,
        parts,
        folders,
        scratch,
        at,
        refined={} if refining is None else {"tuned": refining},
    )
    lines = prompted.answer_all(bench, tuned["adapter"])[0]
    if "tfidf" in wish.systems(task["kind"]):
        lines += plain_baseline(bench)
    if "similarity" in wish.measured(task["kind"]):
        similar.measure(lines, wish.embedder, at.check)
    return predictions.table(lines)


def lead(kind: str, metric: str | None) -> str:
    """The metric that decides. Raises ValueError for one that the task has not.

    >>> lead("chat", None), lead("classify", "accuracy")
    ('perplexity', 'accuracy')
    """
    known = [
        name
        for name, one in METRICS.items()
        if kind in one.kinds and not one.judged and name not in (*AGAINST_BASE, *REMEMBERED)
    ]
    if metric is None:
        return {"classify": "macro_f1", "regress": "mae", "chat": "perplexity", "extract": "field_f1"}[kind]
    if metric not in known:
        raise ValueError(f"{metric!r} is no metric of a {kind} task; choose from {', '.join(known)}")
    return metric
