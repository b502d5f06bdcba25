"""Drawings of a monitoring page: shares before and now, and the capital of the bets over time. Pure functions, as in charts.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from .chart_parts import CHARACTER, element, path, picture, scale, text, tip
from .wording import percent, shorten


def shares(label: str, parts: Sequence[tuple[str, float, float]], width: int = 440) -> str:
    """For each stretch or word a pair of bars: the reference's share above, the window's below."""
    most = max((max(before, now) for _, before, now in parts), default=0.0) or 1.0
    gutter = 12 + CHARACTER * max((min(len(name), 24) for name, *_ in parts), default=0)
    at = scale(0, most, gutter, width - 96.0)
    drawn = []
    for n, (name, before, now) in enumerate(parts):
        y = n * 28.0 + 4
        bars = [
            element("rect", x=gutter, y=y, width=max(0.5, at(before) - gutter), height=9, class_="usual"),
            element("rect", x=gutter, y=y + 10, width=max(0.5, at(now) - gutter), height=9, class_="now"),
        ]
        drawn += [
            text(shorten(name, 24), 0, y + 13, "name"),
            element("g", [tip(f"{name}: usual {before:.1%}, now {now:.1%}"), *bars]),
            text(f"{percent(before)} → {percent(now)}" if width > 400 else percent(now), at(max(before, now)) + 6, y + 14, "tick"),
        ]  # fmt: skip
    return picture(label, float(width), len(parts) * 28 + 6, drawn, "shares")


def capital(label: str, looks: Sequence[tuple[float, float]], alarm: float, width: int = 900) -> str:
    """What the bets held at the end of each window, in days of quiet, on a scale of powers of ten; the line where an alarm is."""
    height, left, top, bottom = 170.0, 64.0, 14.0, 30.0
    floor = 0.01
    high = max(alarm * 3, *(value for _, value in looks)) if looks else alarm * 3
    high = min(high, 1e6)
    y_at = scale(math.log10(floor), math.log10(high), top + height, top)
    begin, end = looks[0][0], looks[-1][0]
    x_at = scale(begin, end, left + 4, width - 8.0)
    parts = []
    for power in range(-2, math.floor(math.log10(high)) + 1):
        y = y_at(float(power))
        parts += [
            element("line", x1=left, x2=float(width), y1=y, y2=y, class_="grid"),
            text(f"{10.0**power:g} d", left - 6, y + 4, "tick", "end"),
        ]
    y = y_at(math.log10(alarm))
    parts += [
        element("line", x1=left, x2=float(width), y1=y, y2=y, class_="alarm"),
        text(f"alarm at {alarm:,.0f} days", width - 6.0, y - 5, "mark", "end"),
    ]
    points = [(x_at(when), y_at(math.log10(min(max(value, floor), high)))) for when, value in looks]
    if len(points) > 1:
        parts.append(element("path", d=path(points), class_="capital"))
    for (x, place), (when, value) in zip(points, looks, strict=True):
        mark = element(
            "circle",
            cx=x,
            cy=place,
            r=4.5 if value >= alarm else 2.5,
            class_="hit" if value >= alarm else "look",
        )
        parts.append(element("g", [tip(f"{_day(when)}: {value:,.3g} days"), mark]))
    parts += [
        text(_day(begin), left, top + height + 20, "tick"),
        text(_day(end), width - 6.0, top + height + 20, "tick", "end"),
    ]
    return picture(label, float(width), top + height + bottom, parts, "capital")


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
