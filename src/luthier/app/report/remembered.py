"""What the model learnt by heart, and what it says that nobody asked it: facts -> what the page shows. No text of a row and
no secret is here to be shown; rows are named by their ids.
"""

from __future__ import annotations

from typing import Any

from . import wording
from .facts import Json

MOST_SECRETS = 40
_GROUPS = {
    "planted": "planted",
    "unplanted": "never planted, for comparison",
    "file": "planted by you",
    "found": "found in the rows",
}
_SCORES = {"loss": "loss", "min_k": "least likely tokens", "ratio": "loss against the base's"}


def remembered(report: Json) -> dict[str, Any] | None:
    """None where it was not measured."""
    found = report.get("memorisation")
    if not found:
        return None
    return {
        "rows": found["rows"],
        "control": found["control"],
        "alarms": list(found["alarms"]),
        "notes": list(found["notes"]),
        "extraction": _extraction(found["extraction"]),
        "membership": _membership(found["membership"]),
        "secrets": [_secret(one) for one in found["secrets"][:MOST_SECRETS]],
        "more": max(0, len(found["secrets"]) - MOST_SECRETS),
    }


def _extraction(found: Json) -> dict[str, Any]:
    if "why" in found:
        return {"why": found["why"]}
    whose = (
        ("training rows, this model", "train"),
        ("held-out rows, this model", "control"),
        ("training rows, the base", "base"),
    )
    return {
        "given": found["given"],
        "verbatim": found["verbatim"],
        "lines": [
            {
                "whose": name,
                "hits": f"{found[key]['hits']:,} of {found[key]['rows']:,}",
                "share": wording.score("extracted", found[key]["share"]),
                "within": _within(found[key]["low"], found[key]["high"]),
            }
            for name, key in whose
        ],
        "worst": list(found["worst"]),
    }


def _membership(found: Json) -> dict[str, Any]:
    if "why" in found:
        return {"why": found["why"]}
    lines = [(_SCORES[name], one) for name, one in found["scores"].items()]
    lines.append(("loss under the base, which saw neither", found["base"]))
    return {
        "lines": [
            {
                "name": name,
                "auc": wording.score("membership_auc", one["auc"]),
                "within": _within(one["low"], one["high"]),
                "found": wording.percent(one["found"]),
            }
            for name, one in lines
        ],
        "shifted": found["shifted"],
    }


def _secret(one: Json) -> dict[str, Any]:
    return {
        "name": one["name"],
        "group": _GROUPS.get(one["group"], one["group"]),
        "repeats": one["repeats"],
        "exposure": f"{one['exposure']:.1f}",
        "among": one["among"],
        "estimated": "–" if one["estimated"] is None else f"{one['estimated']:.0f} of {one['bits']:.0f}",
        "said": one["said"],
    }


def _within(low: float, high: float) -> str:
    return f"{wording.score('extracted', low)} to {wording.score('extracted', high)}"


def private(report: Json) -> list[dict[str, Any]]:
    """What each system says of personal data by itself; empty where nobody looked, or where nobody does."""
    return [
        {
            "system": wording.system(system),
            "rows": one["rows"],
            "answers": one["answers"],
            "kinds": wording.join([f"{kind} {n:,}" for kind, n in one["kinds"].items()]),
            "ids": one["ids"] if system == "tuned" else [],
        }
        for system, one in (report.get("private") or {}).items()
        if one["rows"]
    ]
