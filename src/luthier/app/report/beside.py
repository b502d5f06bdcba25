"""What the model can still do beside its task, and what it declines. Pure: report.json in, what the template prints out."""

from __future__ import annotations

from typing import Any

from . import wording
from .facts import Json

MOST_LOST = 5
_SETS = {"general": "general skills", "safety": "requests that should be declined, and harmless ones"}
_SKILLS = {"refuse": "harmful requests, declined", "answer": "harmless requests, declined"}


def beside(report: Json) -> dict[str, Any] | None:
    """The figures of base and tuned side by side, each skill, and rows that the base had right and the tuned model has not."""
    found = report.get("general")
    if not found:
        return None
    return {
        "rows": [{"n": n, "what": _SETS.get(name, name)} for name, n in found["rows"].items()],
        "figures": [_figure(metric, one) for metric, one in found["metrics"].items()],
        "skills": [
            {
                "skill": _SKILLS.get(one["skill"], one["skill"]),
                "rows": one["rows"],
                "base": wording.percent(one["base"]),
                "tuned": wording.percent(one["tuned"]),
            }
            for one in found["skills"]
        ],
        "lost": found["lost"][:MOST_LOST],
    }


def _figure(metric: str, one: Json) -> dict[str, Any]:
    apart = one["difference"]
    better = wording.higher_is_better(metric)
    said = "not certain"
    if one["low"] is not None and (one["low"] > 0 or one["high"] < 0):
        said = "better" if (apart > 0) is better else "worse"
    return {
        "metric": wording.title(metric),
        "lower": not better,
        "rows": one["rows"],
        "base": _value(metric, one["base"]),
        "tuned": _value(metric, one["tuned"]),
        "difference": "–" if apart is None else f"{apart:+.3f}",
        "within": "" if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}",
        "reading": {"not certain": "unclear"}.get(said, said),
        "said": said,
    }


def _value(metric: str, value: float | None) -> str:
    return "–" if value is None else wording.score(metric, value)
