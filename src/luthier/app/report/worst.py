"""Where the model is worst: the parts of the test rows, the rows that turned from right to wrong, and how far its
probabilities can be believed. Pure: report.json in, what the template prints out.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from luthier.evaluation.slices import worst
from luthier.evaluation.spec import METRICS, SLICE_ROWS

from . import charts, wording
from .facts import Json

MOST_PARTS = 12
MOST_IDS = 20
SURE = 0.05
_NAMES = {
    "source": "By source",
    "length": "By length of the question",
    "language": "By language of the question",
}


def parts(report: Json) -> dict[str, Any] | None:
    """A drawing for each way to divide the rows, and the part that does worst."""
    slices = report.get("slices") or []
    if not slices:
        return None
    metric = slices[0]["metric"]
    lowest = worst(slices)
    return {
        "metric": wording.spoken(metric),
        "charts": [_chart(by, slices, metric) for by in dict.fromkeys(one["by"] for one in slices)],
        "worst": None if lowest is None else _told(lowest),
        "few": SLICE_ROWS,
        "n": len(slices),
    }


def _chart(by: str, slices: list[Json], metric: str) -> dict[str, Any]:
    mine = [one for one in slices if one["by"] == by]
    dots = [
        charts.Dot(f"{one['value']} ({one['rows']:,})", value, one["low"], one["high"], "tuned")
        for one in mine[:MOST_PARTS]
        if (value := one["systems"]["tuned"][metric]) is not None
    ]
    ends = [x for d in dots for x in (d.value, d.low, d.high) if x is not None]
    low, high = (0.0, 1.0) if METRICS[metric].share else (0.0, max(ends, default=1.0) * 1.04)
    said = "; ".join(f"{d.label} {wording.score(metric, d.value)}" for d in dots)
    label = f"{wording.title(metric)} {_NAMES.get(by, by).lower()}: {said}"
    svg = charts.dot_whisker(label, dots, low, high, lambda v: wording.score(metric, v), width=620, names=34)
    return {
        "name": _NAMES.get(by, f"By {wording.shorten(by, 40)}"),
        "svg": Markup(svg),  # noqa: S704
        "more": max(0, len(mine) - MOST_PARTS),
    }


def _told(one: Json) -> dict[str, Any]:
    p = one["p_corrected"]
    return {
        "by": one["by"],
        "value": one["value"],
        "score": wording.score(one["metric"], one["systems"]["tuned"][one["metric"]]),
        "rows": one["rows"],
        "p": None if p is None else f"{p:.2g}",
        "sure": p is not None and p <= SURE,
    }


def turned(report: Json) -> list[dict[str, Any]]:
    """Rows won and lost against each other system."""
    return [
        {
            "to": wording.system_long(one["to"]),
            "gained": one["gained"],
            "lost": one["lost"],
            "p": f"{one['p']:.2g}",
            "ids": one["rows"][:MOST_IDS],
            "more": max(0, len(one["rows"]) - MOST_IDS),
        }
        for one in report.get("turned") or ()
    ]


def reliability(report: Json) -> dict[str, Any] | None:
    """How often answers of a probability are right, against that probability; None where there are no probabilities."""
    systems = report["systems"]
    looks = {"tuned": "smooth", "base": "validation"}
    told = {s: systems[s]["reliability"] for s in looks if s in systems and systems[s].get("reliability")}
    if "tuned" not in told:
        return None
    curves = [charts.Line("as sure as right", [(0.0, 0.0), (100.0, 100.0)], "raw")]
    curves += [
        charts.Line(wording.system(s), [(100 * sure, 100 * right) for _, sure, right in bins], looks[s], True)
        for s, bins in told.items()
    ]
    ece = systems["tuned"]["metrics"].get("ece")
    label = "How often answers are right, against how probable the model called them, in percent."
    rows, gap = max(((n, sure - right) for n, sure, right in told["tuned"]), key=lambda one: one[0])
    way = (
        "as sure as it should be"
        if abs(gap) < 0.02
        else "too sure"
        if gap > 0
        else "less sure than it could be"
    )
    told_of = report.get("calibration")
    return {
        "learnt": _learnt(told_of),
        "raw": told_of and wording.score("ece", told_of["before"]["ece"]),
        "svg": Markup(charts.lines(label, curves, "probability of the answer, %", width=460, height=300)),  # noqa: S704
        "ece": wording.score("ece", ece) if ece is not None else None,
        "way": way,
        "rows": rows,
    }


def _learnt(told: Json | None) -> str | None:
    """What the probabilities went through, in words."""
    if not told:
        return None
    if told.get("kind") == "isotonic":
        return None if told["why"] and "too few" in told["why"] else "the validation rows' isotonic line"
    return (
        None if told["temperature"] == 1.0 else f"the validation rows' temperature of {told['temperature']}"
    )


def abstention(report: Json) -> dict[str, Any] | None:
    """What is wrong among the surest answers. None where there are no probabilities."""
    found = report.get("abstention")
    if not found:
        return None
    return {
        "rows": [_share(one) for one in found["curve"]],
        "chosen": found["chosen"] and _share(found["chosen"]),
    }


def _share(one: Json) -> dict[str, Any]:
    given, wrong = one["given"], one["wrong"]
    return {
        "coverage": wording.percent(one["coverage"]),
        "at": f"{one['at']:.2f}",
        "given": given,
        "wrong": wrong,
        "error": f"{100 * wrong / given:.1f} %" if given else "–",
    }
