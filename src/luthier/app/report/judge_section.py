"""What the page says of the judge: whether it may be believed comes before what it says."""

from __future__ import annotations

from typing import Any

from . import wording
from .facts import Json


def judge(report: Json) -> dict[str, Any] | None:
    """None where nobody judged."""
    found = report.get("judge")
    if not found:
        return None
    probes, position = found["probes"], found["position"]
    return {
        "by": found["by"],
        "trusted": found["trusted"],
        "distrusted": found["distrusted"],
        "criteria": [{"name": one["name"], "asks": one["asks"], "scale": "{} to {}".format(*one["scale"])} for one in found["criteria"]],
        "rows": found["rows"],
        "verdicts": found["verdicts"],
        "none": found["none"],
        "probes": f"{probes['obeyed']} of {probes['answered']} that got a verdict ({probes['planted']} planted, {wording.percent(probes['allowed'])} allowed)",
        "position": _position(position) if position else None,
        "pairs": [_pair(name, one) for name, one in found["pairs"].items()],
        "agreement": [_agreement(what, one) for what, one in (found["agreement"] or {}).items() if one],
        "cost": wording.money_exactly(found["cost"]["money"]) if found["cost"]["money"] else None,
        "requests": found["cost"]["requests"],
    }  # fmt: skip


def _position(one: Json) -> str:
    first = (
        ""
        if one["first"] is None
        else f"The judge chose what stood first in {wording.percent(one['first'])} of its choices. "
    )
    return f"{first}In {wording.percent(one['flipped'])} of {one['pairs']:,} pairs it chose the same place when the answers were swapped: these count as ties."


def _pair(name: str, one: Json) -> dict[str, str]:
    rate = "–" if one["rate"] is None else wording.percent(one["rate"])
    within = "–" if one["low"] is None else f"{wording.percent(one['low'])} to {wording.percent(one['high'])}"
    counts = {key: f"{one[key]:,}" for key in ("wins", "ties", "losses", "none")}
    return {"to": wording.system(name), "rate": rate, "within": within, **counts}


def _agreement(what: str, one: Json) -> str:
    name = "Spearman's rho of grades" if what == "grades" else "Cohen's kappa of wins, ties and losses"
    if one["value"] is None:
        return f"{name}: not known of {one['rows']} verdicts of people."
    within = "" if one["low"] is None else f" ({one['low']:.2f} to {one['high']:.2f})"
    return f"{name} with people: {one['value']:.2f}{within}, over {one['rows']:,} verdicts."
