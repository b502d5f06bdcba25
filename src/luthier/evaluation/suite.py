"""The stage: every system answers the test split, and the answers become a Report.

    inputs: model (tuned), base, dataset, calibration where there is one; of other systems NAME/model and, where there are
            such, NAME/base, NAME/package, NAME/release (others.roles), and the same of a local judge under judge/
    out:    predictions.parquet, report.json, and with a judge judgements.parquet

Light at import: torch, pyarrow and scikit-learn load when the stage runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage

from .spec import EvaluateSpec


def evaluate(
    spec: EvaluateSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    from . import external, others, predictions, prompted, questions, report, slices, tasks

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
    digests = {role: inputs[role].digest for role in folders}
    more = others.found(spec, inputs, at)
    bench = prompted.Bench(spec, task, part, asked, parts, folders, scratch, at, heat, more, digests)
    lines, skipped = prompted.answer_all(bench, tuned["adapter"])
    if "tfidf" in spec.systems(task["kind"]):
        lines += _tfidf(bench)
    sent = external.ask_all(bench)
    lines += sent.lines
    table = predictions.table(lines)
    predictions.write(table, out / "predictions.parquet")
    left_out = {
        **{name: others.NO_RELEASE for name in spec.named if name == "production" and name not in more},
        **{name: why for name, one in more.items() if (why := others.unfit(one, task))},
    }
    found = report.build(
        table,
        task,
        spec,
        asked,
        {**skipped, **sent.skipped},
        questions.disliked(test),
        learnt,
        hourly=at.hourly,
        left_out=left_out,
        who=_described(spec, task, inputs),
    )
    found["cautions"] += sent.cautions
    if spec.judge is not None:
        _judge(spec, table, bench, inputs, out, found)
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


def _judge(
    spec: EvaluateSpec,
    table: Any,
    bench: Any,
    inputs: Mapping[str, Artifact],
    out: Path,
    found: dict[str, Any],
) -> None:
    """judgements.parquet, and what follows from it in the report."""
    import pyarrow.parquet as pq

    from .judge import judging, scores

    assert spec.judge is not None
    judgements = judging.judge(spec, table, bench.questions, inputs, bench.at)
    pq.write_table(judgements, out / "judgements.parquet", compression="zstd")
    digests = {
        part: inputs[f"{judging.ROLE}/{part}"].digest
        for part in ("release", "model", "base")
        if f"{judging.ROLE}/{part}" in inputs
    }
    own_kind = digests.get("model") == inputs["base"].digest
    scores.add(found, judgements, spec, {"by": spec.judge.called, "digests": digests, "own_kind": own_kind})


def _described(
    spec: EvaluateSpec, task: Mapping[str, Any], inputs: Mapping[str, Artifact]
) -> list[dict[str, Any]]:
    """Who was to be measured, in order: what each is, in words, and the digests that it stands for."""
    from .others import roles
    from .systems import described

    told = []
    for name in spec.systems(task["kind"]):
        digests = {part: inputs[role].digest for part, role in roles(name).items() if role in inputs}
        told.append(
            {
                "name": name,
                "kind": spec.kind_of(name),
                "is": described(spec.named.get(name, name)),
                "digests": digests,
            }
        )
    return told


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
    from . import predictions, questions, timing

    bench.at.check()
    train = questions.records(bench.folders["dataset"] / "train.parquet")
    answers = bench.part.baseline(train, bench.questions, bench.spec.seed)
    ids = [question.id for question in bench.questions]
    seconds = {
        one: answer.seconds for one, answer in zip(ids, answers, strict=True) if answer.seconds is not None
    }
    if bench.spec.timed:
        dataset = [bench.digests["dataset"]] if bench.digests else []
        seconds = timing.remembered(bench, dataset, list(seconds), {"words": True}, lambda: seconds)
    else:
        seconds = {}
    return [
        predictions.line(
            question,
            "tfidf",
            replace(answer, seconds=seconds.get(question.id)),
            bench.part,
            bench.slices[question.id],
        )
        for question, answer in zip(bench.questions, answers, strict=True)
    ]
