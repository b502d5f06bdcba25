"""The page of a search: what was tried, what it gave and cost, and what of it mattered. Facts in, one HTML file's text out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from . import charts, search_charts, wording
from .page import environment, policy, text_of

if TYPE_CHECKING:
    from luthier.app.searching import Searched
    from luthier.training.search import Trial

STYLE = """
.lines path.trial { stroke: var(--grey); stroke-width: 1.2; opacity: .55; }
.lines path.trial.kept { stroke: var(--accent); stroke-width: 2.6; opacity: 1; }
.lines circle.point { fill: var(--grey); stroke: none; opacity: .7; }
.lines circle.point.kept { fill: var(--accent); opacity: 1; }
.lines circle.point.front { fill: var(--wood); opacity: 1; }
.lines circle.point.kept.front { fill: var(--accent); }
.lines path.front { stroke: var(--wood); stroke-width: 1.2; stroke-dasharray: 4 3; }
.lines path.sofar { stroke: var(--accent); stroke-width: 1.6; }
.lines text.mark { font-size: 11px; fill: var(--muted); }
.chart .axis { stroke: var(--line); stroke-width: 1.2; }
"""


def render(found: Searched) -> str:
    """The page as text, to be saved as UTF-8."""
    style = text_of("page.css") + STYLE
    done = [one for one in found.trials if one.state == "done"]
    kept, best = found.kept_trial, next(one for one in found.trials if one.number == found.best)
    written = next((one for one in found.trials if not one.setting), None)
    drawn = {
        "dots": _dots(done, found),
        "history": search_charts.history(found.trials, found) if len(done) > 1 else None,
        "against": search_charts.pareto(done, found) if len(done) > 1 else None,
        "parallel": search_charts.parallel(done, found)
        if sum(bool(one.setting) for one in done) > 1
        else None,
        "importance": search_charts.importance(found) if found.importance else None,
    }
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
            written=_row(written, found) if written else None,
            why=found.why,
            spent=wording.seconds(found.seconds),
            money=found.money and str(found.money),
            references=[_reference(one, found) for one in found.references],
            front=[_row(one, found) for n in found.front for one in found.trials if one.number == n],
            stopped=found.stopped,
            sets=[shlex.quote(one) for one in found.sets],
            rows=[_row(one, found) for one in sorted(found.trials, key=lambda one: _order(one, found))],
            **{name: svg and Markup(svg) for name, svg in drawn.items()},  # noqa: S704 (charts escape their text)
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

    setting = [(path, wording.shorten(search_charts.told(value), 60)) for path, value in one.setting.items()]
    return {
        "number": one.number,
        "name": search_charts.name(one),
        "technique": one.technique,
        "setting": setting,
        "value": shown(one.value),
        "interval": "–" if one.low is None else f"{shown(one.low)} to {shown(one.high)}",
        "seconds": wording.seconds(one.seconds),
        "work": "–" if one.work is None else f"{one.work:.2g}",
        "state": _ended(one),
        "kept": one.number == found.kept,
    }


def _ended(one: Trial) -> str:
    why = wording.clip(one.why or "", 200)
    return {"done": why, "pruned": why or "given up early", "failed": f"failed: {why}" if why else "failed"}[
        one.state
    ]


def _reference(one: Any, found: Searched) -> dict[str, Any]:
    name = wording.system_long(one.system)
    return {"name": name, "value": wording.score(found.metric, one.value), "behind": one.behind}


def _dots(done: Sequence[Trial], found: Searched) -> str:
    dots = [
        charts.Dot(
            search_charts.name(one),
            one.value or 0.0,
            one.low,
            one.high,
            "tuned" if one.number == found.kept else "tfidf",
        )
        for one in sorted(done, key=lambda one: _order(one, found))[:30]
    ]
    dots += [charts.Dot(r.system, r.value, None, None, "base") for r in found.references]
    ends = [x for d in dots for x in (d.value, d.low, d.high) if x is not None]
    pad = (max(ends) - min(ends)) * 0.06 or 0.05
    label = f"{wording.title(found.metric)} of each trial on the validation rows, with its interval."
    return charts.dot_whisker(
        label, dots, min(ends) - pad, max(ends) + pad, lambda v: wording.score(found.metric, v),
        width=search_charts.WIDTH,
    )  # fmt: skip
