"""Two measured models on the rows that both were asked: which is better, by how much, how sure. Nothing is computed again but
the arithmetic: the answers stand in the reports' predictions.parquet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import SpecError

if TYPE_CHECKING:
    from luthier.store import Store


@dataclass(frozen=True)
class Compared:
    """`metrics`: {"metric", "one", "other", "difference", "low", "high", "p", "detectable"} each. `gained`: rows that only
    `one` has right; `lost`: that only `other` has right (ids)."""

    one: str
    other: str
    kind: str
    rows: int
    left_out: int
    metrics: list[dict[str, Any]]
    gained: list[str]
    lost: list[str]
    mcnemar_p: float
    confidence: float

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


def compare_releases(store: Store, one: str, other: str, *, resamples: int = 2000, seed: int = 0) -> Compared:
    """`one` against `other`, each a name, name@version, or the digest of a report or of anything made from one. Raises
    SpecError where they have no question in common, or answer different tasks."""
    from luthier.evaluation import compare, predictions, significance, tasks
    from luthier.evaluation.report import turned

    reports = [_report(store, ref) for ref in (one, other)]
    told = [json.loads((store.folder(r) / "report.json").read_text(encoding="utf-8")) for r in reports]
    tasks_of = [one["task"] for one in told]
    grown = _same_but_for_labels(*tasks_of)
    task = max(tasks_of, key=lambda t: len(t["labels"] or ()))
    if tasks_of[0]["kind"] != tasks_of[1]["kind"] or (
        tasks_of[0]["labels"] != tasks_of[1]["labels"] and not grown
    ):
        raise SpecError(
            f"{one} does a {task['kind']} task and {other} a {tasks_of[1]['kind']} task with other labels; they cannot be compared.",
            remedy="Compare models of one task.",
        )
    answers = []
    for report in reports:
        table = predictions.read(store.folder(report) / "predictions.parquet")
        answers.append(predictions.by_system(table)["tuned"])
    truth = [dict(zip(a.ids, a.references, strict=True)) for a in answers]
    shared = [row for row in truth[0] if truth[1].get(row) == truth[0][row]]
    if not shared:
        raise SpecError(
            f"{one} and {other} were asked no test row in common.",
            remedy="Measure both on the same data and split: the same sources, rules and split.seed.",
        )
    part = tasks.of(task)
    mine, theirs = (a.only(shared) for a in answers)
    if grown:  # a probability is of one of so many labels, and a loss is among them: neither compares
        mine, theirs = (
            replace(a, probability_NK=None, loss_tokens_N=0 * a.loss_tokens_N) for a in (mine, theirs)
        )
    confidence = 0.95
    found = compare.difference(
        part.statistics(mine), part.statistics(theirs), len(shared), confidence=confidence, resamples=resamples, seed=seed
    )  # fmt: skip
    values = [compare.at_sample(part.statistics(a), len(a)) for a in (mine, theirs)]
    p = significance.permutation(
        part.statistics(mine.and_(theirs)),
        len(shared),
        {n: a.value for n, a in found.items()},
        resamples,
        seed,
    )
    metrics = [
        {
            "metric": name, "one": values[0][name], "other": values[1][name], "difference": a.value, "low": a.low,
            "high": a.high, "p": p[name], "detectable": a.detectable,
        }
        for name, a in found.items()
    ]  # fmt: skip
    right = turned({"tuned": mine, "other": theirs}, task)[0]
    back = turned({"tuned": theirs, "other": mine}, task)[0]
    left_out = len(set(truth[0]) | set(truth[1])) - len(shared)
    return Compared(
        one, other, task["kind"], len(shared), left_out, metrics, back["rows"], right["rows"], right["p"], confidence
    )  # fmt: skip


def _same_but_for_labels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one of them has all labels of the other and some more, as after a run that learnt a new one from corrections."""
    mine, theirs = set(one["labels"] or ()), set(other["labels"] or ())
    return mine != theirs and bool(mine and theirs) and (mine < theirs or theirs < mine)


def _report(store: Store, reference: str) -> Artifact:
    artifact = store.catalog.get(reference)
    while artifact.kind != "report":
        if "report" not in artifact.parents:
            raise SpecError(
                f"{reference} is a {artifact.kind} ({short(artifact.digest)}), and nothing of it says how it was measured.",
                remedy="Name a release (name@version) or a report.",
            )
        artifact = store.catalog.get(artifact.parents["report"])
    return artifact
