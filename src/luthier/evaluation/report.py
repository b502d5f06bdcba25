"""report.json from predictions, by arithmetic alone: no model, no clock. The same predictions give the same bytes.

{"task", "rows", "labels", "confidence",
 "measured": [{"name", "kind", "is", "digests": {part: digest}}],     who was to be measured, in the order of all tables
 "systems": {name: {"rows", "metrics": {name: value|null}, "intervals": {metric: [low, high]},
                    "per_label": {label: {"precision", "recall", "f1", "support"}}|null,
                    "confusion": [[n]]|null,                          rows: reference, columns: prediction
                     "off_list": n,                                    answers that are none of the labels
                     "reliability": [[rows, probability, right]]|null,
                     "latency": {"median_s", "p95_s", "mean_s", "rows", "machine"}|null, "tokens": {"in", "out"}|null,
                     "cost": {"per_1000", "currency", "basis"}|null,
                     "per_field": {path: {"precision", "recall", "f1", "support"}},    of extract
                     "wrong_fields": [fields.wrong_fields]}},                          of extract
 "comparisons": [{"metric", "of", "to", "difference", "low", "high", "p", "p_corrected", "detectable", "rows",
                  "confidence", "resamples", "seed"}],
 "turned": [{"to", "gained", "lost", "p", "rows": [id]}],             right now and wrong there; the reverse, and its rows
 "slices": [slices.build],
 "general": general.figures.build|null,                               what base and tuned say beside the task
 "answers": effects.effects|null,
 "calibration": {"kind", "temperature", "rows", "why", "before": {metric: value}, "after": {...}}|null,   of the test rows
 "abstention": {"curve": [{"coverage", "at", "wrong", "given"}], "chosen": the same|null}|null,
 "embedder": {NAME: settings, "mark": digest of its files|null}|null,       what `similarity` was computed with
 "examples": [{"id", "prompt", "reference", "answers": {system: text}, "change": "improved"|"regressed"|"same"}],
 "private": {system: private_said.told_of},
 "memorisation": memorisation.findings.build, where it was measured (suite),
 "cautions": [text]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.units import Money

from . import compare, effects, expense, fields, metrics, private_said, slices, tasks
from .general import figures
from .predictions import Answers, by_system
from .questions import Question, Skipped
from .refining import Refining
from .significance import mcnemar, rows_for
from .spec import EvaluateSpec

if TYPE_CHECKING:
    import pyarrow as pa

FEW_ROWS = 30
FEW_ROWS_OF_A_LABEL = 5
SURE = 0.05
LEADS = {"classify": "macro_f1", "chat": "token_f1", "regress": "mae", "extract": "field_f1"}
SHOWN = {"improved": 5, "regressed": 3, "same": 2}


def build(
    predictions: pa.Table,
    task: Mapping[str, Any],
    spec: EvaluateSpec,
    questions: Sequence[Question],
    skipped: Mapping[str, Sequence[Skipped]],
    disliked: int = 0,
    calibration: Mapping[str, Any] | None = None,
    beside: Sequence[Mapping[str, Any]] = (),
    *,
    refining: Refining | None = None,
    hourly: Money | None = None,
    machine: str | None = None,
    left_out: Mapping[str, str] | None = None,
    who: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The report as plain JSON values. `skipped` maps a system to the rows it could not be asked; `disliked` rows were
    asked of nobody, because their answers are rated 0 or less. `beside`: lines of the sets kept beside the task. `refining`: the way
    from what the tuned model said to its answers. `hourly` is what this machine costs, `machine` what it is; `left_out` says of a system why it was not
    measured at all, and `who` tells what each of them is."""
    measured = spec.of_test_rows(task["kind"])
    systems = metrics.from_predictions(predictions, task)
    comparisons, intervals = compare.from_predictions(
        predictions,
        task,
        metrics=measured,
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=spec.seed,
    )
    answers = by_system(predictions)
    parts = slices.build(predictions, task, spec)
    for name, found in systems.items():
        found["metrics"] = {metric: found["metrics"][metric] for metric in measured}
        found["intervals"] = intervals[name]
    general = figures.put_beside(systems, comparisons, beside, spec) if spec.sets else None
    other = None if refining is None else refining.spec.fallback
    for name, spent in expense.of(predictions, spec, hourly, machine, other).items():
        systems[name] |= spent
    return {
        "task": dict(task),
        "measured": [dict(one) for one in who],
        "rows": len(questions),
        "labels": task["labels"],
        "confidence": spec.confidence,
        "systems": systems,
        "comparisons": comparisons,
        "turned": turned(answers, task),
        "slices": parts,
        "general": general,
        "calibration": None if calibration is None else effects.calibrated(predictions, task, calibration),
        "answers": refining and effects.effects(predictions, task, refining, tasks.of(task), questions),
        "abstention": effects.abstention(predictions, calibration),
        "embedder": _embedder(spec) if "similarity" in measured else None,
        "private": {
            n: private_said.told_of(a) for n, a in answers.items() if any(x is not None for x in a.private)
        },
        "examples": examples(answers, task, questions),
        "cautions": [
            *cautions(spec.systems(task["kind"]), systems, questions, skipped, disliked, left_out or {}),
            *(fields.cautions(answers["tuned"], task["schema"], spec.max_tokens) if "schema" in task else []),
            *unread(questions, answers["tuned"]),
            *unsure(systems),
            *(general or {}).get("cautions", ()),
            *blind(comparisons, task["kind"]),
            *uneven(parts),
        ],
    }


def _embedder(spec: EvaluateSpec) -> dict[str, Any]:
    return {**spec.embedder.plain(), "mark": spec.embedder.mark()}


def turned(answers: Mapping[str, Answers], task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each other system: how many rows the tuned model alone has right, how many the other alone, which these are (the
    regressions, by id), and how likely so uneven a division is by luck (exact McNemar test)."""
    correct = tasks.of(task).correct
    right = {
        system: {
            one: correct(truth, said)
            for one, truth, said in zip(mine.ids, mine.references, mine.predictions, strict=True)
            if said is not None
        }
        for system, mine in answers.items()
    }
    mine, found = right.get("tuned", {}), []
    for system, theirs in right.items():
        if system == "tuned" or not (shared := [one for one in mine if one in theirs]):
            continue
        gained = sum(mine[one] and not theirs[one] for one in shared)
        lost = [one for one in shared if theirs[one] and not mine[one]]
        p = mcnemar(gained, len(lost))
        found.append({"to": system, "gained": gained, "lost": len(lost), "p": p, "rows": lost})
    return found


def blind(comparisons: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """What the test split is too small to show: where no difference was found, how large a one would have been."""
    told = []
    for one in comparisons:
        if one["metric"] != LEADS[kind] or one["detectable"] is None or not one["low"] <= 0 <= one["high"]:
            continue
        least, rows = one["detectable"], one["rows"]
        sentence = (
            f"Between the tuned model and {one['to']} no difference in {one['metric']} is certain. These {rows:,} rows show "
            f"differences from about {least:.2g} on (four times in five)"
        )
        if (seen := abs(one["difference"])) > 0.05 * least:
            sentence += f"; one of {seen:.2g}, as seen here, would need about {rows_for(seen, least, rows):,}"
        told.append(sentence + ".")
    return told


def uneven(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The part of the rows that is surely worse than the rest, if any is."""
    found = slices.worst(parts)
    if found is None or found["p_corrected"] is None or found["p_corrected"] > SURE:
        return []
    value = found["systems"]["tuned"][found["metric"]]
    return [
        f"The tuned model is worse where {found['by']} is {found['value']!r}: {found['metric']} {value:.3g} over "
        f"{found['rows']:,} rows, and that is no bad luck (p = {found['p_corrected']:.2g}, corrected for {len(parts)} parts)."
    ]


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


def unread(questions: Sequence[Question], mine: Answers) -> list[str]:
    """Rows with tools whose calls nothing is said of."""
    rows = sum(bool(question.tools) for question in questions)
    if not rows or any(one is not None for one in mine.of("calls")) or set(mine.predictions) == {None}:
        return []
    return [
        f"{rows:,} rows have tools, and this model's chat template writes calls in another way than as JSON, so no metric of calls "
        "was measured."
    ]


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
    left_out: Mapping[str, str] | None = None,
) -> list[str]:
    """What a reader must know before believing the numbers."""
    told = []
    if len(questions) < FEW_ROWS:
        told.append(
            f"The test split has only {len(questions)} rows: the intervals are wide, and of so few rows not quite reliable."
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
    why = left_out or {}
    told += [
        f"{name} was not measured: {why.get(name, 'there was nothing to ask it')}."
        for name in asked
        if name not in systems
    ]
    told += [
        f"{one['off_list']:,} of {one['rows']:,} answers of {name} are none of the labels; they count as wrong."
        for name, one in systems.items()
        if one.get("off_list")
    ]
    for system, rows in skipped.items():
        told += [f"Row {row.id} was not asked of {system}: {row.reason}. Nothing was cut." for row in rows]
    return told
