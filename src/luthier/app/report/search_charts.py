"""The drawings of a search: its history, quality against cost, settings as lines, what each field explains. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import charts, wording
from .chart_parts import CHARACTER, element, picture, scale, text, tick_label, ticks, tip

if TYPE_CHECKING:
    from luthier.app.searching import Searched
    from luthier.training.search import Trial

WIDTH, HEIGHT = 680, 280
NOT_THERE = "not there"
_LEFT, _RIGHT = 60, 20


def name(one: Trial) -> str:
    told = "as written" if not one.setting else f"trial {one.number}"
    return f"{told}, {one.technique}" if one.technique and one.setting else told


def told(value: Any) -> str:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return wording.number(value) if plain else str(value)


def _frame(ys: Sequence[float]) -> tuple[Any, list[str]]:
    """(where a value stands, the grid with its labels)."""
    pad = (max(ys) - min(ys)) * 0.1 or 0.01
    y_at = scale(min(ys) - pad, max(ys) + pad, HEIGHT - 40, 16)
    marks = ticks(min(ys) - pad, max(ys) + pad)
    parts = [
        element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y_at(v), y2=y_at(v), class_="grid") for v in marks
    ]
    return y_at, parts + [text(tick_label(v, marks), _LEFT - 8, y_at(v) + 4, "tick", "end") for v in marks]


def history(trials: Sequence[Trial], found: Searched) -> str:
    """What each trial gave, in the order they were proposed, and the best so far."""
    done = [one for one in sorted(trials, key=lambda one: one.number) if one.value is not None]
    y_at, parts = _frame([one.value or 0.0 for one in done])
    last = max(one.number for one in trials)
    x_at = scale(0, max(1, last), _LEFT + 16, WIDTH - _RIGHT - 16)
    parts += [
        text(f"{n:g}", x_at(n), HEIGHT - 22, "tick", "middle") for n in ticks(0, last, 8) if n == int(n)
    ]
    parts.append(text("trial", WIDTH - _RIGHT, HEIGHT - 6, "tick", "end"))
    best, steps = None, []
    for one in done:
        value = one.value or 0.0
        if best is None or (value > best if found.higher else value < best):
            if best is not None:
                steps.append((x_at(one.number), y_at(best)))
            best = value
            steps.append((x_at(one.number), y_at(best)))
    if best is not None:
        steps.append((x_at(last), y_at(best)))
    parts.append(element("path", d=_line(steps), class_="sofar"))
    for one in done:
        said = f"{name(one)}: {wording.score(found.metric, one.value or 0.0)}"
        kind = "point kept" if one.number == found.kept else "point"
        parts.append(
            element("circle", tip(said), cx=x_at(one.number), cy=y_at(one.value or 0.0), r=5, class_=kind)
        )
    for one in trials:
        if one.value is None:  # given up, or failed: at the foot
            x = x_at(one.number)
            parts.append(
                element(
                    "path",
                    tip(f"{name(one)}: {one.state}"),
                    d=f"M{x - 4:.1f} {HEIGHT - 48}l8 8m0 -8l-8 8",
                    class_="trial",
                )
            )
    label = (
        f"{wording.title(found.metric)} of each trial in the order they were proposed, and the best so far."
    )
    return picture(label, WIDTH, HEIGHT, parts, "lines")


def pareto(done: Sequence[Trial], found: Searched) -> str:
    """Quality against work, with the line of those that nothing beats in both."""
    points = [(math.log10(max(one.work or 1.0, 1.0)), one.value or 0.0, one) for one in done]
    xs = [x for x, _, _ in points]
    y_at, parts = _frame([y for _, y, _ in points])
    x_at = scale(min(xs) - 0.05, max(xs) + 0.05, _LEFT + 10, WIDTH - _RIGHT - 10)
    if max(xs) - min(xs) < 1e-9:
        parts.append(
            text(
                f"all of the same work: {10 ** min(xs):.2g} tokens × parameters",
                WIDTH - _RIGHT,
                HEIGHT - 22,
                "tick",
                "end",
            )
        )
    else:
        parts.append(text(f"least work {10 ** min(xs):.2g}", _LEFT, HEIGHT - 22, "tick"))
        parts.append(
            text(
                f"most work {10 ** max(xs):.2g} (tokens × parameters)",
                WIDTH - _RIGHT,
                HEIGHT - 22,
                "tick",
                "end",
            )
        )
    on = {one.number: (x_at(x), y_at(y)) for x, y, one in points}
    parts.append(element("path", d=_line([on[n] for n in found.front if n in on]), class_="front"))
    for x, y, one in sorted(points, key=lambda point: point[2].number == found.kept):
        said = f"{name(one)}: {wording.score(found.metric, y)}, work {one.work or 0:.3g}"
        kind = (
            "point"
            + (" kept" if one.number == found.kept else "")
            + (" front" if one.number in found.front else "")
        )
        parts.append(
            element(
                "circle",
                tip(said),
                cx=x_at(x),
                cy=y_at(y),
                r=6 if one.number == found.kept else 4.5,
                class_=kind,
            )
        )
    if found.kept in on:
        x, y = on[found.kept]
        end = x > WIDTH / 2
        parts.append(text("kept", x - 10 if end else x + 10, y + 4, "mark", "end" if end else "start"))
    label = f"{wording.title(found.metric)} against the work of training, one point for each trial; a line joins those that nothing beats in both."
    return picture(label, WIDTH, HEIGHT, parts, "lines")


def parallel(done: Sequence[Trial], found: Searched) -> str:
    """A line for each trial through one axis for each field, and one for the metric. A field that a trial has not (another's
    condition was not met) stands at the foot. The recipe as written has no line."""
    mine = [one for one in done if one.setting]
    if not mine:
        return ""
    columns = [
        _column(path, [one.setting.get(path) for one in mine], [path in one.setting for one in mine])
        for path in _varying(mine)
    ]
    if any(one.technique for one in mine):
        named = [one.technique or "" for one in mine]
        columns.insert(0, _column("technique", named, [True] * len(mine)))
    values = [one.value or 0.0 for one in mine]
    columns.append((found.metric, values, [wording.score(found.metric, v) for v in values]))
    step = (WIDTH - 160) / max(len(columns) - 1, 1)
    places = [80 + i * step for i in range(len(columns))]
    scales = [scale(min(v), max(v), HEIGHT - 48, 44) for _, v, _ in columns]
    room = max(6, int(step / CHARACTER) - 1)
    parts = []
    for i, (path, v, said) in enumerate(columns):
        parts.append(element("line", x1=places[i], x2=places[i], y1=44, y2=HEIGHT - 48, class_="axis"))
        parts.append(text(wording.shorten(path.rpartition(".")[2], room), places[i], 18, "name", "middle"))
        parts.append(text(wording.shorten(said[v.index(max(v))], room), places[i], 36, "tick", "middle"))
        if max(v) > min(v):
            parts.append(
                text(wording.shorten(said[v.index(min(v))], room), places[i], HEIGHT - 28, "tick", "middle")
            )
    for row, one in sorted(enumerate(mine), key=lambda pair: pair[1].number == found.kept):
        d = _line([(places[i], scales[i](v[row])) for i, (_, v, _) in enumerate(columns)])
        shown = ", ".join(f"{path.rpartition('.')[2]} {said[row]}" for path, _, said in columns)
        kind = "trial kept" if one.number == found.kept else "trial"
        parts.append(element("path", tip(f"{name(one)}: {shown}"), d=d, class_=kind))
    return picture(
        "The settings of each trial and what they gave, one line each.", WIDTH, HEIGHT, parts, "lines"
    )


MOST_AXES = 7


def _varying(mine: Sequence[Trial]) -> list[str]:
    """The fields that are not the same in all trials; with techniques, not those that a technique alone decides."""
    paths = list(dict.fromkeys(path for one in mine for path in one.setting))
    if any(one.technique for one in mine):
        by: dict[str, dict[str, set[str]]] = {}
        for one in mine:
            for path in paths:
                by.setdefault(path, {}).setdefault(one.technique or "", set()).add(
                    told(one.setting.get(path))
                )
        return [path for path in paths if any(len(values) > 1 for values in by[path].values())][:MOST_AXES]
    return [
        path for path in paths if len({told(one.setting.get(path)) for one in mine}) > 1 or len(mine) == 1
    ][:MOST_AXES]


def _column(path: str, values: Sequence[Any], there: Sequence[bool]) -> tuple[str, list[float], list[str]]:
    """(the field, where each trial stands on its axis, what it says)."""
    said = [told(v) if has else NOT_THERE for v, has in zip(values, there, strict=True)]
    numbers = [v for v, has in zip(values, there, strict=True) if has]
    if numbers and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        log = min(numbers) > 0 and max(numbers) / min(numbers) >= 8
        at = [math.log10(v) if log else float(v) for v in numbers]
        foot = min(at) - 0.25 * ((max(at) - min(at)) or 1.0)
        placed = iter(at)
        return path, [next(placed) if has else foot for has in there], said
    order = sorted(dict.fromkeys(said), key=lambda one: (one != NOT_THERE, one))
    return path, [float(order.index(one)) for one in said], said


def importance(found: Searched) -> str:
    rows = [
        charts.Dot(path.rpartition(".")[2] if ":" not in path else path, share, None, None, "tuned")
        for path, share in found.importance.items()
    ]
    label = "How much of the differences each field explains."
    return charts.dot_whisker(label, rows, 0.0, 1.0, wording.percent, width=WIDTH, names=30)


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
