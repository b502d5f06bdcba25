"""A run, told on one page that can be sent to anyone: a single HTML file that fetches nothing and runs nothing.

    RunFacts ──sections──▶ what is on the page ──page.html.j2 + charts──▶ text of one file

    facts.py     what a run left, as plain values
    verdict.py   the sentences at the top
    sections.py  facts -> what each section shows, and what is not there
    learning.py  how training went: what was proven, curves, figures, what was kept
    charts.py    numbers -> SVG; chart_parts.py: scales, ticks, text
    wording.py   numbers and text as people read them; hostile text made visible
    beside.py    what the model can still do beside its task
    changes.py   what differs between two texts
    page.py      puts them together

>>> from luthier.app.report.facts import RunFacts
>>> from luthier.app.report.page import render
>>> render(RunFacts(name="ticket-router"))[:15]
'<!doctype html>'
"""
