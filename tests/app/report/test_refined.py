"""The page's table of steps: numbers as they are in the report, and hostile texts as text."""

from luthier.app.report.page import environment
from luthier.app.report.refined import refined

HOSTILE = "<script>alert(1)</script>"
REPORT = {
    "answers": {
        "metric": "token_f1",
        "rows": 50,
        "refused": 1,
        "steps": [
            {"step": "json", "changed": 3, "refused": 1, "before": 0.5, "after": 0.625, "notes": {"code fence": 3},
             "examples": [{"id": "a", "before": HOSTILE, "after": None, "reason": "the answer holds no JSON."},
                          {"id": "b", "before": "x {}", "after": "{}", "reason": None}]},
        ],
        "vote": {"samples": 5, "agreement": 0.8, "tied": 2, "first": 0.5, "voted": 0.625},
        "fallback": {"to": "big", "asked": 4, "why": {"refused": 1, "below": 3}, "answered": 4, "before": 0.625, "after": 0.7,
                     "gained": 2, "lost": 1, "tokens_in": 1000, "tokens_out": 20, "money": [0.03, "USD"]},
    }
}  # fmt: skip


def test_nothing_is_shown_where_what_the_model_says_is_the_answer():
    assert refined({"answers": None}) is None
    assert environment().get_template("refined.html.j2").render(refined=None).strip() == ""


def test_every_number_stands_in_the_table():
    told = refined(REPORT)
    assert (told["steps"][0]["before"], told["steps"][0]["after"]) == ("0.500", "0.625")
    page = environment().get_template("refined.html.j2").render(refined=told)
    for text in (
        "code fence: 3",
        "0.625",
        "80 %",
        "2 votes were tied",
        "asked 4 times",
        "1 refused, 3 not sure",
        "0.03 USD",
    ):
        assert text in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
