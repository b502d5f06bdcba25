"""Cost against quality: one mark for each system, further left is cheaper, higher is better.

The axis of cost is money for a thousand answers where that is known of two systems or more in one currency, else seconds for an
answer. It is logarithmic, since an API and a small model are often a hundredfold apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.evaluation.systems import ordered

from . import wording
from .chart_parts import CHARACTER, element, picture, scale, text, tick_label, ticks, tip
from .facts import Json

WIDTH, HEIGHT = 560, 316


@dataclass(frozen=True)
class Mark:
    """`cost` is above zero; `low` and `high` None: no interval is known."""

    name: str
    cost: float
    value: float
    low: float | None
    high: float | None


def marks(report: Json, metric: str) -> tuple[str, list[Mark]]:
    """(what the axis of cost shows, the systems of which both are known)."""
    systems = report["systems"]
    money = {
        name: one["cost"] for name, one in systems.items() if one.get("cost") and one["cost"]["per_1000"] > 0
    }
    currencies = {one["currency"] for one in money.values()}
    seconds = {
        name: one["latency"]["median_s"]
        for name, one in systems.items()
        if one.get("latency") and one["latency"]["median_s"] > 0
    }
    if len(currencies) == 1 and len(money) >= 2:
        title, cost = (
            f"{currencies.pop()} for 1,000 answers",
            {n: one["per_1000"] for n, one in money.items()},
        )
    else:
        title, cost = "seconds for an answer (median)", seconds
    found = []
    for name in ordered(systems):
        value = systems[name]["metrics"].get(metric)
        if value is not None and name in cost:
            low, high = (systems[name].get("intervals") or {}).get(metric) or (None, None)
            found.append(Mark(name, cost[name], value, low, high))
    return title, found


def draw(report: Json, metric: str) -> str | None:
    """The drawing; None where fewer than two systems can be placed."""
    title, found = marks(report, metric)
    if len(found) < 2:
        return None
    x_low, x_high = _decades([one.cost for one in found])
    ends = [v for one in found for v in (one.value, one.low, one.high) if v is not None]
    share = min(ends) >= 0 and max(ends) <= 1
    y_low, y_high = (0.0, 1.0) if share else (min(ends) - _pad(ends), max(ends) + _pad(ends))
    y_marks = ticks(y_low, y_high)
    left, bottom, top = 14 + CHARACTER * max(len(tick_label(v, y_marks)) for v in y_marks), HEIGHT - 40, 30
    x_log = scale(math.log10(x_low), math.log10(x_high), left + 20, WIDTH - 90)
    y_at = scale(y_low, y_high, bottom, top)
    parts = [element("line", x1=left, x2=WIDTH - 14, y1=y_at(v), y2=y_at(v), class_="grid") for v in y_marks]
    parts += [text(tick_label(v, y_marks), left - 8, y_at(v) + 4, "tick", "end") for v in y_marks]
    for power in range(round(math.log10(x_low)), round(math.log10(x_high)) + 1):
        parts.append(text(wording.number(10.0**power), x_log(power), bottom + 17, "tick", "middle"))
    parts.append(text(title, WIDTH - 14, bottom + 34, "tick", "end"))
    parts.append(text(wording.title(metric), 0, 10, "tick"))
    placed = [(x_log(math.log10(one.cost)), y_at(one.value)) for one in found]
    labels = _labels([wording.shorten(wording.system(one.name), 20) for one in found], placed)
    for one, (x, _), label in zip(found, placed, labels, strict=True):
        parts += [_mark(one, x, y_at, metric), text(*label, f"name {wording.look(one.name)}")]
    said = "; ".join(
        f"{wording.system(m.name)} {wording.score(metric, m.value)} at {wording.number(m.cost)}"
        for m in found
    )
    return picture(f"{wording.title(metric)} against {title}: {said}", WIDTH, HEIGHT, parts, "dots scatter")


def _mark(one: Mark, x: float, y_at: Any, metric: str) -> str:
    look, y = wording.look(one.name), y_at(one.value)
    told = f"{wording.system(one.name)}: {wording.score(metric, one.value)} at {wording.number(one.cost)}"
    inside = [tip(told)]
    if one.low is not None and one.high is not None:
        a, b = y_at(one.low), y_at(one.high)
        inside.append(
            element(
                "path",
                d=f"M{x - 5:.1f} {a:.1f}h10M{x:.1f} {a:.1f}V{b:.1f}M{x - 5:.1f} {b:.1f}h10",
                class_="whisker",
            )
        )
    inside.append(element("circle", cx=x, cy=y, r=4.5, class_="mark"))
    return element("g", inside, class_=look)


def _labels(names: Sequence[str], placed: Sequence[tuple[float, float]]) -> list[tuple[str, float, float]]:
    """(name, x, y) of each: right of its mark, or where that is taken left, above or below; whatever comes first."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in placed]
    found = []
    for name, (x, y) in zip(names, placed, strict=True):
        width = CHARACTER * len(name)
        ways = [(x + 9, y + 4), (x - 9 - width, y + 4), (x + 9, y - 12), (x + 9, y + 20)]
        left, base = next(
            (way for way in ways if not _hits((way[0], way[1] - 10, way[0] + width, way[1] + 2), taken)),
            ways[0],
        )
        taken.append((left, base - 10, left + width, base + 2))
        found.append((name, left, base))
    return found


def _hits(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> bool:
    a, b, c, d = box
    return a < 0 or c > WIDTH or any(a < x2 and c > x1 and b < y2 and d > y1 for x1, y1, x2, y2 in taken)


def _decades(costs: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around them.

    >>> _decades([0.02, 3.0]), _decades([1.0, 1.0])
    ((0.01, 10.0), (1.0, 10.0))
    """
    low = math.floor(math.log10(min(costs)))
    high = max(math.ceil(math.log10(max(costs))), low + 1)
    return 10.0**low, 10.0**high


def _pad(ends: Sequence[float]) -> float:
    return (max(ends) - min(ends)) * 0.08 or 1.0


def table(report: Json) -> list[dict[str, str]]:
    """Seconds, tokens and money of every system, in words; nothing where neither seconds nor money were measured of any."""
    ours = ("tuned", "base", "base_3shot", "tfidf")
    told = [
        name
        for name, one in report["systems"].items()
        if one.get("latency") or one.get("cost") or name not in ours
    ]
    if not told:
        return []
    rows = []
    is_ = {one["name"]: one["is"] for one in report.get("measured") or ()}
    for name in ordered(report["systems"]):
        one = report["systems"][name]
        latency, tokens, cost = one.get("latency"), one.get("tokens"), one.get("cost")
        if not (tokens or name in told):
            continue
        rows.append(
            {
                "system": wording.system(name),
                "is": is_.get(name, wording.system_long(name)),
                "median": f"{latency['median_s']:.3g} s" if latency else "–",
                "p95": f"{latency['p95_s']:.3g} s" if latency else "–",
                "tokens": f"{tokens['in']:,.0f} / {tokens['out']:,.0f}" if tokens else "–",
                "money": wording.money_exactly([cost["per_1000"], cost["currency"]]) if cost else "–",
                "basis": cost["basis"] if cost else "",
            }
        )
    return rows
