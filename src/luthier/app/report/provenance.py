"""What the run cost and what it was made from: forecast against actual, lineage, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from luthier.core.artifact import short
from luthier.cost.meter import error

from . import charts, wording
from .facts import Json

WIDE, NARROW = 900, 346


def _count(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f}"


MEASURED = (
    ("Steps", "steps", _count),
    ("Tokens trained on", "tokens", _count),
    ("Peak memory", "peak_bytes", wording.size),
    ("Time of training", "training_seconds", wording.seconds),
    ("Time of training and evaluation", "seconds", wording.seconds),
    ("Money", "money", wording.money_exactly),
)
MOST_SOURCES_DRAWN = 3
CLOSE = 0.15  # within this share of the actual a forecast is called close


def cost(forecast: Json | None, actual: Json | None) -> dict[str, Any] | None:
    """One row for each figure that the forecast or the run knows; None when neither knows any."""
    before, after = forecast or {}, actual or {}
    rows = [
        {"name": name, "forecast": show(before.get(key)), "actual": show(after.get(key)), **_missed(before.get(key), after.get(key))}
        for name, key, show in MEASURED
        if before.get(key) is not None or after.get(key) is not None
    ]  # fmt: skip
    if not rows:
        return None
    return {
        "rows": rows,
        "forecast": bool(before),
        "actual": bool(after),
        "basis": list(after.get("basis") or before.get("basis") or []),
    }


def _missed(before: Any, after: Any) -> dict[str, Any]:
    """The forecast's error in words, and whether it was close; None where one of the two is not known."""
    if isinstance(before, list | tuple) or isinstance(after, list | tuple):
        same = bool(before and after and before[1] == after[1])
        before, after = (before[0], after[0]) if same else (None, None)
    missed = error(before, after)
    if missed is None:
        return {"error": "", "close": None}
    if abs(missed) < 0.005:
        return {"error": "right", "close": True}
    return {
        "error": f"{wording.percent(abs(missed))} too {'high' if missed > 0 else 'low'}",
        "close": abs(missed) <= CLOSE,
    }


_TITLES = {"dataset": "Dataset", "report": "Report", "package": "Package", "release": "Release"}


def lineage(nodes: Sequence[Json], edges: Sequence[tuple[str, str, str]]) -> dict[str, Any] | None:
    """The drawing, and every edge in a table; None when there is nothing."""
    if not nodes:
        return None
    roles: dict[str, set[str]] = {}
    for _, role, parent in edges:
        roles.setdefault(parent, set()).add("row source" if role.startswith("source.") else role)
    boxes = [charts.Node(n["digest"], n["kind"], _title(n, roles), short(n["digest"])) for n in nodes]
    titles = {box.key: f"{box.title} {box.detail}" for box in boxes}
    made = [(parent, child) for child, _, parent in edges]
    many = [box for box in boxes if box.title == "Data source"]
    if len(many) > MOST_SOURCES_DRAWN:
        one = charts.Node(many[0].key, "source", f"{len(many)} data sources", "listed below")
        boxes = [one, *(box for box in boxes if box not in many)]
    label = "Lineage: " + "; ".join(
        f"{titles[b]} was made from {titles[a]}" for a, b in charts.needed(made) if a in titles and b in titles
    )  # fmt: skip
    return {
        "wide": Markup(charts.flow(label, boxes, made, width=WIDE)),  # noqa: S704 (charts escape their text)
        "narrow": Markup(charts.flow(label, boxes, made, upright=True, width=NARROW)),  # noqa: S704
        "edges": [{"child": titles.get(c, short(c)), "role": wording.shorten(r, 40), "parent": titles.get(p, short(p))} for c, r, p in edges],
        "digests": [{"title": titles[n["digest"]], "digest": n["digest"]} for n in nodes],
    }  # fmt: skip


def _title(node: Json, roles: Mapping[str, set[str]]) -> str:
    """Its name, or what it is to those that were made from it."""
    served = roles.get(node["digest"], set())
    if names := node.get("names"):
        return wording.shorten(str(names[0]), 80)
    if node["kind"] == "model":
        return "Base model" if "base" in served else "Tuned model"
    if node["kind"] == "source":
        return (
            "Base, as given"
            if "source" in served
            else "Forgotten rows"
            if "forgotten" in served
            else "Data source"
        )
    return _TITLES.get(node["kind"], str(node["kind"]))
