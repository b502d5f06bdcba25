"""report.json from predictions, by arithmetic alone: no model, no clock. The same predictions give the same bytes.

{"task", "rows", "labels",
 "systems": {name: {"rows", "metrics": {name: value|null}, "intervals": {metric: [low, high]},
                    "per_label": {label: {"precision", "recall", "f1", "support"}}|null,
                    "confusion": [[n]]|null}},                        rows: reference, columns: prediction
 "comparisons": [{"metric", "of", "to", "difference", "low", "high", "rows", "confidence", "resamples", "seed"}],
 "examples": [{"id", "prompt", "reference", "answers": {system: text}, "change": "improved"|"regressed"|"same"}],
 "cautions": [text]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import compare, metrics, tasks
from .predictions import Answers, by_system
from .questions import Question, Skipped
from .spec import EvaluateSpec

if TYPE_CHECKING:
    import pyarrow as pa

FEW_ROWS = 30
FEW_ROWS_OF_A_LABEL = 5
SHOWN = {"improved": 5, "regressed": 3, "same": 2}


def build(
    predictions: pa.Table,
    task: Mapping[str, Any],
    spec: EvaluateSpec,
    questions: Sequence[Question],
    skipped: Mapping[str, Sequence[Skipped]],
    disliked: int = 0,
) -> dict[str, Any]:
    """The report as plain JSON values. `skipped` maps a system to the rows it could not be asked; `disliked` rows were
    asked of nobody, because their answers are rated 0 or less."""
    measured = spec.measured(task["kind"])
    systems = metrics.from_predictions(predictions, task)
    comparisons, intervals = compare.from_predictions(
        predictions,
        task,
        metrics=measured,
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=spec.seed,
    )
    for name, found in systems.items():
        found["metrics"] = {metric: found["metrics"][metric] for metric in measured}
        found["intervals"] = intervals[name]
    return {
        "task": dict(task),
        "rows": len(questions),
        "labels": task["labels"],
        "systems": systems,
        "comparisons": comparisons,
        "examples": examples(by_system(predictions), task, questions),
        "cautions": [
            *cautions(spec.systems(task["kind"]), systems, questions, skipped, disliked),
            *unsure(systems),
        ],
    }


def examples(
    answers: Mapping[str, Answers], task: Mapping[str, Any], questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """Ten rows for the eye: five that got better, three that got worse, two unchanged, as far as there are such.

    Within each group the order is a hash of the id, so nothing is picked by hand. Better and worse are against the
    base, or against the first other system where the base was not measured.
    """
    score = tasks.of(task).score
    said = {system: dict(zip(a.ids, a.predictions, strict=True)) for system, a in answers.items()}
    rival = next((system for system in said if system != "tuned"), None)
    groups: dict[str, list[Question]] = {change: [] for change in SHOWN}
    for question in sorted(questions, key=lambda q: hashlib.blake2b(q.id.encode(), digest_size=16).digest()):
        after = said["tuned"].get(question.id)
        if question.prompt is None or after is None:
            continue
        before = said[rival].get(question.id) if rival else None
        gain = 0.0 if before is None else score(question.reference, after) - score(question.reference, before)
        groups["regressed" if gain < 0 else "improved" if gain > 0 else "same"].append(question)
    chosen = [(change, question) for change, n in SHOWN.items() for question in groups[change][:n]]
    for change, n in SHOWN.items():
        chosen += [(change, question) for question in groups[change][n:]][: sum(SHOWN.values()) - len(chosen)]
    return [
        {
            "id": question.id,
            "prompt": _shown(question),
            "reference": question.reference,
            "answers": {system: mine[question.id] for system, mine in said.items() if question.id in mine},
            "change": change,
        }
        for change, question in chosen
    ]


def _shown(question: Question) -> str:
    turns = [message for message in question.prompt or () if message["role"] != "system"]
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in turns)


def unsure(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Metrics that have a value and no interval."""
    told = {
        name: [m for m, value in one["metrics"].items() if value is not None and m not in one["intervals"]]
        for name, one in systems.items()
    }
    return [
        f"{', '.join(missing)} of {name}: too few rows have an answer that can be measured, or they are too much alike, for "
        "an interval or a comparison."
        for name, missing in told.items()
        if missing
    ]


def cautions(
    asked: Sequence[str],
    systems: Mapping[str, Mapping[str, Any]],
    questions: Sequence[Question],
    skipped: Mapping[str, Sequence[Skipped]],
    disliked: int = 0,
) -> list[str]:
    """What a reader must know before believing the numbers."""
    told = []
    if len(questions) < FEW_ROWS:
        told.append(
            f"The test split has only {len(questions)} rows: the intervals are wide, "
            "and percentile intervals of so few rows are somewhat too narrow still."
        )
    if support := {label: one["support"] for label, one in (systems["tuned"]["per_label"] or {}).items()}:
        if never := [label for label, n in support.items() if n == 0]:
            told.append(
                f"No test row has these labels, so nothing is known about them: {', '.join(map(repr, never))}."
            )
        if few := [f"{label!r} ({n})" for label, n in support.items() if 0 < n < FEW_ROWS_OF_A_LABEL]:
            told.append(f"Fewer than {FEW_ROWS_OF_A_LABEL} test rows have these labels: {', '.join(few)}.")
    if disliked:
        told.append(
            f"{disliked:,} rows of the test split are rated 0 or less: their answers are no references, so they were not asked."
        )
    if texts := sum(question.prompt is None for question in questions):
        told.append(
            f"{texts} rows are plain texts: they have no question, so they count for perplexity alone."
        )
    told += [
        f"{name} was not measured: there was nothing to ask it." for name in asked if name not in systems
    ]
    for system, rows in skipped.items():
        told += [f"Row {row.id} was not asked of {system}: {row.reason}. Nothing was cut." for row in rows]
    return told
