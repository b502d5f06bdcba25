"""The stage: the harness' tasks on one of our models.

    inputs: model, base (where the model is an adapter on one)        out: benchmark.json, answers.jsonl

benchmark.json  {"harness", "tasks": {name: {"rows", "version", "shots", "metrics": {name: {"value", "error"}}}}, "groups",
                 "chat", "cautions"}. Errors are the harness' own standard errors; null where it has none.
answers.jsonl   one line per row of a task: {"task", "row", "target", "said", "metrics"}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError, did_you_mean
from luthier.core.stage import Context, Output, Stage

from .spec import HarnessSpec


def benchmark(
    spec: HarnessSpec,
    inputs: Mapping[str, Artifact],
    out: Path,
    scratch: Path,  # noqa: ARG001 - every stage has this signature
    at: Context,
) -> Output:
    from .safely import explained, safely, templates_explained

    with safely(network=spec.network, folder=at.root if spec.include else None), templates_explained():
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        known = TaskManager(include_path=str(at.root), include_defaults=False) if spec.include else None
        if known is None or not set(spec.tasks) <= set(
            known.all_tasks
        ):  # its own thousands take seconds to list
            known = TaskManager(include_path=str(at.root) if spec.include else None)
        _refuse_unknown(spec.tasks, known.all_tasks)
        with explained(", ".join(spec.tasks), spec.network):
            loaded = known.load(list(spec.tasks))
        for name, task in loaded["tasks"].items():
            _prepare(name, task, spec)
        lm, cautions = _model(spec, inputs, at)
        found = evaluate(
            lm=lm,
            task_dict=loaded,
            limit=spec.limit,
            bootstrap_iters=spec.resamples,
            apply_chat_template=lm._chat,
            fewshot_as_multiturn=lm._chat,
            confirm_run_unsafe_code=False,
        )
    if lm.cut:
        cautions.append(f"The beginning of {lm.cut:,} prompts was cut, because they did not fit the context.")
    told = summary(found, spec, chat=lm._chat, cautions=cautions)
    _write(out / "benchmark.json", told)
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        for name in sorted(found["samples"]):
            for sample in sorted(found["samples"][name], key=lambda one: one["doc_id"]):
                file.write(json.dumps(_answer(name, sample), ensure_ascii=False, default=str) + "\n")
    figures = {
        f"{task} {metric}": value["value"]
        for task, one in told["tasks"].items()
        for metric, value in one["metrics"].items()
    }
    at.emit("benchmarked", tasks=list(told["tasks"]), rows=sum(one["rows"] for one in told["tasks"].values()))
    return Output({"harness": spec.version, **figures})


STAGE = Stage("benchmark", 1, benchmark)


def _refuse_unknown(tasks: list[str], known: list[str]) -> None:
    for name in tasks:
        if name not in known:
            raise SpecError(
                f"the harness has no task {name!r}.",
                remedy=f"{did_you_mean(name, known) if len(known) < 40 else _near(name, known)} (--include FOLDER brings tasks of your own)",
            )


def _near(name: str, known: list[str]) -> str:
    said = did_you_mean(name, known)
    return said if said.startswith("did you mean") else "`lm_eval ls tasks` lists what there is"


def _prepare(name: str, task: Any, spec: HarnessSpec) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise SpecError(
            f"the task {name} runs code that the model writes.",
            remedy="Run such tasks where nothing can be harmed; they do not run here.",
        )
    if spec.shots is not None and task.get_config("num_fewshot") != 0:
        task.set_config("num_fewshot", spec.shots)
    elif task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(seed=spec.seed)


def _model(spec: HarnessSpec, inputs: Mapping[str, Artifact], at: Context) -> tuple[Any, list[str]]:
    """The model, and what a reader must know of it."""
    from luthier.models.head import head_of
    from luthier.models.template import Template
    from luthier.models.weights import describe, load, load_tokenizer

    from .model import HarnessModel

    folder = at.folder(inputs["model"])
    base = at.folder(inputs["base"]) if "base" in inputs else None
    model = load(folder, base_folder=base, dtype=spec.dtype, device=spec.device)
    template = Template(load_tokenizer(base or folder), describe(base or folder).context)
    cautions = []
    chat = spec.chat and bool(template.tokenizer.chat_template)
    if spec.chat and not chat:
        cautions.append("The model has no chat template: prompts were plain text.")
    if head_of(model) is not None:
        cautions.append(
            "The model answers with a head of its own; these figures are of the language model under it."
        )

    def told(what: str, done: int, total: int) -> None:
        at.check()
        at.progress(what, done, total)

    return HarnessModel(model, template, chat=chat, seed=spec.seed, told=told), cautions


def summary(
    found: Mapping[str, Any], spec: HarnessSpec, *, chat: bool, cautions: list[str]
) -> dict[str, Any]:
    """What the harness counted, without the clock and the machine: the same answers give the same bytes."""
    tasks = {name: one for name, one in found["results"].items() if name in found["samples"]}
    groups = found.get("groups") or {}
    return {
        "harness": spec.version,
        "tasks": {
            name: {
                "rows": found["n-samples"][name]["effective"],
                "of": found["n-samples"][name]["original"],
                "version": str(found["versions"].get(name)),
                "shots": found["n-shot"].get(name, 0),
                "metrics": _metrics(tasks[name], found["higher_is_better"].get(name) or {}),
            }
            for name in sorted(tasks)
        },
        "groups": {name: _metrics(groups[name], {}) for name in sorted(groups)},
        "chat": chat,
        "cautions": cautions,
    }


def _metrics(one: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """ "acc,none" and "acc_stderr,none" -> {"acc": {"value", "error", "higher_is_better"}}; another filter stands in brackets."""
    found = {}
    for key, value in sorted(one.items()):
        metric, comma, filter_ = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = one.get(f"{metric}_stderr,{filter_}")
        found[metric if filter_ == "none" else f"{metric} ({filter_})"] = {
            "value": float(value) if math.isfinite(value) else None,
            "error": float(error) if isinstance(error, int | float) and math.isfinite(error) else None,
            "higher_is_better": higher.get(metric),
        }
    return found


def _answer(name: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": name,
        "row": sample["doc_id"],
        "target": sample["target"],
        "said": sample["filtered_resps"],
        "metrics": {metric: sample[metric] for metric in sample.get("metrics", ()) if metric in sample},
    }


def _write(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
