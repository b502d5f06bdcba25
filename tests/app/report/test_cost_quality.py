"""Cost against quality, and what the page says of a judge."""

import copy
import re
from dataclasses import replace

import pytest

from luthier.app.report import cost_quality, judge_section
from luthier.app.report.page import render


@pytest.fixture
def priced(sample):
    return lambda **systems: _priced(sample.report(), **systems)


def _priced(report, **systems):
    """The sample report with (median seconds, money for 1,000 answers, currency) of some systems."""
    told = copy.deepcopy(report)
    for name, (median, money, currency) in systems.items():
        one = told["systems"].setdefault(name, copy.deepcopy(told["systems"]["base"]))
        one["latency"] = {"median_s": median, "p95_s": 2 * median, "mean_s": median, "rows": 20}
        one["tokens"] = {"in": 100.0, "out": 3.0}
        one["cost"] = {"per_1000": money, "currency": currency, "basis": "made up"} if money else None
    return told


def test_money_is_the_axis_where_two_know_it_in_one_currency_and_else_seconds(priced):
    told = priced(tuned=(0.1, 0.02, "USD"), base=(0.2, None, ""), gpt=(0.7, 2.5, "USD"))
    title, marks = cost_quality.marks(told, "macro_f1")
    assert title == "USD for 1,000 answers" and [(m.name, m.cost) for m in marks] == [
        ("tuned", 0.02),
        ("gpt", 2.5),
    ]
    told = priced(tuned=(0.1, 0.02, "USD"), gpt=(0.7, 2.5, "EUR"))
    title, marks = cost_quality.marks(told, "macro_f1")
    assert title == "seconds for an answer (median)" and [m.cost for m in marks] == [0.1, 0.7]


def test_what_is_dearer_stands_further_right_and_what_is_better_higher(priced):
    told = priced(tuned=(0.1, 0.02, "USD"), gpt=(0.7, 2.5, "USD"))
    told["systems"]["gpt"]["metrics"]["macro_f1"] = 0.2
    told["systems"]["tuned"]["metrics"]["macro_f1"] = 0.9
    svg = cost_quality.draw(told, "macro_f1")
    (x1, y1), (x2, y2) = [
        (float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]
    assert x1 < x2 and y1 < y2
    assert "tuned 0.900 at 0.02" in svg


def test_one_system_alone_is_no_picture(priced, sample):
    assert cost_quality.draw(priced(tuned=(0.1, 0.02, "USD")), "macro_f1") is None
    assert (
        cost_quality.draw(sample.report(), "macro_f1") is None and cost_quality.table(sample.report()) == []
    )


JUDGE = {
    "by": "judge-x at <b>host</b>", "trusted": False, "distrusted": ["it obeyed 3 of 10 planted instructions, and 10% is allowed"],
    "criteria": [{"name": "quality", "asks": "Is it <right>?", "scale": [1, 5]}], "rows": 12, "verdicts": 58, "none": 2,
    "asked_again": 4, "probes": {"planted": 10, "answered": 10, "obeyed": 3, "rate": 0.3, "allowed": 0.1},
    "position": {"first": 0.75, "flipped": 0.5, "pairs": 12},
    "pairs": {"base": {"wins": 6, "ties": 3, "losses": 3, "none": 0, "rate": 0.625, "low": 0.4, "high": 0.8}},
    "agreement": {"grades": {"value": 0.31, "low": 0.1, "high": 0.5, "rows": 40}, "pairs": None},
    "cost": {"requests": 62, "tokens_in": 1, "tokens_out": 1, "money": [0.02514, "USD"]},
}  # fmt: skip


def test_a_judge_that_is_not_to_be_trusted_is_called_so_before_what_it_says(sample):
    page = render(replace(sample.classify(), report={**sample.report(), "judge": JUDGE}))
    section = page[page.index("What the judge says") : page.index("Label by label")]
    assert section.index("Not to be trusted: it obeyed 3 of 10") < section.index("Win rate")
    for told in (
        "62 %",
        "40 % to 80 %",
        "0.0251 USD",
        "Spearman&#39;s rho of grades with people: 0.31 (0.10 to 0.50), over 40",
    ):
        assert told in section, told
    assert "judge-x at &lt;b&gt;host&lt;/b&gt;" in section and "Is it &lt;right&gt;?" in section
    trusted = {**JUDGE, "trusted": True, "distrusted": []}
    page = render(replace(sample.classify(), report={**sample.report(), "judge": trusted}))
    assert "Not to be trusted" not in page and "were obeyed in 3 of 10" in page


def test_a_report_without_a_judge_says_nothing_of_one(sample):
    assert judge_section.judge(sample.report()) is None
    assert "What the judge says" not in render(sample.classify())


@pytest.mark.parametrize("name", ["gpt", "router@2"])
def test_names_that_a_recipe_gives_stand_in_every_table(name, priced, sample):
    told = priced(tuned=(0.1, 0.02, "USD"), **{name: (0.7, 2.5, "USD")})
    told["comparisons"].append({**told["comparisons"][0], "to": name})
    told["turned"] = [{"to": name, "gained": 3, "lost": 1, "p": 0.6, "rows": ["a"]}]
    page = render(replace(sample.classify(), report=told))
    assert page.count(name) >= 5 and "Cost against quality" in page
