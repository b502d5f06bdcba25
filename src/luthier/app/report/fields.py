"""Which fields of structured answers are right, and which go wrong most often. Pure: report.json in, what the template prints out."""

from __future__ import annotations

from typing import Any

from . import wording
from .facts import Json

MOST_LISTED = 100
MISTAKES_LISTED = 8
_HOW = {"other": "with another value", "missing": "missing", "made up": "made up"}


def fields(report: Json) -> dict[str, Any] | None:
    """The table of fields and the most frequent mistakes; None for a task without fields."""
    mine = report["systems"]["tuned"].get("per_field")
    if not mine:
        return None
    base = report["systems"].get("base", {}).get("per_field")
    rows = [
        {
            "field": path,
            "support": one["support"],
            **{name: wording.score(name, one[name], 2) for name in ("precision", "recall", "f1")},
            "base": wording.score("f1", base[path]["f1"], 2) if base and path in base else "\u2013",
        }
        for path, one in mine.items()
    ]
    wrong = report["systems"]["tuned"].get("wrong_fields") or []
    return {
        "rows": rows[:MOST_LISTED],
        "more": max(0, len(rows) - MOST_LISTED),
        "base": base is not None,
        "wrong": [
            {**one, "how": _HOW[one["how"]], "examples": one["examples"][:1]}
            for one in wrong[:MISTAKES_LISTED]
        ],
    }
