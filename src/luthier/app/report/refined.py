"""The page's table of steps from what the model said to its answers. Pure: report.json in, what the template prints out."""

from __future__ import annotations

from typing import Any

from . import changes, wording
from .facts import Json


def refined(report: Json) -> dict[str, Any] | None:
    """None where what the model says is the answer."""
    told = report.get("answers")
    if not told:
        return None
    metric = told["metric"]

    def score(value: float | None) -> str:
        return "–" if value is None else wording.score(metric, value)

    return {
        "metric": wording.spoken(metric),
        "rows": told["rows"],
        "refused": told["refused"],
        "steps": [
            {
                **{name: one[name] for name in ("step", "changed", "refused")},
                "before": score(one["before"]),
                "after": score(one["after"]),
                "notes": ", ".join(f"{note}: {n:,}" for note, n in one["notes"].items()),
                "examples": [_example(example) for example in one["examples"]],
            }
            for one in told["steps"]
        ],
        "vote": told["vote"]
        and {
            "samples": told["vote"]["samples"],
            "agreement": wording.percent(told["vote"]["agreement"]),
            "tied": told["vote"]["tied"],
            "first": score(told["vote"]["first"]),
            "voted": score(told["vote"]["voted"]),
        },
        "fallback": told["fallback"] and _fallback(told["fallback"], score),
    }


def _fallback(one: Json, score: Any) -> dict[str, Any]:
    kept = {
        name: one[name] for name in ("to", "asked", "answered", "gained", "lost", "tokens_in", "tokens_out")
    }
    return {
        **kept,
        **one["why"],
        "before": score(one["before"]),
        "after": score(one["after"]),
        "money": wording.money(one["money"]) if one["money"] else None,
    }


def _example(one: Json) -> dict[str, Any]:
    before = wording.clip(one["before"])
    if one["after"] is None:
        return {
            "id": one["id"],
            "reason": one["reason"],
            "before": [changes.Piece("same", before)],
            "after": None,
        }
    old, new = changes.compare(one["before"], one["after"])
    return {"id": one["id"], "reason": None, "before": old, "after": new}
