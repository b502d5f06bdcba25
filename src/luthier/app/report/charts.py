"""Charts as SVG text: pure functions of numbers and labels, no dependency, no colours.

Every mark has a class; the page's style gives it its colour, in light and in dark. A drawing is as wide as it says
and never wider than its place. What is told by colour is told by shape or text as well.

    dot_whisker   values with intervals, one line for each system
    lines         curves over steps
    heatmap       a matrix of counts, rows adding up to one
    bars          what remains, and what went, stage by stage
    flow          what was made from what
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .chart_parts import (
    CHARACTER,
    Point,
    element,
    path,
    picture,
    scale,
    text,
    thin,
    tick_label,
    ticks,
    tip,
)
from .wording import MINUS, number, percent, shorten

MOST_POINTS = 500
NARROWEST_BOX = 96.0  # twelve digits of a digest


# -- dots and whiskers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dot:
    """`series` decides colour and shape: tuned, base, base_3shot, tfidf. `low` and `high` None: no interval is known."""

    label: str
    value: float
    low: float | None
    high: float | None
    series: str


def dot_whisker(
    label: str,
    dots: Sequence[Dot],
    low: float,
    high: float,
    show: Callable[[float], str] = number,
    zero: bool = False,
    width: int = 380,
    names: int = 20,
) -> str:
    """One line for each dot on the range low..high. `zero` draws the line of no difference; `names` is how many characters of
    a label are shown."""
    gutter = 14 + CHARACTER * max((min(len(d.label), names) for d in dots), default=0)
    right = 12 + CHARACTER * max((len(show(d.value)) for d in dots), default=0)
    row, top = 30, 8
    bottom = top + row * len(dots)
    at = scale(low, high, gutter, width - right)
    marks = ticks(low, high)
    parts = [
        element("line", x1=at(v), x2=at(v), y1=top, y2=bottom, class_="zero" if zero and v == 0 else "grid")
        for v in marks
    ]
    parts += [text(tick_label(v, marks), at(v), bottom + 17, "tick", "middle") for v in marks]
    for i, dot in enumerate(dots):
        y = top + row * (i + 0.5)
        told = f"{dot.label}: {show(dot.value)}"
        whisker = ""
        if dot.low is not None and dot.high is not None:
            told += f", interval {show(dot.low)} to {show(dot.high)}"
            a, b = at(dot.low), at(dot.high)
            whisker = element(
                "path",
                d=f"M{a:.1f} {y - 5:.1f}v10M{a:.1f} {y:.1f}H{b:.1f}M{b:.1f} {y - 5:.1f}v10",
                class_="whisker",
            )
        inside = [tip(told), whisker, _shape(dot.series, at(dot.value), y)]
        parts += [
            text(shorten(dot.label, names), 0, y + 4, f"name {dot.series}"),
            element("g", inside, class_=dot.series),
            text(show(dot.value), width, y + 4, f"value {dot.series}", "end"),
        ]
    return picture(label, width, bottom + 24, parts, "dots")


def _shape(series: str, x: float, y: float) -> str:
    if series == "tfidf":
        return element("rect", x=x - 3.5, y=y - 3.5, width=7, height=7, class_="mark")
    if series in ("base", "base_3shot"):
        return element("path", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5Z", class_="mark")
    return element("circle", cx=x, cy=y, r=4.5, class_="mark")


# -- curves -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """`series` decides the look: raw, smooth, validation. `dotted` marks each point."""

    label: str
    points: Sequence[Point]
    series: str
    dotted: bool = False


def lines(
    label: str,
    curves: Sequence[Line],
    x_title: str = "step",
    mark: tuple[float, str] | None = None,
    width: int = 680,
    height: int = 280,
    legend: bool = True,
) -> str:
    """Curves over a common axis. `mark` is a position on it with what to say there."""
    curves = [Line(c.label, _finite(c.points), c.series, c.dotted) for c in curves]
    everything = [p for curve in curves for p in curve.points] or [(0.0, 0.0)]
    x_low, x_high = min(x for x, _ in everything), max(x for x, _ in everything)
    y_low, y_high = min(y for _, y in everything), max(y for _, y in everything)
    pad = (y_high - y_low) * 0.06 or abs(y_high) * 0.1 or 1.0
    y_low, y_high = max(0.0, y_low - pad) if y_low >= 0 else y_low - pad, y_high + pad
    y_marks, x_marks = ticks(y_low, y_high), [v for v in ticks(x_low, x_high, 5) if v == int(v)]
    left = 12 + CHARACTER * max(len(tick_label(v, y_marks)) for v in y_marks)
    top, bottom = (34 if legend else 10) + (16 if mark else 0), height - 36
    x_at, y_at = scale(x_low, x_high, left, width - 14), scale(y_low, y_high, bottom, top)
    parts = [element("line", x1=left, x2=width - 14, y1=y_at(v), y2=y_at(v), class_="grid") for v in y_marks]
    parts += [text(tick_label(v, y_marks), left - 8, y_at(v) + 4, "tick", "end") for v in y_marks]
    parts += [text(tick_label(v, x_marks), x_at(v), bottom + 17, "tick", "middle") for v in x_marks]
    parts.append(text(x_title, width - 14, bottom + 32, "tick", "end"))
    if mark:
        x = x_at(mark[0])
        half = CHARACTER * len(mark[1]) / 2
        parts.append(element("line", x1=x, x2=x, y1=top - 4, y2=bottom, class_="best"))
        parts.append(text(mark[1], min(max(x, left + half), width - half), top - 9, "best", "middle"))
    for curve in curves:
        drawn = [(x_at(x), y_at(y)) for x, y in thin(curve.points, MOST_POINTS)]
        inside = [element("path", d=path(drawn), class_="curve")] if len(drawn) > 1 else []
        if curve.dotted or len(drawn) == 1:
            told = [f"{curve.label} at {x_title} {number(x)}: {number(y)}" for x, y in curve.points]
            inside += [
                element("circle", tip(t), cx=x, cy=y, r=4) for (x, y), t in zip(drawn, told, strict=False)
            ]
        parts.append(element("g", inside, class_=curve.series))
    if legend:
        parts += _legend([c for c in curves if c.points], left)
    return picture(label, width, height, parts, "lines")


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _legend(curves: Sequence[Line], x: float) -> list[str]:
    parts = []
    for curve in curves:
        sample = [element("path", d=f"M{x:.1f} 13h18", class_="curve")]
        if curve.dotted:
            sample.append(element("circle", cx=x + 9, cy=13, r=4))
        parts += [element("g", sample, class_=curve.series), text(curve.label, x + 24, 17, "legend")]
        x += 24 + CHARACTER * len(curve.label) + 16
    return parts


# -- matrix of counts ---------------------------------------------------------------------------------------------------


def heatmap(label: str, labels: Sequence[str], counts: Sequence[Sequence[int]], small: bool = False) -> str:
    """Rows: what was right. Columns: what was answered. Shade: the cell's share of its row. `small` shows no text."""
    n = len(labels)
    cell = (8.0 if n > 20 else 12.0) if small else (26.0 if n > 20 else 32.0)
    names = [shorten(name, 22) for name in labels]
    longest = 0.0 if small else 12 + CHARACTER * max((len(name) for name in names), default=0)
    left, top = longest, longest * 0.72 + (0 if small else 8)
    width = left + n * cell + (0 if small else longest * 0.72)
    parts = [] if small else _axis_names(names, left, top, cell)
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            x, y = left + j * cell, top + i * cell
            if not count:
                if i == j:
                    parts.append(
                        element("rect", x=x + 1, y=y + 1, width=cell - 2, height=cell - 2, class_="none")
                    )
                continue
            share = count / total
            told = f"{labels[i]} answered as {labels[j]}: {count:,} of {total:,} ({percent(share)})"
            parts.append(
                element("rect", tip(told), x=x + 1, y=y + 1, width=cell - 2, height=cell - 2,
                        class_="right" if i == j else "wrong", fill_opacity=shade(share))
            )  # fmt: skip
            if not small:
                strong = " strong" if shade(share) > 0.7 else ""
                parts.append(
                    text(f"{count}", x + cell / 2, y + cell / 2 + 4, f"count{strong}", "middle", aria_hidden="true")
                )  # fmt: skip
    return picture(label, width, top + n * cell + 2, parts, "heat small" if small else "heat")


def shade(share: float) -> float:
    """Opacity of a cell: a lone count stays visible. Nothing lies between .62 and .88, where neither black nor white
    text would be readable.

    >>> shade(0.0), shade(0.5), shade(1.0)
    (0.16, 0.39, 1.0)
    """
    opacity = 0.16 + 0.46 * share if share < 0.7 else 0.88 + 0.12 * (share - 0.7) / 0.3
    return round(opacity, 4)


def _axis_names(names: Sequence[str], left: float, top: float, cell: float) -> list[str]:
    parts = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        parts.append(text(name, left - 8, top + middle + 4, "name", "end"))
        x, y = left + middle + 3, top - 6
        parts.append(text(name, x, y, "name", transform=f"rotate(-45 {x:.1f} {y:.1f})"))
    return parts


# -- what remains -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """`left` rows remained, `gone` were removed on the way."""

    label: str
    left: int
    gone: int


def bars(label: str, rows: Sequence[Bar], width: int = 680) -> str:
    """One bar for each stage, on a common scale: what remained, and beside it what went."""
    most = max((r.left + r.gone for r in rows), default=0) or 1
    gutter = 14 + CHARACTER * max((min(len(r.label), 22) for r in rows), default=0)
    room = [len(f"{r.left:,}  −{r.gone:,}") for r in rows]
    right = 10 + CHARACTER * max(room, default=0)
    row = 30
    at = scale(0, most, gutter, width - right)
    parts = []
    for i, one in enumerate(rows):
        y = i * row + 6
        end, whole = at(one.left), at(one.left + one.gone)
        told = f"{one.label}: {one.left:,} rows remained, {one.gone:,} removed"
        inside = [tip(told), element("rect", x=gutter, y=y, width=end - gutter, height=14, class_="left")]
        parts += [
            text(shorten(one.label, 22), 0, y + 12, "name"),
            text(f"{one.left:,}", whole + 8, y + 12, "value"),
        ]
        if one.gone:
            inside.append(
                element("rect", x=end + 1, y=y, width=max(1.0, whole - end - 1), height=14, class_="gone")
            )
            x = whole + 16 + CHARACTER * len(f"{one.left:,}")
            parts.append(text(f"{MINUS}{one.gone:,}", x, y + 12, "value lost"))
        parts.append(element("g", inside))
    return picture(label, width, len(rows) * row, parts, "bars")


# -- what was made from what --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """`kind` decides the look; `title` and `detail` are its two lines."""

    key: str
    kind: str
    title: str
    detail: str


def flow(
    label: str,
    nodes: Sequence[Node],
    edges: Sequence[tuple[str, str]],
    upright: bool = False,
    width: int = 900,
) -> str:
    """Boxes in the order of the making, from left to right or (`upright`) from top to bottom.

    `edges` are (from, to). Edges that a longer way implies are not drawn. Raises ValueError on a circle.
    """
    known = {node.key for node in nodes}
    edges = [(a, b) for a, b in edges if a in known and b in known]
    depth = _depths([node.key for node in nodes], edges)
    levels: dict[int, list[Node]] = {}
    for node in nodes:
        levels.setdefault(depth[node.key], []).append(node)
    across = max((len(level) for level in levels.values()), default=1)
    gap = 34
    box_w = min(190.0, (width - gap * (len(levels) - 1)) / max(1, len(levels)))
    if upright:
        box_w = min(170.0, (width - 12 * (across - 1)) / across)
    box_w = max(NARROWEST_BOX, box_w)
    box_h, step = 54.0, 54.0 + (30 if upright else 18)
    place: dict[str, Point] = {}
    for at, level in levels.items():
        for i, node in enumerate(level):
            shift = (across - len(level)) / 2 + i
            place[node.key] = (
                (shift * (box_w + 12), at * step) if upright else (at * (box_w + gap), shift * step)
            )
    parts = [_edge(place[a], place[b], box_w, box_h, upright) for a, b in needed(edges)]
    parts += [_box(node, *place[node.key], box_w, box_h) for node in nodes]
    total_w = across * (box_w + 12) - 12 if upright else len(levels) * (box_w + gap) - gap
    total_h = len(levels) * step - 30 if upright else across * step - 18
    return picture(label, total_w, total_h, parts, "flow")


def _box(node: Node, x: float, y: float, w: float, h: float) -> str:
    room = int((w - 20) / CHARACTER)
    return element("g", [
        tip(f"{node.title} {node.detail}"),
        element("rect", x=x, y=y, width=w, height=h, rx=3),
        text(shorten(node.title, room), x + 12, y + 23, "name"),
        text(shorten(node.detail, room), x + 12, y + 41, "digest"),
    ], class_=f"node {node.kind}")  # fmt: skip


def _edge(a: Point, b: Point, w: float, h: float, upright: bool) -> str:
    x1, y1, x2, y2 = (
        (a[0] + w / 2, a[1] + h, b[0] + w / 2, b[1]) if upright else (a[0] + w, a[1] + h / 2, b[0], b[1] + h / 2)
    )  # fmt: skip
    mx, my = (x1 + x2) / 2, (y1 + y2) / 2
    bend = f"C{x1:.1f} {my:.1f} {x2:.1f} {my:.1f}" if upright else f"C{mx:.1f} {y1:.1f} {mx:.1f} {y2:.1f}"
    return element("path", d=f"M{x1:.1f} {y1:.1f}{bend} {x2:.1f} {y2:.1f}", class_="edge")


def _depths(keys: Sequence[str], edges: Sequence[tuple[str, str]]) -> Mapping[str, int]:
    """The longest way to each node from where nothing leads."""
    depth = dict.fromkeys(keys, 0)
    for _ in keys:
        before = dict(depth)
        for a, b in edges:
            depth[b] = max(depth[b], depth[a] + 1)
        if depth == before:
            return depth
    if edges:
        raise ValueError("these edges go round in a circle: nothing can be made from itself")
    return depth


def needed(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Edges without those that a longer way implies (the transitive reduction of an acyclic graph).

    >>> needed([("rows", "model"), ("model", "report"), ("rows", "report")])
    [('rows', 'model'), ('model', 'report')]
    """
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reaches(start: str, goal: str) -> bool:
        seen, todo = set[str](), [start]
        while todo:
            if (here := todo.pop()) == goal:
                return True
            if here not in seen:
                seen.add(here)
                todo += after.get(here, ())
        return False

    return [(a, b) for a, b in dict.fromkeys(edges) if not any(reaches(c, b) for c in after[a] - {b})]
