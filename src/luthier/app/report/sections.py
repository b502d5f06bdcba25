"""Facts -> what each section of the page shows. A section that has nothing to show says what is not there.

Only plain values and finished drawings leave here; the template decides no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from luthier.evaluation.spec import METRICS
from luthier.evaluation.systems import ordered

from . import changes, charts, wording
from .facts import Json, RunFacts
from .verdict import correct, find, main_metric, reading

WIDE, NARROW = 900, 346
MOST_LABELS_DRAWN = 30
MOST_LABELS_LISTED = 200
MISTAKES_LISTED = 8
SPLITS = ("train", "validation", "test")
CHARTED = {
    "classify": ("accuracy", "macro_f1", "average_precision", "ece"),
    "chat": ("token_f1", "rouge_l", "chrf", "perplexity"),
    "extract": ("field_f1", "exact_object", "schema_valid", "perplexity"),
}
"""What is drawn of a task that has many metrics; the others stand in a table."""


def both(draw: Callable[[int], str]) -> dict[str, Markup]:
    """The same drawing for a page and for a phone."""
    return {"wide": Markup(draw(WIDE)), "narrow": Markup(draw(NARROW))}  # noqa: S704 (charts escape their text)


# -- figures ------------------------------------------------------------------------------------------------------------


def figures(facts: RunFacts) -> list[dict[str, str]]:
    """The few numbers that a reader looks for first: {"value", "name", "beside"}."""
    shown = []
    report, actual = facts.report or {}, facts.actual or {}
    systems = report.get("systems") or {}
    if "tuned" in systems:
        metric = main_metric(report)
        wanted = [metric] if metric else []
        wanted += [m for m in ("accuracy", "exact_match", "exact_object", "perplexity") if m != metric]
        for name in [m for m in wanted if systems["tuned"]["metrics"].get(m) is not None][:2]:
            beside = (
                "base " + wording.score(name, systems["base"]["metrics"].get(name))
                if "base" in systems
                else ""
            )
            shown.append(
                _figure(wording.score(name, systems["tuned"]["metrics"][name]), wording.title(name), beside)
            )
    if facts.dataset:
        counts = facts.dataset["counts"]
        shown.append(_figure(f"{counts.get('train', 0):,}", "training rows", f"{counts.get('test', 0):,} held out for the test"))  # fmt: skip
    if actual.get("seconds") is not None:
        beside = f"forecast {wording.seconds(facts.forecast.get('seconds'))}" if facts.forecast else ""
        shown.append(_figure(wording.seconds(actual["seconds"]), "time", beside))
    if actual.get("money"):
        beside = f"forecast {wording.money(facts.forecast.get('money'))}" if facts.forecast else ""
        shown.append(_figure(wording.money(actual["money"]), "cost", beside))
    return shown


def _figure(value: str, name: str, beside: str) -> dict[str, str]:
    return {"value": value, "name": name, "beside": beside}


# -- before and after ---------------------------------------------------------------------------------------------------


def before_after(report: Json) -> dict[str, Any]:
    """One small drawing for each metric, and the differences with what may be said of them."""
    systems = report["systems"]
    metrics = [m for m, v in systems["tuned"]["metrics"].items() if v is not None and not _beside(m)]
    if twin := _same_everywhere(systems, "accuracy", "exact_match"):
        metrics.remove("exact_match")
    comparisons = list(report.get("comparisons") or ())
    rivals = [s for s in ordered(systems) if s != "tuned"]
    rows = []
    for metric in metrics:
        found = [(s, find(report, metric, s)) for s in rivals]
        rows += [(metric, _difference(c, s)) for s, c in found if c]
    kind = str((report.get("task") or {}).get("kind"))
    drawn = [m for m in CHARTED.get(kind, metrics) if m in metrics] or metrics
    return {
        "charts": [{"metric": wording.title(m), "lower": not wording.higher_is_better(m),
                    "svg": Markup(_metric_chart(systems, m))} for m in drawn],  # noqa: S704
        "table": _metric_table(systems, metrics),
        "corrected": any(one.get("p_corrected") is not None for one in comparisons),
        "differences": [one for metric, one in rows if metric in drawn],
        "others": [one for metric, one in rows if metric not in drawn],
        "intervals": any(one.get("intervals") for one in systems.values()),
        "confidence": wording.percent(comparisons[0]["confidence"]) if comparisons else None,
        "resamples": comparisons[0].get("resamples") if comparisons else None,
        "seed": comparisons[0].get("seed") if comparisons else None,
        "missing": [wording.system_long(s) for s in ("base", "tfidf") if s not in systems and _applies(s, report)],
        "rows": report["rows"],
        "twin": twin,
    }  # fmt: skip


def _beside(metric: str) -> bool:
    """Whether it is of rows beside the task, which have a section of their own."""
    return metric in METRICS and METRICS[metric].beside is not None


def _metric_table(systems: Json, metrics: Sequence[str]) -> dict[str, Any]:
    """Every metric of every system."""
    names = ordered(systems)
    rows = []
    for metric in metrics:
        found = []
        for name in names:
            low, high = (systems[name].get("intervals") or {}).get(metric) or (None, None)
            within = (
                "" if low is None else f"{wording.score(metric, low, 2)}–{wording.score(metric, high, 2)}"
            )
            value = systems[name]["metrics"].get(metric)
            found.append({"value": "–" if value is None else wording.score(metric, value), "within": within})
        lower = not wording.higher_is_better(metric)
        meaning = METRICS[metric].meaning if metric in METRICS else ""
        rows.append({"metric": wording.title(metric), "lower": lower, "meaning": meaning, "values": found})
    return {"systems": [wording.system(name) for name in names], "rows": rows}


def _same_everywhere(systems: Json, one: str, other: str) -> bool:
    values = [(s["metrics"].get(one), s["metrics"].get(other)) for s in systems.values()]
    return all(a is not None and a == b for a, b in values)


def _applies(system: str, report: Json) -> bool:
    return system == "base" or (report.get("task") or {}).get("kind") in ("classify", "regress")


def _metric_chart(systems: Json, metric: str) -> str:
    dots = []
    for name in ordered(systems):
        value = systems[name]["metrics"].get(metric)
        if value is not None:
            low, high = (systems[name].get("intervals") or {}).get(metric) or (None, None)
            dots.append(charts.Dot(wording.system(name), value, low, high, wording.look(name)))
    ends = [x for d in dots for x in (d.value, d.low, d.high) if x is not None]
    low, high = (0.0, 1.0) if min(ends) >= 0 and max(ends) <= 1 else (min(0.0, *ends), max(ends) * 1.04)
    said = "; ".join(f"{d.label} {wording.score(metric, d.value)}" for d in dots)
    return charts.dot_whisker(
        f"{wording.title(metric)}: {said}", dots, low, high, lambda v: wording.score(metric, v)
    )


_SAID = {"better": "better", "worse": "worse", "unclear": "not certain"}


def _difference(one: Json, rival: str) -> dict[str, Any]:
    metric = one["metric"]

    def show(value: float) -> str:
        text = wording.score(metric, abs(value))
        return text if float(text.replace(",", "")) == 0 else ("+" if value > 0 else wording.MINUS) + text

    return {"metric": wording.title(metric), "to": wording.system(rival), "difference": show(one["difference"]),
            "low": show(one["low"]), "high": show(one["high"]), "reading": reading(one), "said": _SAID[reading(one)],
            "p": "–" if one.get("p_corrected") is None else f"{one['p_corrected']:.2g}",
            "detectable": "–" if one.get("detectable") is None else wording.score(metric, one["detectable"]),
            "rows": one.get("rows")}  # fmt: skip


# -- rules --------------------------------------------------------------------------------------------------------------


def rules(facts: Sequence[Json], kept: int | None = None) -> dict[str, Any]:
    """What each rule did, with its examples, and the funnel. `kept` rows are in the dataset: rules of quantity see only
    those of train, so what the last of them let through is not all."""
    stages = [charts.Bar(r["rule"], r["rows_out"], r["removed"]) for r in facts]
    first, last = (facts[0]["rows_in"], facts[-1]["rows_out"]) if facts else (0, 0)
    last = last if kept is None else kept
    label = f"Rows after each rule: {first:,} came in, {last:,} remain."
    return {
        "first": first,
        "last": last,
        "funnel": both(lambda width: charts.bars(label, stages, width)),
        "rules": [
            {**{k: r.get(k, 0) for k in ("rule", "rows_in", "rows_out", "removed", "changed", "added")},
             "settings": wording.settings(r.get("spec")), "notes": r.get("notes") or [],
             "examples": [_example(e) for e in r["examples"]]}
            for r in facts
        ],
    }  # fmt: skip


def _example(one: Json) -> dict[str, Any]:
    before, after = one["before"] or "", one["after"]
    if after is None:
        return {"id": one["id"], "reason": one["reason"], "before": [changes.Piece("same", wording.clip(before))], "after": None}  # fmt: skip
    old, new = changes.compare(before, after)
    return {"id": one["id"], "reason": one["reason"], "before": old, "after": new}


# -- labels -------------------------------------------------------------------------------------------------------------


def labels(report: Json, dataset: Json | None) -> dict[str, Any] | None:
    """Confusion matrices, the most frequent mistakes, and every label's figures; None for a task without labels."""
    names, systems = report.get("labels"), report["systems"]
    if not names:
        return None
    matrix = systems["tuned"].get("confusion")
    base = systems.get("base", {}).get("confusion")
    drawn = matrix is not None and len(names) <= MOST_LABELS_DRAWN
    return {
        "tuned": Markup(charts.heatmap(_matrix_label("the tuned model", report, "tuned"), names, matrix)) if drawn else None,  # noqa: S704
        "base": Markup(charts.heatmap(_matrix_label("the base model", report, "base"), names, base, small=True)) if drawn and base else None,  # noqa: S704
        "too_many": matrix is not None and not drawn,
        "n": len(names),
        "mistakes": _mistakes(names, matrix) if matrix else [],
        "rows": _per_label(report, dataset),
        "shown": MOST_LABELS_LISTED,
    }  # fmt: skip


def _matrix_label(who: str, report: Json, system: str) -> str:
    counted = correct(report, system)
    said = f" {counted[0]:,} of {counted[1]:,} rows are right." if counted else ""
    return f"Confusion matrix of {who}: rows are the right labels, columns the answers.{said}"


def _mistakes(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    found = [
        (count, names[i], names[j], sum(row))
        for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count
    ]  # fmt: skip
    found.sort(key=lambda m: (-m[0], m[1], m[2]))
    return [{"count": c, "right": a, "said": b, "of": n} for c, a, b, n in found[:MISTAKES_LISTED]]


def _per_label(report: Json, dataset: Json | None) -> list[dict[str, Any]]:
    systems, counts = report["systems"], (dataset or {}).get("labels") or {}
    mine = systems["tuned"].get("per_label") or {}
    others = {
        s: systems[s]["per_label"] for s in ("base", "tfidf") if s in systems and systems[s].get("per_label")
    }
    found = []
    for name in report["labels"]:
        if one := mine.get(name):
            found.append({
                "label": name, "train": counts.get(name, {}).get("train"), "support": one["support"],
                **{k: wording.score(k, one[k], 2) for k in ("precision", "recall", "f1")}, "f1_value": one["f1"],
                **{s: wording.score("f1", per[name]["f1"], 2) if name in per else "" for s, per in others.items()},
            })  # fmt: skip
    return found


# -- answers ------------------------------------------------------------------------------------------------------------


def answers(report: Json) -> list[dict[str, Any]]:
    """The report's examples: question, right answer, and what each system said, marked where it can be."""
    labelled = bool(report.get("labels"))
    found = []
    for one in report.get("examples") or ():
        reference = one["reference"]
        said = [
            {"system": wording.system(s), "key": wording.look(s), "text": wording.clip(text or ""),
             "right": _same(text, reference) if labelled or _same(text, reference) else None}
            for s, text in sorted(one["answers"].items(), key=lambda pair: _rank(pair[0]))
        ]  # fmt: skip
        found.append({"id": one["id"], "prompt": wording.clip(one["prompt"] or ""), "reference": wording.clip(reference or ""),
                      "answers": said, "change": one.get("change")})  # fmt: skip
    return found


def _same(text: str | None, reference: str | None) -> bool:
    return (text or "").split() == (reference or "").split()


def _rank(system: str) -> int:
    order = ["base", "tuned", "base_3shot", "tfidf"]
    return order.index(system) if system in order else len(order)
