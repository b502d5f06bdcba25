"""The record as a picture: over the requests, which release answered, how often it was right on old topics and on the new one, and
what happened when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT = 960.0, 60.0, 20.0
TOP, HEIGHT = 50.0, 220.0
WITHIN = 30
"""The share of right answers is that of the newest so many requests of a topic."""
COLOURS = {"old": "#2f5d9b", "new": "#8f521e"}
RELEASES = {"1": "#d9d3c7", "2": "#a9cdbf", "3": "#e3a79a"}


def drawing(told: Mapping[str, Any]) -> str:
    asked = told["requests"]
    n = len(asked["release"])

    def x_of(request: float) -> float:
        return LEFT + request / n * (WIDTH - LEFT - RIGHT)

    def y_of(share: float) -> float:
        return TOP + (1 - share) * HEIGHT

    parts = [*_frame(y_of), *_bands(asked["release"], x_of)]
    old = [topic != told["new"] for topic in asked["topic"]]
    for name, wanted in (("old", True), ("new", False)):
        points = [(x, y) for x, y in _shares(asked["right"], [one == wanted for one in old])]
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
    marks = _happened(told)
    parts += _marks(marks, x_of)
    parts += _legend(told)
    foot = TOP + HEIGHT
    for request in range(0, n + 1, 100):
        parts.append(
            f'<text x="{x_of(request):.1f}" y="{foot + 46}" text-anchor="middle" fill="#665f55">{request}</text>'
        )
    parts.append(f'<text x="{LEFT}" y="{foot + 64}" fill="#665f55">requests</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {foot + 90 + 18 * len(marks):.0f}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _frame(y_of: Any) -> Iterator[str]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_of(share)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2dacd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#665f55">{share:.0%}</text>'


def _bands(release: str, x_of: Any) -> Iterator[str]:
    """One stroke for each request, in the colour of the release that answered it."""
    y, width = TOP + HEIGHT + 8, x_of(1) - x_of(0)
    for n, one in enumerate(release):
        yield f'<rect x="{x_of(n):.2f}" y="{y}" width="{width:.2f}" height="18" fill="{RELEASES.get(one, "#888")}"/>'


def _shares(right: str, wanted: Sequence[bool]) -> Iterator[tuple[int, float]]:
    newest: list[int] = []
    for n, (one, mine) in enumerate(zip(right, wanted, strict=True)):
        if mine:
            newest = [*newest, int(one)][-WITHIN:]
            if len(newest) >= 10:
                yield n, sum(newest) / len(newest)


def _happened(told: Mapping[str, Any]) -> list[tuple[int, str]]:
    """What is worth a mark; what comes at the same request stands in one."""
    found: dict[int, list[str]] = {}
    for step in told["steps"]:
        what = step["what"]
        if what == "alarm":
            what = f"alarm: {step['groups']}"
        elif what.startswith("rollout"):
            what = f"release {step['candidate'].rpartition('@')[2]} {what.removeprefix('rollout: ')}"
        elif what.startswith("retrain"):
            what = f"new run {what.removeprefix('retrain: ')}"
        elif what not in ("the new topic begins", "planted"):
            continue
        found.setdefault(step["after_request"], []).append(what)
    return [(at, ", ".join(what)) for at, what in found.items()]


def _marks(marks: Sequence[tuple[int, str]], x_of: Any) -> Iterator[str]:
    """Each with a number above, neighbours at two heights, and its words below the picture."""
    for n, (at, what) in enumerate(marks):
        x, y, told = x_of(at), TOP - 18 * (1 + n % 2), TOP + HEIGHT + 92 + 18 * n
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 9}" y2="{TOP + HEIGHT + 8}" stroke="#17635c" stroke-dasharray="3 3"/>'
        for across, down in ((x, y), (LEFT + 8, told - 4)):
            yield f'<circle cx="{across:.1f}" cy="{down}" r="8" fill="#17635c"/>'
            yield f'<text x="{across:.1f}" y="{down + 4}" text-anchor="middle" fill="#fff" font-size="11">{n + 1}</text>'
        yield f'<text x="{LEFT + 24}" y="{told}">after {at}: {escape(what)}</text>'


def _legend(told: Mapping[str, Any]) -> Iterator[str]:
    y = TOP + HEIGHT + 64
    for n, (name, words) in enumerate(
        (("old", "right on the four old topics"), ("new", f"right on the new topic ({told['new']})"))
    ):
        x = LEFT + 90 + 220 * n
        yield f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{COLOURS[name]}" stroke-width="2.5"/>'
        yield f'<text x="{x + 24}" y="{y}">{escape(words)}</text>'
    for n, (release, colour) in enumerate(RELEASES.items()):
        x = LEFT + 560 + 100 * n
        yield f'<rect x="{x}" y="{y - 11}" width="14" height="14" fill="{colour}"/><text x="{x + 20}" y="{y}">release {release}</text>'
