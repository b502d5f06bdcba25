"""The stage: every system answers the test split, and the answers become a Report.

    inputs: model (tuned), base, dataset, calibration where there is one       out: predictions.parquet, report.json

Light at import: torch, pyarrow and scikit-learn load when the stage runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage

from .spec import EvaluateSpec


def evaluate(
    spec: EvaluateSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    from . import predictions, prompted, questions, report, slices, tasks

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
    bench = prompted.Bench(spec, task, part, asked, parts, folders, scratch, at, heat)
    lines, skipped = prompted.answer_all(bench, tuned["adapter"])
    if "tfidf" in spec.systems(task["kind"]):
        lines += plain_baseline(bench)
    table = predictions.table(lines)
    predictions.write(table, out / "predictions.parquet")
    found = report.build(table, task, spec, asked, skipped, questions.disliked(test), learnt)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    return Output({"rows": found["rows"], **{name: one["metrics"] for name, one in found["systems"].items()}})


STAGE = Stage("report", 3, evaluate)


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


def plain_baseline(bench: Any) -> list[dict[str, Any]]:
    """What the baseline without a language model, fitted on the train split, says of the questions."""
    from . import predictions, questions

    bench.at.check()
    train = questions.records(bench.folders["dataset"] / "train.parquet")
    answers = bench.part.baseline(train, bench.questions, bench.spec.seed)
    return [
        predictions.line(question, "tfidf", answer, bench.part, bench.slices[question.id])
        for question, answer in zip(bench.questions, answers, strict=True)
    ]
