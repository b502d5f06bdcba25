"""The stage: every system answers the test split, and the answers become a Report.

    inputs: model (tuned), base, dataset, calibration where there is one; fallback (a base or a package) and its fallback_base
            where another model is asked
    out:    predictions.parquet, report.json

Light at import: torch, pyarrow and scikit-learn load when the stage runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage
from luthier.outputs.other import model_folder
from luthier.outputs.spec import AnsweringSpec

from .spec import EvaluateSpec

if TYPE_CHECKING:
    from luthier.outputs.other import Other


class MeasureSpec(EvaluateSpec):
    """What the stage is asked: how to measure, and the way from what the tuned model says to an answer, which is a wish of
    `postprocess`."""

    answering: AnsweringSpec = AnsweringSpec()
    """Without files; tied to the dataset's task by the stage."""


def _answering(spec: EvaluateSpec) -> AnsweringSpec:
    """Who measures without such a wish takes labels where there are such, and else what the model says."""
    return spec.answering if isinstance(spec, MeasureSpec) else AnsweringSpec(constrain="labels")


def fallback(
    answering: AnsweringSpec,
    inputs: Mapping[str, Artifact],
    at: Context,
    labels: Sequence[str] | None,
    spec: EvaluateSpec,
) -> Other | None:
    """The model that is asked where the tuned one is not sure, on the device and in the number format of the measuring."""
    from luthier.models.place import place
    from luthier.outputs.other import EndpointOther, LocalOther

    wish = answering.fallback
    if wish is None:
        return None
    held = tuple(labels) if labels and answering.constrain == "labels" else None
    if wish.endpoint is not None:
        return EndpointOther(wish.endpoint, at.secret, held)
    where = place(spec.device, spec.dtype, "evaluate")
    base = inputs.get("fallback_base")
    return LocalOther(
        model_folder(at.folder(inputs["fallback"])),
        None if base is None else at.folder(base),
        dtype=where.dtype,
        device=where.device,
        labels=held,
        grammar=answering.grammar(),
    )


def evaluate(
    spec: EvaluateSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    from . import predictions, prompted, questions, refining, report, slices, tasks

    folders = {role: at.folder(inputs[role]) for role in ("model", "base", "dataset")}
    task = json.loads((folders["dataset"] / "dataset.json").read_text(encoding="utf-8"))["task"]
    tuned = json.loads((folders["model"] / "luthier.json").read_text(encoding="utf-8"))
    _refuse_strangers(tuned, inputs["base"], task)
    test = folders["dataset"] / "test.parquet"
    asked = questions.read(test, spec.rows)
    parts = slices.assign(asked, spec.slices)
    learnt = _calibration(inputs, at)
    heat = 1.0 if learnt is None else learnt["temperature"]
    part = tasks.of(task, spec.max_tokens)
    mine = refining.Refining.of(_answering(spec), task, spec.max_tokens, learnt)
    bench = prompted.Bench(
        spec, task, part, asked, parts, folders, scratch, at, heat, refined={"tuned": mine}
    )
    lines, skipped = prompted.answer_all(bench, tuned["adapter"])
    if (other := fallback(mine.spec, inputs, at, task["labels"], spec)) is not None:
        lines = refining.second(lines, mine, other, asked, part, scratch, at)
    if "tfidf" in spec.systems(task["kind"]):
        lines += _tfidf(bench)
    table = predictions.table(lines)
    predictions.write(table, out / "predictions.parquet")
    found = report.build(table, task, spec, asked, skipped, questions.disliked(test), learnt, mine)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    return Output({"rows": found["rows"], **{name: one["metrics"] for name, one in found["systems"].items()}})


STAGE = Stage("report", 4, evaluate)


def _calibration(inputs: Mapping[str, Artifact], at: Context) -> dict[str, Any] | None:
    if "calibration" not in inputs:
        return None
    path = at.folder(inputs["calibration"]) / "calibration.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _refuse_strangers(tuned: Mapping[str, Any], base: Artifact, task: Mapping[str, Any]) -> None:
    if tuned["base_digest"] != base.digest:
        raise ModelError(
            f"the model was tuned from base {short(tuned['base_digest'])}, and base {short(base.digest)} was given.",
            remedy="Evaluate it against the base that it was tuned from.",
        )
    if tuned["task"] != task:
        raise ModelError(
            f"the model was tuned for the task {tuned['task']}, and the dataset's task is {dict(task)}.",
            remedy="Evaluate it on a dataset with the same task, instruction and labels.",
        )


def _tfidf(bench: Any) -> list[dict[str, Any]]:
    from . import predictions, questions

    bench.at.check()
    train = questions.records(bench.folders["dataset"] / "train.parquet")
    answers = bench.part.baseline(train, bench.questions, bench.spec.seed)
    return [
        predictions.line(question, "tfidf", answer, bench.part, bench.slices[question.id])
        for question, answer in zip(bench.questions, answers, strict=True)
    ]
