"""History -> what the page tells of training: how it was done, what was proven before it, its curves and figures, and
which weights were kept. Only plain values and finished drawings leave here.

    how       method, adapter, number format, fused parts
    curves    the watched figure where it is not the loss, and the loss
    small     the loss of each source where there are several, learning rate, gradient norm
    figures   the method's own figures and the sources' losses, first and last
    proof     the laws that held before the first step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from luthier.core.units import show_count
from luthier.governance.card import kept_weights
from luthier.training.state import own_figures

from . import charts, wording
from .chart_parts import Point, smooth
from .facts import Json
from .sections import both

SMOOTH_FROM = 8  # steps; fewer are shown as they are
SOURCES_DRAWN = 6
SOURCES_LISTED = 12

_STOPPED = {"epochs": "all epochs were done", "early": "validation no longer got better, so training stopped early",
            "max_steps": "the wished number of steps was done", "time": "the wished time was spent",
            "tokens": "the wished tokens were spent", "money": "the wished money was spent",
            "diverged": "the loss ran away, so the best weights before it were kept",
            "not_finite": "a loss was no number, so the best weights before it were kept"}  # fmt: skip


def learning(history: Json, spec: Json | None) -> dict[str, Any]:
    """`history` is history.json; `spec` the training's own, with its defaults."""
    steps, validation = history.get("steps") or [], history.get("validation") or []
    kept = kept_weights(history)
    return {
        "steps": len(steps),
        "tokens": show_count(sum(s.get("tokens") or 0 for s in steps)),
        "supervised": show_count(sum(s.get("supervised") or 0 for s in steps)),
        "stopped": _STOPPED.get(history.get("stopped") or "", history.get("stopped")),
        "kept": f"Kept: {kept}." if kept else None,
        "validated": bool(validation),
        "how": how(history, spec),
        "curves": curves(history),
        "small": small(history),
        "figures": figures(history),
        "proof": proof(history),
    }


# -- how it was done ----------------------------------------------------------------------------------------------------


def how(history: Json, spec: Json | None) -> list[dict[str, str]]:
    """What is known of the way: {"name", "value"}."""
    told = []
    if spec:
        ((method, settings),) = spec["method"].items()
        adapter = spec["adapter"]
        told += [("Method", _with(method, settings)), ("What moves", _with(adapter["kind"], adapter))]
    proven = history.get("proof") or {}
    if packing := proven.get("packing"):
        told += [("Number format", packing["dtype"]), ("Fused parts", _fused(proven.get("fused")))]
    return [{"name": name, "value": value} for name, value in told]


def _with(name: str, settings: Json) -> str:
    written = wording.settings(settings)
    return f"{name} ({written})" if written else name


def _fused(found: Json | None) -> str:
    if found is None:
        return "none: weights that are cut across processes are computed plainly"
    if not found["used"]:
        return "none: on this run's rows they differed from the plain model"
    left = ", ".join(f"{part} ({why})" for part, why in (found.get("left") or {}).items())
    return ", ".join(found["parts"]) + (f"; left plain: {left}" if left else "")


# -- curves -------------------------------------------------------------------------------------------------------------


def _watched(history: Json) -> str:
    return (history.get("watched") or {}).get("metric") or "loss"


def curves(history: Json) -> list[dict[str, Any]]:
    """The large drawings: the figure that chose the weights first, where it is not the loss."""
    if not any(s.get("loss") is not None for s in history.get("steps") or ()):
        return []
    metric = _watched(history)
    drawn = [_curve(history, "loss", history.get("unit") or "")]
    if metric != "loss" and any(_points(history.get(part), metric) for part in ("steps", "validation")):
        more = "more" if history["watched"]["mode"] == "max" else "less"
        drawn.insert(0, _curve(history, metric, f"decides which weights are kept: {more} is better"))
    return drawn


def _curve(history: Json, metric: str, beside: str) -> dict[str, Any]:
    training, validation = (_points(history.get(part), metric) for part in ("steps", "validation"))
    lines = [charts.Line("training", training, "raw")] if training else []
    if len(training) >= SMOOTH_FROM:
        lines.append(charts.Line("training, smoothed", _smooth(training), "smooth"))
    if validation:
        lines.append(charts.Line("validation", validation, "validation", True))
    best, by = history.get("best_step"), _watched(history)
    what = "best" if by == "loss" else f"best {_name(by)}"
    mark = (float(best), f"{what}: step {best:,}") if best is not None and validation else None
    label = _told(metric, training, validation, f"{what} at step {best:,}" if mark else None)
    return {
        "name": _capital(_name(metric)),
        "beside": beside,
        "drawing": both(lambda width: charts.lines(label, lines, mark=mark, width=width)),
    }


def _told(metric: str, training: Sequence[Point], validation: Sequence[Point], best: str | None) -> str:
    told = [
        f"{part} {_name(metric)} from {wording.number(points[0][1])} to {wording.number(points[-1][1])}"
        for part, points in (("training", training), ("validation", validation))
        if points
    ]
    return _capital("; ".join([*told, best] if best else told)) + "."


def small(history: Json) -> list[dict[str, Any]]:
    """The small drawings: each source's loss where there are several, and two figures of every step."""
    steps, validation = history.get("steps") or [], history.get("validation") or []
    drawn = []
    for source in sources(history)[:SOURCES_DRAWN]:
        training, validated = (_points(part, source, "groups") for part in (steps, validation))
        lines = [charts.Line("training", _smooth(training), "smooth")] if training else []
        if validated:
            lines.append(charts.Line("validation", validated, "validation", True))
        name = f"Loss of {wording.shorten(source, 40)}"
        drawn.append(_small(name, lines, "line: training; dots: validation"))
    for key, name in (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm")):
        if points := _points(steps, key):
            drawn.append(_small(name, [charts.Line(name, points, "smooth")]))
    return drawn


def _small(name: str, lines: Sequence[charts.Line], beside: str = "") -> dict[str, Any]:
    svg = charts.lines(f"{name} over steps", lines, width=330, height=150, legend=False)
    return {"name": name, "beside": beside, "svg": Markup(svg)}  # noqa: S704 (charts escape their text)


def _points(told: Sequence[Json] | None, name: str, inside: str | None = None) -> list[Point]:
    """(step, value) of a figure, or of the one of that name `inside` another."""
    rows = [(one["step"], (one.get(inside) or {}) if inside else one) for one in told or ()]
    return [(step, values[name]) for step, values in rows if values.get(name) is not None]


def _smooth(points: Sequence[Point]) -> list[Point]:
    return smooth(points, max(2.0, len(points) / 40))


# -- figures ------------------------------------------------------------------------------------------------------------


def sources(history: Json) -> list[str]:
    """Names of the sources whose losses are told apart, sorted; none where there is but one."""
    told = [*(history.get("steps") or ()), *(history.get("validation") or ())]
    return sorted({name for one in told for name in one.get("groups") or ()})


def figures(history: Json) -> dict[str, Any] | None:
    """The method's own figures and each source's loss: of the last step, of the first and of the last validation. None
    where there is nothing beside the loss."""
    steps, validation = history.get("steps") or [], history.get("validation") or []
    moments: list[Mapping[str, Any]] = [
        steps[-1] if steps else {}, validation[0] if validation else {}, validation[-1] if validation else {}
    ]  # fmt: skip
    own = list(dict.fromkeys(name for one in moments for name in own_figures(one)))
    rows = [_row(_name(name), [one.get(name) for one in moments]) for name in own]
    known = sources(history)
    for source in known[:SOURCES_LISTED]:
        rows.append(_row(f"loss of {source}", [(one.get("groups") or {}).get(source) for one in moments]))
    if not rows:
        return None
    whole = _row("loss", [one.get("loss") for one in moments])
    return {"rows": [whole, *rows], "more": max(0, len(known) - SOURCES_LISTED)}


def _row(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    return {"name": name, "values": ["–" if value is None else wording.number(value) for value in values]}


def _name(metric: str) -> str:
    """
    >>> _name("token_accuracy")
    'token accuracy'
    """
    return wording.shorten(metric.replace("_", " "), 40)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- what was proven ----------------------------------------------------------------------------------------------------


def proof(history: Json) -> list[dict[str, str]]:
    """What was proven before the first step: each law, what was found, and what is allowed of it."""
    found = history.get("proof") or {}
    told = []
    if text := found.get("text"):
        told.append(
            _law(
                "Text",
                "what is learnt reads as the model's own chat template writes it",
                f"{text['rows']:,} rows compared",
            )
        )
    if ends := found.get("ends"):
        told.append(
            _law(
                "Ends",
                "every answer's end is learnt, so that the model will stop",
                f"{ends['learnt']:,} of {ends['answers']:,} answers",
            )
        )
    if mask := (found.get("mask") or {}).get("train"):
        told.append(
            _law(
                "Mask",
                "no training row without anything to learn",
                f"{mask['supervised']:,} of {mask['tokens']:,} tokens are learnt ({mask['share']:.1%}); {mask['without']:,} rows without any",
            )
        )
    for key, law in (
        ("packing", "rows packed together learn what they learn alone"),
        ("fused", "fused parts compute what the plain model computes"),
    ):
        if one := found.get(key):
            told.append(_law(key.capitalize(), law, *_agreement(one)))
    return told


_MEASURED = {"loss": "in a row's loss", "gradient": "in the gradient", "parameter": "in one parameter's"}


def _agreement(one: Json) -> tuple[str, str]:
    """What two ways of computing a step differ by, and what is allowed."""
    # Known before every run; parts that differ are taken out, and this says so.
    used = one.get("used", True)
    there = {
        key: where
        for key, where in _MEASURED.items()
        if f"{key}_allowed" in one
        and (one[key] is not None or not used)  # a gradient of nothing is not compared
    }
    found = wording.join([f"{_off(one[key])} {where}" for key, where in there.items()])
    allowed = wording.join([f"{one[f'{key}_allowed']:.0e}" for key in there])
    out = "" if used else "; they differ, so the plain model was trained"
    return f"off by {found}{out}", f"{allowed} ({one['dtype']})"


def _off(value: float | None) -> str:
    return "no finite number" if value is None else f"{value:.1e}"


def _law(name: str, law: str, found: str, allowed: str = "") -> dict[str, str]:
    return {"name": name, "law": law, "found": found, "allowed": allowed}
