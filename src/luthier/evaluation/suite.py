"""The stage: every system answers the test split, and the answers become a Report.

    inputs: model (tuned), base, dataset, calibration where there is one, general and safety where these are files; fallback (a base
            or a package) and its fallback_base where another model is asked; of other systems NAME/model and, where there are such,
            NAME/base, NAME/package, NAME/release (others.roles), and the same of a local judge under judge/
    out:    predictions.parquet, report.json; judgements.parquet with a judge, memorisation.json where that is wished,
            beside.parquet where there are sets beside the task

Light at import: torch, pyarrow and scikit-learn load when the stage runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage
from luthier.core.units import Money, MoneyField
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
    sure: bool = False
    """Whether how sure the tuned model is of a free text is told, since it will decline to answer where it is not."""
    hourly: MoneyField | None = None
    """What an hour of this machine costs, where answers are timed: at another price an answer costs something else."""


def _answering(spec: EvaluateSpec) -> AnsweringSpec:
    """Who measures without such a wish takes labels where there are such, and else what the model says."""
    return spec.answering if isinstance(spec, MeasureSpec) else AnsweringSpec(constrain="labels")


def _hourly(spec: EvaluateSpec, at: Context) -> Money | None:
    return spec.hourly if isinstance(spec, MeasureSpec) else at.hourly


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
    from . import (
        external,
        others,
        predictions,
        preferred,
        prompted,
        questions,
        refining,
        report,
        similar,
        slices,
        tasks,
        timing,
    )
    from .general import figures

    folders = {role: at.folder(inputs[role]) for role in ("model", "base", "dataset")}
    task = json.loads((folders["dataset"] / "dataset.json").read_text(encoding="utf-8"))["task"]
    tuned = json.loads((folders["model"] / "luthier.json").read_text(encoding="utf-8"))
    _refuse_strangers(tuned, inputs["base"], task)
    test = folders["dataset"] / "test.parquet"
    asked = questions.read(test, spec.rows)
    parts = slices.assign(asked, spec.slices)
    learnt = _calibration(inputs, at)
    part = tasks.of(task, spec.max_tokens)
    digests = {role: inputs[role].digest for role in folders}
    more = others.found(spec, inputs, at)
    beside = _beside(spec, inputs, scratch, at)
    sure = isinstance(spec, MeasureSpec) and spec.sure
    mine = refining.Refining.of(_answering(spec), task, spec.max_tokens, learnt, sure)
    unfit = {name: why for name, one in more.items() if (why := others.unfit(one, task))}
    served = {name: one.served for name, one in more.items() if one.served and name not in unfit}
    ways = {name: refining.Refining.as_served(one, task, spec.max_tokens) for name, one in served.items()}
    bench = prompted.Bench(
        spec, task, part, asked, parts, folders, scratch, at, more, digests, beside, {**ways, "tuned": mine}
    )
    lines, skipped = prompted.answer_all(bench, tuned["adapter"])
    if (other := fallback(mine.spec, inputs, at, task["labels"], spec)) is not None:
        lines = refining.second(lines, mine, other, asked, part, scratch, at)
    if "tfidf" in spec.systems(task["kind"]):
        lines += plain_baseline(bench)
    sent = external.ask_all(bench)
    lines += sent.lines
    preferred.gains(lines)
    if "similarity" in spec.measured(task["kind"]):
        similar.measure(lines, spec.embedder, at.check)
    table = predictions.table(lines)
    predictions.write(table, out / "predictions.parquet")
    left_out = {
        **{name: others.NO_RELEASE for name in spec.named if name == "production" and name not in more},
        **unfit,
    }
    told = [] if beside is None else beside.lines()
    if beside is not None:
        import pyarrow.parquet as pq

        pq.write_table(figures.table(told), out / "beside.parquet", compression="zstd")
    found = report.build(
        table,
        task,
        spec,
        asked,
        {**skipped, **sent.skipped},
        questions.disliked(test),
        learnt,
        told,
        refining=mine,
        hourly=_hourly(spec, at),
        machine=timing.machine(spec) if spec.timed else None,
        left_out=left_out,
        who=_described(spec, task, inputs),
    )
    found["cautions"] += sent.cautions
    server = None if mine.spec.fallback is None else mine.spec.fallback.endpoint
    if server is not None and server.away:
        found["cautions"].append(
            f"Test rows of which the tuned model was not sure were sent to {server.host}, which the recipe allows."
        )
    found["cautions"] += [
        f"{name} asks another model where it is not sure, or where its steps refuse; here it was measured by its own answers alone."
        for name, one in served.items()
        if (one.get("answering") or {}).get("fallback")
    ]
    if spec.judge is not None:
        _judge(spec, table, bench, inputs, out, found)
    if spec.memorisation is not None:
        _remember(found, bench, tuned["adapter"], out)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    return Output({"rows": found["rows"], **{name: one["metrics"] for name, one in found["systems"].items()}})


STAGE = Stage("report", 4, evaluate)


def _remember(found: dict[str, Any], bench: Any, adapter: str, out: Path) -> None:
    """What was learnt by heart, beside what the answers to the test rows say."""
    from luthier.models.place import place

    from .memorisation.measure import measure

    spec = bench.spec
    told = measure(bench, spec.memorisation, adapter, place(spec.device, spec.dtype, "evaluate"), out)
    shown, mine = spec.remembered(bench.task["kind"]), found["systems"]["tuned"]
    metrics, intervals = told.pop("metrics"), told.pop("intervals")
    mine["metrics"] |= {name: metrics[name] for name in shown}
    mine["intervals"] |= {name: intervals[name] for name in shown if name in intervals}
    found["memorisation"] = told
    found["cautions"] += told["alarms"] + told["notes"]


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


def _beside(spec: EvaluateSpec, inputs: Mapping[str, Artifact], scratch: Path, at: Context) -> Any:
    """The rows that are not of the task; None where none are wished for."""
    from .general.asking import Beside
    from .general.items import read

    if not spec.sets:
        return None
    folders = {name: at.folder(inputs[name]) for name in spec.sets if name in inputs}
    return Beside(read(spec.sets, folders), scratch, at, spec.max_tokens)


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
