"""What each step from a text to an answer did to the test rows, and what it gained: from the predictions alone, by doing the steps
again over what was kept (refining.own). No model is asked.

{"metric", "rows", "refused",
 "steps": [{"step", "changed", "refused", "before", "after", "notes": {note: rows}, "examples": [{"id", "before", "after"|null,
            "reason"}]}],
 "vote": {"samples", "agreement", "tied", "first", "voted"}|null,         `first`: had the first sample been the answer
 "fallback": {"to", "asked", "why": {"refused": n, "below": n}, "answered", "before", "after", "gained", "lost",
              "tokens_in", "tokens_out", "money": [amount, currency]|null}|null}

`before`, `after` and the like are values of `metric`, over all rows, a refused answer counting as an empty one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.outputs.answering import Sample, Settled
from luthier.outputs.calibration import as_sure, warmed

from . import metrics, probabilities
from .calibration import COVERAGES, of_texts
from .predictions import by_system
from .questions import Question
from .refining import Refining, own
from .spec import SLICED
from .tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES = 3
SHOWN = ("log_loss", "brier", "ece")


def effects(
    predictions: pa.Table,
    task: Mapping[str, Any],
    refining: Refining,
    part: Task,
    questions: Sequence[Question],
) -> dict[str, Any] | None:
    """None where what the model says is the answer."""
    spec = refining.spec
    lines = [line for line in _tuned(predictions) if line["raw"] is not None]
    if not lines or not (spec.answers or spec.vote or spec.fallback):
        return None
    by_id = {question.id: question for question in questions}
    mine = by_system(predictions)["tuned"].only([line["id"] for line in lines])
    settled = own(lines, refining, by_id)

    def value(texts: Sequence[str]) -> float | None:
        each_N = part.each(replace(mine, predictions=tuple(texts)))
        return float(np.nanmean(each_N)) if np.isfinite(each_N).any() else None

    return {
        "metric": SLICED[task["kind"]],
        "rows": len(lines),
        "refused": sum(line["refusal"] is not None for line in lines),
        "steps": _steps(lines, settled, refining, by_id, value),
        "vote": _vote(lines, settled, refining, by_id, value),
        "fallback": _fallback(lines, settled, refining, part, value),
    }


def _tuned(predictions: pa.Table) -> list[dict[str, Any]]:
    return sorted(
        (line for line in predictions.to_pylist() if line["model"] == "tuned"), key=lambda line: line["id"]
    )


def _steps(
    lines: Sequence[Mapping[str, Any]],
    settled: Sequence[Settled],
    refining: Refining,
    questions: Mapping[str, Question],
    value: Any,
) -> list[dict[str, Any]]:
    """Each step over the rows that come to it. Where a step takes private data out, the examples of no step show any."""
    hidden = refining.answering.chain.hidden
    texts = [line["raw"] for line in lines]
    before, found = value(texts), []
    for n in range(max((len(one.passed) for one in settled), default=0)):
        there = [(i, one.passed[n]) for i, one in enumerate(settled) if n < len(one.passed)]
        for i, step in there:
            texts[i] = "" if step.after is None else step.after
        after = value(texts)
        touched = [(i, step) for i, step in there if step.after != step.before]
        found.append(
            {
                "step": there[0][1].step,
                "changed": sum(step.after is not None for _, step in touched),
                "refused": sum(step.after is None for _, step in there),
                "before": before,
                "after": after,
                "notes": dict(sorted(Counter(note for _, step in there for note in step.notes).items())),
                "examples": [
                    {
                        "id": lines[i]["id"],
                        "before": hidden(step.before, refining.about(questions[lines[i]["id"]])),
                        "after": step.after and hidden(step.after, refining.about(questions[lines[i]["id"]])),
                        "reason": step.reason,
                    }
                    for i, step in touched[:EXAMPLES]
                ],
            }
        )
        before = after
    return found


def _vote(
    lines: Sequence[Mapping[str, Any]],
    settled: Sequence[Settled],
    refining: Refining,
    questions: Mapping[str, Question],
    value: Any,
) -> dict[str, Any] | None:
    wish = refining.spec.vote
    if wish is None:
        return None
    alone = replace(refining.answering, spec=refining.spec.model_copy(update={"vote": None}))
    first = [
        alone.settle([Sample(line["samples"][0]["text"])], refining.about(questions[line["id"]])).text
        for line in lines
    ]
    return {
        "samples": wish.samples,
        "agreement": float(np.mean([one.raw_sure for one in settled])),
        "tied": sum(one.tied for one in settled),
        "first": value(first),
        "voted": value([one.text for one in settled]),
    }


def _fallback(
    lines: Sequence[Mapping[str, Any]], settled: Sequence[Settled], refining: Refining, part: Task, value: Any
) -> dict[str, Any] | None:
    wish = refining.spec.fallback
    if wish is None:
        return None
    asked = [(line, one) for line, one in zip(lines, settled, strict=True) if line["asked_for"]]
    turned = [
        (part.correct(line["reference"], line["prediction"]), part.correct(line["reference"], one.text))
        for line, one in asked
        if line["other"] is not None
    ]
    read, written = (
        sum(line[name] or 0 for line, _ in asked) for name in ("other_tokens_in", "other_tokens_out")
    )
    price = None if wish.endpoint is None else wish.endpoint.price
    return {
        "to": wish.name,
        "asked": len(asked),
        "why": {why: sum(line["asked_for"] == why for line, _ in asked) for why in ("refused", "below")},
        "answered": len(turned),
        "before": value([one.text for one in settled]),
        "after": value([line["prediction"] for line in lines]),
        "gained": sum(now and not then for now, then in turned),
        "lost": sum(then and not now for now, then in turned),
        "tokens_in": read,
        "tokens_out": written,
        "money": None if price is None else list(price.of(read, written)),
    }


def calibrated(
    predictions: pa.Table, task: Mapping[str, Any], calibration: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What calibrating did to the test rows: the raw probabilities come back by its inverse, or were kept. Of free texts, the rows
    that no other model has answered."""
    lines = [line for line in _tuned(predictions) if line["raw_probability"] is not None]
    if not lines:
        return None
    told = {
        "kind": "isotonic" if calibration.get("isotonic") else "temperature",
        "temperature": calibration["temperature"],
        "rows": calibration["rows"],
        "why": calibration["why"],
    }
    if all(line["probabilities"] is not None for line in lines):
        warm_NK = np.array([line["probabilities"] for line in lines])
        truth = metrics.positions([line["reference"] for line in lines], task["labels"])
        raw_N = np.array([line["raw_probability"] for line in lines])
        if calibration.get("isotonic"):
            with np.errstate(divide="ignore"):
                raw_NK = np.exp(as_sure(np.log(warm_NK), raw_N))
        else:
            raw_NK = warmed(warm_NK, 1 / calibration["temperature"])
        pair = [probabilities.values(truth, one) for one in (raw_NK, warm_NK)]
        before, after = ({name: one[name] for name in SHOWN} for one in pair)
        return {**told, "before": before, "after": after}
    lines = [line for line in lines if line["other"] is None]
    if not lines:
        return None
    right = np.array([bool(line["correct"]) and line["refusal"] is None for line in lines])
    raw, warm = (np.array([line[name] for line in lines]) for name in ("raw_probability", "probability"))
    return {**told, "before": of_texts(raw, right), "after": of_texts(warm, right)}


def abstention(predictions: pa.Table, calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is wrong among the surest answers: at ten coverages, and at the threshold that the validation rows gave. Of free texts
    only where how sure they are was asked, and without those that another model has answered."""
    lines = [
        line for line in _tuned(predictions) if line["probability"] is not None and line["other"] is None
    ]
    if not lines:
        return None
    sure_N = np.array([line["probability"] for line in lines])
    right_N = np.array([bool(line["correct"]) for line in lines])
    bars = [float(np.quantile(sure_N, 1 - share, method="higher")) for share in COVERAGES]
    chosen = (calibration or {}).get("threshold")
    return {
        "curve": [_at(bar, sure_N, right_N) for bar in dict.fromkeys(bars)],
        "chosen": _at(chosen["at"], sure_N, right_N) if chosen else None,
    }


def _at(bar: float, sure_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> dict[str, Any]:
    given_N = sure_N >= bar
    wrong, given = int((given_N & ~right_N).sum()), int(given_N.sum())
    return {"coverage": given / len(sure_N), "at": bar, "wrong": wrong, "given": given}
