"""The page of a dataset: figures in, the text of one HTML file out, with the guards of a run's report (page.py): it fetches
nothing, runs nothing, and shows a row's text as text."""

from __future__ import annotations

from luthier.core.artifact import short

from . import data_sections, sections
from .facts import Json
from .page import environment, policy, text_of

STYLE = """
.chart.lengths .train, .chart.balance .train { fill: var(--accent); opacity: .85; }
.chart.balance .validation { fill: var(--wood); opacity: .7; }
.chart.balance .test { fill: var(--grey); }
.chart.lengths g.validation { color: var(--wood); }
.chart.lengths g.test { color: var(--grey); }
.chart.lengths g path { fill: none; stroke: currentColor; stroke-width: 1.5; }
.chart.lengths g circle { fill: var(--page); stroke: currentColor; stroke-width: 1.5; }
.key { font-size: 13px; color: var(--muted); }
.key b { font-weight: 600; }
.key .train { color: var(--accent); }
.key .validation { color: var(--wood); }
.key .test { color: var(--grey); }
.row { padding: 18px 0; border-top: 1px solid var(--faint); break-inside: avoid; }
.row pre { background: var(--raised); padding: 10px 14px; border-radius: 3px; margin: 0 0 8px; max-height: 20em; overflow: auto; }
"""


def render(found: Json) -> str:
    """The page as text, to be saved as UTF-8. The same figures give the same bytes."""
    style = text_of("page.css") + STYLE
    return (
        environment()
        .get_template("data_page.html.j2")
        .render(
            found=found,
            title=found["names"][-1] if found["names"] else f"dataset {short(found['dataset'])}",
            digest=short(found["dataset"]),
            style=style,
            policy=policy(style),
            headline=data_sections.headline(found),
            figures=data_sections.figures(found),
            about=data_sections.about(found),
            lengths=data_sections.lengths(found),
            labels=data_sections.labels(found),
            origins=data_sections.origins(found),
            private=data_sections.private(found),
            families=data_sections.families(found),
            rules=sections.rules(found["rules"], sum(found["rows"].values())),
            splits=[(side, found["rows"].get(side, 0)) for side in sections.SPLITS],
        )
    )
