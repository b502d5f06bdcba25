"""Drawings of a dataset's page: how long rows are, and how labels stand on each side. Pure functions, as in charts.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .chart_parts import CHARACTER, Point, element, path, picture, scale, text, tip
from .wording import shorten

SIDES = ("train", "validation", "test")
BARS = {"train": "training rows", "rows": "rows"}
"""What is drawn as bars: the side that is learnt from, or all rows of a source that has no sides yet."""


def histogram(label: str, edges: Sequence[int], counts: Mapping[str, Sequence[int]], width: int = 900) -> str:
    """The share of each side's rows in every bin: bars for train (or for all rows), lines with marks for the sides that are held out.

    Bins are as wide as each other; under them stand their lower ends.
    """
    height, left, top, bottom = 190.0, 46.0, 8.0, 40.0
    shares = {side: [n / max(1, sum(told)) for n in told] for side, told in counts.items() if sum(told)}
    most = max((max(told) for told in shares.values()), default=0.0) or 1.0
    bins = max(1, len(edges) - 1)
    step = (width - left - 6) / bins
    at = scale(0, most, top + height, top)
    parts = []
    for share in (0.0, most / 2, most):
        y = at(share)
        parts.append(element("line", x1=left, x2=float(width), y1=y, y2=y, class_="grid"))
        parts.append(
            text(
                f"{share * 100:.0f} %" if most >= 0.02 else f"{share * 100:.1f} %",
                left - 6,
                y + 4,
                "tick",
                "end",
            )
        )
    bars = next((side for side in BARS if side in shares), "train")
    for n, share in enumerate(shares.get(bars, ())):
        x, y = left + n * step, at(share)
        told = f"{edges[n]:,} to {edges[n + 1] - 1:,}: {counts[bars][n]:,} {BARS[bars]}"
        bar = element("rect", x=x + 1, y=y, width=max(1.0, step - 2), height=top + height - y, class_="train")
        parts.append(element("g", [tip(told), bar]))
    for side in SIDES[1:]:
        if side not in shares:
            continue
        points: list[Point] = [(left + (n + 0.5) * step, at(share)) for n, share in enumerate(shares[side])]
        marks = [element("circle", cx=x, cy=y, r=2.5) for x, y in points]
        parts.append(element("g", [tip(side), element("path", d=path(points)), *marks], class_=side))
    room = max(1, round(len(f"{edges[-1]:,}") * CHARACTER / step + 0.5)) if edges else 1
    for n in range(0, bins, room):
        parts.append(text(f"{edges[n]:,}", left + n * step, top + height + 18, "tick"))
    return picture(label, float(width), top + height + bottom, parts, "lengths")


def balance(label: str, labels: Mapping[str, Mapping[str, int]], width: int = 900) -> str:
    """One bar for each label, its sides one after the other."""
    most = max((sum(by_side.values()) for by_side in labels.values()), default=0) or 1
    gutter = 14 + CHARACTER * max((min(len(name), 26) for name in labels), default=0)
    right = 12 + CHARACTER * len(f"{most:,}")
    at = scale(0, most, gutter, width - right)
    parts = []
    for n, (name, by_side) in enumerate(labels.items()):
        y, x, told = n * 26.0 + 6, float(gutter), sum(by_side.values())
        inside = [
            tip(
                f"{name}: "
                + ", ".join(f"{by_side.get(side, 0):,} {side}" for side in SIDES if side in by_side)
            )
        ]
        for side in SIDES:
            end = x + at(by_side.get(side, 0)) - gutter
            if end > x:
                inside.append(element("rect", x=x, y=y, width=max(0.5, end - x - 1), height=14, class_=side))
            x = end
        parts += [
            text(shorten(name, 26), 0, y + 12, "name"),
            element("g", inside),
            text(f"{told:,}", x + 8, y + 12, "value"),
        ]
    return picture(label, width, len(labels) * 26 + 4, parts, "balance")
