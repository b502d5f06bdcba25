"""Rows won and lost against each other system, as one drawing. Pure: report.json in, SVG text out."""

from __future__ import annotations

from collections.abc import Sequence

from . import wording
from .chart_parts import CHARACTER, element, picture, text, tip
from .facts import Json

ROW, TOP, WIDTH = 30, 26, 620


def drawing(report: Json) -> str | None:
    """Bars from a middle line: to the right the rows that only the tuned model has right, to the left those that only the other
    has. None where nothing turned."""
    rows: Sequence[Json] = [one for one in report.get("turned") or () if one["gained"] or one["lost"]]
    if not rows:
        return None
    names = [wording.system(one["to"]) for one in rows]
    gutter = 16 + CHARACTER * max(len(name) for name in names)
    most = max(max(one["gained"], one["lost"]) for one in rows)
    room = 14 + CHARACTER * len(f"{most:,}")
    middle = gutter + (WIDTH - gutter) / 2
    each = (middle - gutter - room) / most
    bottom = TOP + ROW * len(rows)
    parts = [
        element("line", x1=middle, x2=middle, y1=TOP - 4, y2=bottom, class_="zero"),
        text("only the other is right", middle - 8, 14, "tick", "end"),
        text("only the tuned model is right", middle + 8, 14, "tick"),
    ]
    for n, (one, name) in enumerate(zip(rows, names, strict=True)):
        y, gained, lost = TOP + n * ROW + 6, one["gained"], one["lost"]
        said = f"against {name}: {gained:,} rows won, {lost:,} lost, p = {one['p']:.2g}"
        parts += [
            text(wording.shorten(name, 24), 0, y + 12, "name"),
            element(
                "g",
                [
                    tip(said),
                    element("rect", x=middle + 1, y=y, width=max(0.0, each * gained - 1), height=14, class_="left"),
                    element("rect", x=middle - each * lost, y=y, width=max(0.0, each * lost - 1), height=14, class_="gone"),
                ],
            ),
            text(f"{gained:,}", middle + each * gained + 8, y + 12, "value"),
            text(f"{lost:,}", middle - each * lost - 8, y + 12, "value lost", "end"),
        ]  # fmt: skip
    told = "; ".join(
        f"against {name} {one['gained']:,} won and {one['lost']:,} lost"
        for one, name in zip(rows, names, strict=True)
    )
    return picture(f"Rows won and lost: {told}.", WIDTH, bottom + 4, parts, "bars")
