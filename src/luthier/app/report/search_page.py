"""The page of a search: what was tried, what it gave and cost, and what of it mattered. Facts in, one HTML file's text out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from . import charts, wording
from .chart_parts import element, picture, scale, text, tick_label, ticks, tip
from .page import environment, policy, text_of

if TYPE_CHECKING:
    from luthier.app.searching import Searched
    from luthier.training.search import Trial

WIDTH, HEIGHT = 680, 280
STYLE = """
.trial { fill: none; stroke: var(--grey); stroke-width: 1.2; opacity: .55; }
.trial.kept { stroke: var(--accent); stroke-width: 2.6; opacity: 1; }
.point { fill: var(--grey); opacity: .7; }
.point.kept { fill: var(--accent); opacity: 1; }
.front { fill: none; stroke: var(--wood); stroke-width: 1.2; stroke-dasharray: 4 3; }
.axis { stroke: var(--faint); }
"""


def render(found: Searched) -> str:
    """The page as text, to be saved as UTF-8."""
    style = text_of("page.css") + STYLE
    done = [one for one in found.trials if one.state == "done"]
    kept, best = found.kept_trial, next(one for one in found.trials if one.number == found.best)
    return (
        environment()
        .get_template("search_page.html.j2")
        .render(
            style=style,
            policy=policy(style),
            name=found.name,
            metric=wording.spoken(found.metric),
            lower=not found.higher,
            tried=len(found.trials),
            states=_states(found.trials),
            kept=_row(kept, found),
            best=_row(best, found),
            written=_row(found.trials[0], found),
            stopped=found.stopped,
            sets=found.sets,
            rows=[_row(one, found) for one in sorted(found.trials, key=lambda one: _order(one, found))],
            dots=Markup(_dots(done, found)),  # noqa: S704 (charts escape their text)
            against=Markup(_cost(done, found)) if len(done) > 1 else None,  # noqa: S704
            parallel=Markup(_parallel(done, found)) if len(done) > 1 else None,  # noqa: S704
            importance=Markup(_importance(found)) if found.importance else None,  # noqa: S704
        )
    )


def _states(trials: Sequence[Trial]) -> str:
    counts = {state: sum(one.state == state for one in trials) for state in ("done", "pruned", "failed")}
    words = {"done": "trained to the end", "pruned": "given up early", "failed": "failed"}
    return ", ".join(f"{n} {words[state]}" for state, n in counts.items() if n)


def _order(one: Trial, found: Searched) -> tuple[int, float]:
    if one.value is None:
        return 1, one.number
    return 0, -one.value if found.higher else one.value


def _row(one: Trial, found: Searched) -> dict[str, Any]:
    def shown(value: float | None) -> str:
        return "–" if value is None else wording.score(found.metric, value)

    setting = [(path, wording.shorten(_value(value), 60)) for path, value in one.setting.items()]
    return {
        "number": one.number,
        "name": "as written" if one.number == 0 else f"trial {one.number}",
        "setting": setting,
        "value": shown(one.value),
        "interval": "–" if one.low is None else f"{shown(one.low)} to {shown(one.high)}",
        "seconds": wording.seconds(one.seconds),
        "state": {"done": "", "pruned": "given up early", "failed": "failed"}[one.state],
        "why": wording.clip(one.why or "", 200),
        "kept": one.number == found.kept,
    }


def _value(value: Any) -> str:
    return (
        wording.number(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def _dots(done: Sequence[Trial], found: Searched) -> str:
    dots = [
        charts.Dot(
            "as written" if one.number == 0 else f"trial {one.number}",
            one.value or 0.0,
            one.low,
            one.high,
            "tuned" if one.number == found.kept else "tfidf",
        )
        for one in sorted(done, key=lambda one: _order(one, found))[:30]
    ]
    ends = [x for d in dots for x in (d.value, d.low, d.high) if x is not None]
    pad = (max(ends) - min(ends)) * 0.06 or 0.05
    label = f"{wording.title(found.metric)} of each trial on the validation rows, with its interval."
    return charts.dot_whisker(
        label, dots, min(ends) - pad, max(ends) + pad, lambda v: wording.score(found.metric, v), width=WIDTH
    )


def _cost(done: Sequence[Trial], found: Searched) -> str:
    """Quality against work, with the line of those that nothing beats in both."""
    points = [(math.log10(max(one.work or 1.0, 1.0)), one.value or 0.0, one) for one in done]
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    x_at = scale(min(xs) - 0.05, max(xs) + 0.05, 60, WIDTH - 20)
    pad = (max(ys) - min(ys)) * 0.1 or 0.01
    y_at = scale(min(ys) - pad, max(ys) + pad, HEIGHT - 40, 16)
    marks = ticks(min(ys) - pad, max(ys) + pad)
    parts = [element("line", x1=60, x2=WIDTH - 20, y1=y_at(v), y2=y_at(v), class_="grid") for v in marks]
    parts += [text(tick_label(v, marks), 52, y_at(v) + 4, "tick", "end") for v in marks]
    low, high = 10 ** min(xs), 10 ** max(xs)
    parts.append(text(f"least work {low:.2g}", 60, HEIGHT - 22, "tick"))
    parts.append(text(f"most work {high:.2g} (tokens × parameters)", WIDTH - 20, HEIGHT - 22, "tick", "end"))
    front, so_far = [], -math.inf
    for x, y, _ in sorted(points, key=lambda p: (p[0], -p[1] if found.higher else p[1])):
        gain = y if found.higher else -y
        if gain > so_far:
            so_far = gain
            front.append((x_at(x), y_at(y)))
    drawn = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(front))
    parts.append(element("path", d=drawn, class_="front"))
    for x, y, one in points:
        said = f"trial {one.number}: {wording.score(found.metric, y)}, work {one.work or 0:.3g}"
        kind = "point kept" if one.number == found.kept else "point"
        parts.append(element("circle", tip(said), cx=x_at(x), cy=y_at(y), r=5, class_=kind))
    label = f"{wording.title(found.metric)} against the work of training, one point for each trial."
    return picture(label, WIDTH, HEIGHT, parts, "lines")


def _parallel(done: Sequence[Trial], found: Searched) -> str:
    """A line for each trial through one axis for each field, and one for the metric. The recipe as written has no line."""
    mine = [one for one in done if one.setting]
    if not mine:
        return ""
    paths = list(mine[0].setting)
    columns: list[tuple[str, list[float], list[str]]] = []
    for name in paths:
        values = [one.setting[name] for one in mine]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            log = min(values) > 0 and max(values) / min(values) >= 20
            columns.append(
                (name, [math.log10(v) if log else float(v) for v in values], [_value(v) for v in values])
            )
        else:
            said = [_value(v) for v in values]
            order = sorted(dict.fromkeys(said))
            columns.append((name, [float(order.index(one)) for one in said], said))
    values = [one.value or 0.0 for one in mine]
    columns.append((found.metric, values, [wording.score(found.metric, v) for v in values]))
    step = (WIDTH - 160) / max(len(columns) - 1, 1)
    places = [80 + i * step for i in range(len(columns))]
    scales = [scale(min(v), max(v), HEIGHT - 48, 44) for _, v, _ in columns]
    parts = []
    for i, (name, v, said) in enumerate(columns):
        parts.append(element("line", x1=places[i], x2=places[i], y1=44, y2=HEIGHT - 48, class_="axis"))
        short = name.rpartition(".")[2]
        parts.append(text(wording.shorten(short, 18), places[i], 18, "name", "middle"))
        parts.append(text(wording.shorten(said[v.index(max(v))], 16), places[i], 36, "tick", "middle"))
        parts.append(
            text(wording.shorten(said[v.index(min(v))], 16), places[i], HEIGHT - 28, "tick", "middle")
        )
    for row, one in sorted(enumerate(mine), key=lambda pair: pair[1].number == found.kept):
        d = "".join(
            f"{'L' if i else 'M'}{places[i]:.1f} {scales[i](v[row]):.1f}"
            for i, (_, v, _) in enumerate(columns)
        )
        told = ", ".join(f"{name.rpartition('.')[2]} {said[row]}" for name, _, said in columns)
        kind = "trial kept" if one.number == found.kept else "trial"
        parts.append(element("path", tip(f"trial {one.number}: {told}"), d=d, class_=kind))
    return picture(
        "The settings of each trial and what they gave, one line each.", WIDTH, HEIGHT, parts, "lines"
    )


def _importance(found: Searched) -> str:
    rows = [
        charts.Dot(name.rpartition(".")[2], share, None, None, "tuned")
        for name, share in found.importance.items()
    ]
    return charts.dot_whisker(
        "How much of the differences each field explains.",
        rows,
        0.0,
        1.0,
        wording.percent,
        width=WIDTH,
        names=30,
    )
