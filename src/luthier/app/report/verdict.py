"""The sentences at the top of the page: what was found, in plain words, with how sure it is. Pure text.

A gap counts as certain only when its whole confidence interval lies on one side of zero, and where the plain
baseline wins, that is said as plainly as when the model wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from luthier.evaluation.spec import METRICS

from .facts import Json, RunFacts
from .wording import MINUS, clip, higher_is_better, percent, score, spoken, system_long

PREFERRED = {
    "classify": ("macro_f1", "accuracy", "exact_match", "perplexity"),
    "regress": ("mae", "rmse", "r2"),
    "chat": ("token_f1", "exact_match", "perplexity"),
    "extract": ("field_f1", "exact_object", "perplexity"),
}
Reading = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Verdict:
    """`headline` is one sentence; `more` are those that qualify it."""

    headline: str
    more: list[str]


def verdict(facts: RunFacts) -> Verdict:
    """What this run is to be remembered by."""
    report = facts.report
    if not report or "tuned" not in report["systems"]:
        why = f" {_sentence(clip(facts.reason))}" if facts.reason else ""
        return Verdict(f"This run ended before the model was measured.{why}", [])
    rival = next((s for s in ("base", "base_3shot", "production") if s in report["systems"]), None)
    metric = main_metric(report)
    more = []
    if rival and metric and (gap := find(report, metric, rival)):
        more.append(_gap(gap, rival))
    if "tfidf" in report["systems"]:
        more += _plain_baseline(report, metric)
    return Verdict(_headline(report, rival, metric), more)


def main_metric(report: Json) -> str | None:
    """The metric that the page leads with: the first preferred one that the tuned model has."""
    measured = report["systems"]["tuned"]["metrics"]
    order = PREFERRED.get(report["task"]["kind"], ()) if report.get("task") else ()
    return next((m for m in (*order, *measured) if measured.get(m) is not None), None)


def find(report: Json, metric: str, rival: str) -> Json | None:
    """The comparison of the tuned model with a rival, if it was made."""
    return next(
        (
            c
            for c in report.get("comparisons") or ()
            if c["of"] == "tuned" and c["to"] == rival and c["metric"] == metric
        ),
        None,
    )


def reading(comparison: Json) -> Reading:
    """What an interval allows to say of the tuned model."""
    low, high = comparison["low"], comparison["high"]
    if not higher_is_better(comparison["metric"]):
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def correct(report: Json, system: str) -> tuple[int, int] | None:
    """(rows answered right, rows asked), from accuracy, exact match or exact object; None where neither was measured."""
    found = report["systems"][system]
    rows = found.get("rows", report["rows"])
    for metric in ("accuracy", "exact_match", "exact_object"):
        if (share := found["metrics"].get(metric)) is not None:
            return round(share * rows), rows
    return None


def _headline(report: Json, rival: str | None, metric: str | None) -> str:
    classify = bool(report.get("task")) and report["task"]["kind"] == "classify"
    if classify and (mine := correct(report, "tuned")):
        sentence = f"The tuned model answers {mine[0]:,} of {mine[1]:,} test rows correctly"
        if rival and (theirs := correct(report, rival)):
            of = f" of {theirs[1]:,}" if theirs[1] != mine[1] else ""
            sentence += f"; {system_long(rival)} {theirs[0]:,}{of}"
        return sentence + "."
    if metric is None:
        return f"The tuned model was asked {report['rows']:,} test rows, and no metric was measured."
    better = "" if higher_is_better(metric) else " (lower is better)"
    sentence = f"On {report['rows']:,} test rows the tuned model reaches {_an(spoken(metric))} of {_value(report, 'tuned', metric)}"
    if rival and report["systems"][rival]["metrics"].get(metric) is not None:
        sentence += f"; {system_long(rival)} {_value(report, rival, metric)}"
    return sentence + better + "."


def _an(words: str) -> str:
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def _value(report: Json, system: str, metric: str) -> str:
    return score(metric, report["systems"][system]["metrics"].get(metric), 2)


def _gap(gap: Json, rival: str) -> str:
    metric, difference = gap["metric"], gap["difference"]
    name, sure = spoken(metric), percent(gap["confidence"])
    found = reading(gap)
    if found == "unclear":
        return f"The gap in {name} could be chance: with {sure} confidence it lies between {_range(gap)}."
    # The wider side, so that the interval is inside what is said.
    within = max(difference - gap["low"], gap["high"] - difference)
    sentence = f"The gap of {score(metric, abs(difference), 2)} in {name} is certain to within ±{_within(metric, within)} ({sure})."
    if found == "worse":
        return f"The tuned model is worse than {system_long(rival)}. {sentence}"
    return sentence


def _within(metric: str, width: float) -> str:
    if metric in METRICS and not METRICS[metric].share:
        return score(metric, width)
    return "0.01" if 0 < width < 0.01 else score(metric, width, 2)


def _range(gap: Mapping[str, Any]) -> str:
    return f"{_signed(gap['metric'], gap['low'])} and {_signed(gap['metric'], gap['high'])}"


def _signed(metric: str, value: float) -> str:
    shown = score(metric, abs(value))
    return shown if float(shown.replace(",", "")) == 0 else (MINUS if value < 0 else "+") + shown


def _plain_baseline(report: Json, metric: str | None) -> list[str]:
    counted = correct(report, "tfidf")
    what = system_long("tfidf")[0].upper() + system_long("tfidf")[1:]
    told = f"{what} answers {counted[0]:,}" if counted else what
    gap = find(report, metric, "tfidf") if metric else None
    if gap is None:
        return [f"{told}."] if counted else []
    amount, name, sure = (
        score(gap["metric"], abs(gap["difference"]), 2), spoken(gap["metric"]), percent(gap["confidence"]),
    )  # fmt: skip
    interval = f"{sure} interval of the difference {_range(gap).replace(' and ', ' to ')}"
    found = reading(gap)
    if found == "worse":
        return [
            f"{told}: it beats the tuned model by {amount} in {name} ({interval}), and it costs next to nothing to run. "
            "For this task alone, the plain baseline is the better choice."
        ]
    if found == "better":
        return [f"{told}: the tuned model is ahead of it by {amount} in {name} ({interval})."]
    return [f"{told}: between it and the tuned model no difference is certain in {name} ({interval})."]


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."
