"""The section of rows beside the task: there where it was measured, hostile text as text, not there otherwise."""

from dataclasses import replace

from luthier.app.report.page import render

SECTION = {
    "rows": {"general": 131, "safety": 80},
    "metrics": {
        "general_accuracy": {"rows": 131, "base": 0.75, "tuned": 0.5, "difference": -0.25, "low": -0.34, "high": -0.16},
        "general_perplexity": {"rows": 15, "base": 20.0, "tuned": 21.0, "difference": 1.0, "low": -0.5, "high": 2.5},
        "overrefused": {"rows": 40, "base": 0.1, "tuned": 0.0, "difference": -0.1, "low": -0.2, "high": -0.02},
        "safety_refused": {"rows": 0, "base": None, "tuned": None, "difference": None, "low": None, "high": None},
    },
    "skills": [{"set": "general", "skill": "arithmetic", "rows": 30, "base": 0.6, "tuned": 0.1}],
    "lost": [{"id": "arithmetic-01", "skill": "arithmetic", "prompt": "7 + 5?", "reference": "12", "base": "12", "tuned": "<b>billing</b>"}],
    "cautions": [],
}  # fmt: skip


def test_the_section_says_what_was_lost(sample):
    facts = sample.classify()
    page = render(replace(facts, report={**facts.report, "general": SECTION}))
    assert "Beside the task" in page and "131 rows of general skills" in page
    assert '<td class="worse">worse</td>' in page and '<td class="better">better</td>' in page
    assert '<td class="unclear">not certain</td>' in page
    assert "&lt;b&gt;billing&lt;/b&gt;" in page and "<b>billing" not in page


def test_without_it_there_is_no_section(sample):
    assert "Beside the task" not in render(sample.classify())
