"""The page: facts in, the text of one HTML file out. It fetches nothing, runs nothing, and depends on no clock.

Defence in layers: the template escapes every value; `visible` shows steering characters by number before that; and
a content security policy in the page allows its own style, named by hash, and nothing else. So a row of data cannot
become markup, and if it could it would still have nothing to load or run.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from . import (
    cost_quality,
    fields,
    judge_section,
    learning,
    provenance,
    refined,
    remembered,
    sections,
    win_loss,
    wording,
    worst,
)
from .beside import beside
from .facts import RunFacts
from .verdict import main_metric, verdict

if TYPE_CHECKING:
    from jinja2 import Environment


def render(facts: RunFacts) -> str:
    """The page as text, to be saved as UTF-8. The same facts give the same bytes."""
    measured = facts.report if facts.report and "tuned" in facts.report["systems"] else None
    style = text_of("page.css")
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            facts=facts,
            style=style,
            policy=policy(style),
            verdict=verdict(facts),
            figures=sections.figures(facts),
            gate=_gate(facts),
            before_after=sections.before_after(measured) if measured else None,
            rules=sections.rules(facts.rules, _kept(facts)) if facts.rules else None,
            learning=learning.learning(facts.history, facts.train) if facts.history else None,
            labels=sections.labels(measured, facts.dataset) if measured else None,
            fields=fields.fields(measured) if measured else None,
            judge=judge_section.judge(measured) if measured else None,
            costs=_costs(measured) if measured else None,
            parts=worst.parts(measured) if measured else None,
            beside=beside(measured) if measured else None,
            turned=worst.turned(measured) if measured else [],
            won=_markup(win_loss.drawing(measured)) if measured else None,
            reliability=worst.reliability(measured) if measured else None,
            abstention=worst.abstention(measured) if measured else None,
            refined=refined.refined(measured) if measured else None,
            answers=sections.answers(measured) if measured else [],
            remembered=remembered.remembered(measured) if measured else None,
            private=remembered.private(measured) if measured else [],
            waivers=facts.waivers,
            cautions=list((facts.report or {}).get("cautions") or ()),
            cost=provenance.cost(facts.forecast, facts.actual),
            lineage=provenance.lineage(facts.lineage_nodes, facts.lineage_edges),
            title_of=wording.title,
            splits=[(s, facts.dataset["counts"].get(s, 0)) for s in sections.SPLITS] if facts.dataset else [],
        )
    )


def _markup(svg: str | None) -> Any:
    from markupsafe import Markup

    return None if svg is None else Markup(svg)  # noqa: S704 (charts escape their text)


def policy(style: str) -> str:
    """The content security policy that allows this style and nothing else (CSP level 3, hash sources)."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _costs(report: Any) -> dict[str, Any] | None:
    from markupsafe import Markup

    metric, rows = main_metric(report), cost_quality.table(report)
    svg = cost_quality.draw(report, metric) if metric else None
    return {"svg": Markup(svg) if svg else None, "rows": rows} if rows else None  # noqa: S704


def _gate(facts: RunFacts) -> dict[str, Any] | None:
    if not facts.verdicts:
        return None
    passed = sum(bool(v["passed"]) for v in facts.verdicts)
    waived = sum(bool(v.get("waived")) for v in facts.verdicts)
    n = len(facts.verdicts)
    return {
        "passed": passed == n,
        "n_passed": passed,
        "n": n,
        "waived": waived if passed + waived == n else 0,
    }


def _kept(facts: RunFacts) -> int | None:
    return sum(facts.dataset["counts"].values()) if facts.dataset else None


def text_of(name: str) -> str:
    return files("luthier.app.report").joinpath(name).read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """Of every page here: it escapes, and shows what would steer the display."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else wording.visible(str(value))

    environment = Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clip"] = lambda value, longest=wording.LONGEST: wording.clip(str(value), longest)
    return environment
