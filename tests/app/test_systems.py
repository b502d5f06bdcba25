"""Who is measured, from a recipe: the release in use, candidates, servers; told before anything is spent."""

from __future__ import annotations

import json

import pytest

from luthier.evaluation.testing import serving

AGAINST = "evaluate.against=[base, production]"


def refused(workshop, code, *parts, words=()):
    result = workshop.luthier("run", workshop.folder / "recipe.yaml", *words)
    assert result.exit_code == code, result.output
    for part in ("→", *parts):
        assert part in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def report_of(workshop, done):
    shown = json.loads(workshop.luthier("show", done["digests"]["report"], "--json").stdout)
    from pathlib import Path

    return shown, json.loads((Path(shown["folder"]) / "report.json").read_text())


def test_the_release_in_use_is_the_newest_of_another_model(workshop):
    gate = "evaluate.gate={accuracy: {better_than: production}}"
    refused(
        workshop, 2, "nothing else has been released as 'router' yet", words=["--set", AGAINST, "--set", gate]
    )
    first = workshop.run("--set", AGAINST)
    _, told = report_of(workshop, first)
    assert list(told["systems"]) == ["tuned", "base"]
    assert any(
        line.startswith("production was not measured: nothing has been released") for line in told["cautions"]
    )
    again = workshop.run("--set", AGAINST)
    assert again["made"] == [] and again["release"] == "router@1"

    second = workshop.run("--set", AGAINST, "--set", "train.seed=7")
    shown, told = report_of(workshop, second)
    assert second["release"] == "router@2" and list(told["systems"]) == ["tuned", "base", "production"]
    assert shown["parents"]["production/release"] == first["digests"]["release"]
    assert shown["parents"]["production/model"] == first["digests"]["model"]
    assert workshop.run("--set", AGAINST, "--set", "train.seed=7")["made"] == []
    page = (workshop.home / "reports" / "router@2.html").read_text()
    assert "What an answer costs" in page and "the release in use" in page
    _, before = report_of(workshop, first)
    assert (
        told["systems"]["production"]["metrics"]["accuracy"]
        == before["systems"]["tuned"]["metrics"]["accuracy"]
    )
    # no rows of its own were won or lost by the gate: it is judged against what is in use
    refused(
        workshop,
        7,
        "better than production",
        words=["--set", AGAINST, "--set", "train.seed=7", "--set", gate],
    )


@pytest.mark.parametrize(
    ("against", "code", "parts"),
    [
        ("[router@9]", 5, ["router@9"]),
        ("[{release: '0123456789', name: old}]", 5, ["0123456789"]),
        ("[{endpoint: 'http://10.0.0.1/v1', model: m, name: gpt, allow_host: 10.0.0.1}]", 2,
         ["evaluate.against: gpt: rows would be sent to 10.0.0.1", "redact"]),
        ("[{endpoint: 'http://localhost:9/v1', model: m, name: gpt, key: '${NO_SUCH_KEY}'}]", 2, ["NO_SUCH_KEY is not set"]),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_before_anything_is_made(workshop, against, code, parts):
    refused(workshop, code, *parts, words=["--set", f"evaluate.against={against}"])


AWAY = "endpoint: {url: 'http://10.0.0.1/v1', model: big, allow_host: 10.0.0.1}"
HERE = "endpoint: {url: 'http://localhost:9/v1', model: big"


@pytest.mark.parametrize(
    ("fallback", "gate", "parts"),
    [
        # a rule that redacts rows does nothing for what clients will ask
        (f"{{below: 0.5, {AWAY}}}", "{}", ["what people ask the served model would be sent to 10.0.0.1", "unredacted: true"]),
        (f"{{below: 0.5, {HERE}, key: '${{NO_SUCH_KEY}}'}}}}", "{}", ["NO_SUCH_KEY is not set"]),
        (f"{{below: 0.5, {HERE}}}}}", "{latency: {p95: {at_most: 1 s}}}", ["how long that takes is not measured"]),
        (f"{{below: 0.5, {HERE}}}}}", "{cost: {per_1000: {at_most: 1 USD}}}", ["what that costs in USD is not known"]),
        (f"{{below: 0.5, {HERE}, price: {{input: 1 EUR, output: 1 EUR}}}}}}", "{cost: {per_1000: {at_most: 1 USD}}}",
         ["what that costs in USD is not known"]),
    ],
)  # fmt: skip
def test_a_fallback_that_may_not_or_cannot_be_asked_is_refused_too(workshop, fallback, gate, parts):
    rules = "data.rules={quality: [{redact: pii}]}"
    words = [f"postprocess.fallback={fallback}", f"evaluate.gate={gate}", rules]
    refused(workshop, 2, *parts, words=[word for one in words for word in ("--set", one)])


def test_a_fallback_is_planned_and_paid_for(workshop):
    """Of probabilities none reaches 1, so every row is asked of the server, at its price."""
    with serving(lambda n, body: "billing") as server:
        price = "price: {input: 5 USD, output: 5 USD}"
        wish = f"postprocess.fallback={{below: 1.0, endpoint: {{url: '{server.url}', model: big, {price}}}}}"
        words = ("--set", wish, "--set", "evaluate.against=[base]", "--set", "evaluate.timed_rows=2")
        plan = workshop.luthier("plan", workshop.folder / "recipe.yaml", "--json", *words)
        assert plan.exit_code == 0, plan.output
        [asked] = json.loads(plan.stdout)["asks"]
        assert asked["who"] == "the fallback, big at 127.0.0.1"
        done = workshop.run(*words)
        assert server.requests == asked["requests"]
        # another evaluation of the same answers asks, and pays, nothing
        assert "report" in workshop.run(*words, "--set", "evaluate.seed=3")["made"]
        assert server.requests == asked["requests"]
    _, told = report_of(workshop, done)
    mine, other = told["systems"]["tuned"], told["answers"]["fallback"]
    assert other["asked"] == told["rows"] == asked["requests"]
    here = mine["latency"]["mean_s"] / 3600 * 1000
    spent = other["money"][0] * 1000 / told["rows"]
    base = told["systems"]["base"]
    hourly = base["cost"]["per_1000"] / base["latency"]["mean_s"] * 3600 / 1000
    assert mine["cost"]["per_1000"] == pytest.approx(here * hourly + spent) and spent > 0


def test_a_plan_says_what_would_be_asked_and_a_run_holds_it_against_the_budget(workshop):
    with serving(lambda n, body: "billing") as server:
        entry = (
            f"evaluate.against=[{{endpoint: '{server.url}', model: m, name: gpt, "
            "price: {input: 1 USD, output: 1 USD}}]"
        )
        recipe = workshop.folder / "recipe.yaml"
        plan = workshop.luthier("plan", recipe, "--json", "--set", entry)
        assert plan.exit_code == 0, plan.output
        told = json.loads(plan.stdout)
        [asked] = told["asks"]
        assert asked["who"] == "gpt, m at 127.0.0.1" and asked["requests"] > 5 and asked["host"] is None
        assert any("evaluation asks gpt, m at 127.0.0.1 (answers): at most" in note for note in told["notes"])
        words = ["--set", entry.replace("price:", "budget: {requests: 3}, price:")]
        refused(workshop, 2, "over its limits", "the budget is 3", words=words)
        refused(workshop, 2, "asking may cost", words=["--set", entry, "--set", "budget.money=0.000001 USD"])
        assert server.requests == 0
        done = workshop.run("--set", entry)
        assert server.requests == asked["requests"]
        assert workshop.run("--set", entry)["made"] == []
    _, report = report_of(workshop, done)
    assert report["systems"]["gpt"]["cost"]["currency"] == "USD"


def test_a_rubric_and_the_words_of_people_are_parts_of_what_is_asked(workshop):
    """Another rubric is another evaluation; a fault in its file is told with its line, before anything is made."""
    from luthier.app.app import App
    from luthier.app.recipe import read_recipe
    from luthier.app.systems import measuring
    from luthier.core.errors import SpecError

    words = (
        "task.kind=chat",
        "data.sources.0.map={user: text, assistant: queue}",
        "evaluate.judge={model: tiny, rubric: r.yaml}",
    )
    workshop.write("r.yaml", "- {name: tone, asks: Is it polite?, scale: [0, 1]}\n")
    wish = read_recipe(workshop.folder / "recipe.yaml", words)
    at = App.open({"LUTHIER_HOME": str(workshop.home)}).recipes.context(wish, None)
    one = measuring(wish.recipe, at)
    assert one.judge and [c.name for c in one.judge.criteria] == ["tone"]
    workshop.write("r.yaml", "criteria:\n  - {name: tone, asks: Is it kind?, scale: [0, 1]}\n")
    assert measuring(wish.recipe, at).plain() != one.plain()
    workshop.write("r.yaml", "- {name: tone, aks: Is it kind?}\n")
    with pytest.raises(SpecError, match=r"r.yaml:1: .*did you mean 'asks'"):
        measuring(wish.recipe, at)


CHAT = (
    "task={kind: chat, instruction: Answer.}",
    "data.sources.0.map={user: text, assistant: queue}",
    "evaluate={against: [base], resamples: 200, max_tokens: 4, timed_rows: 0, judge: {model: tiny, rubric: r.yaml, "
    "human: people.csv, rows: 2, probes: 2}}",
)


def test_a_judge_of_this_home_is_a_parent_of_the_report_and_the_plan_counts_its_work(workshop):
    workshop.write("r.yaml", "- {name: tone, asks: Is it polite?, scale: [0, 1]}\n")
    words = [word for one in CHAT for word in ("--set", one)]
    refused(workshop, 3, "people.csv cannot be read", words=words)
    workshop.write("people.csv", "id,verdict,against\nno-such-row,win,basse\n")
    refused(workshop, 2, "compared with 'basse'", "did you mean 'base'?", words=words)
    workshop.write("people.csv", "id,verdict\nno-such-row,1\n")
    plan = json.loads(workshop.luthier("plan", workshop.folder / "recipe.yaml", "--json", *words).stdout)
    [asked] = plan["asks"]
    # 2 rows: a grade of each of 2 systems, both orders of one pair, 2 probes, 1 verdict of people; all of it perhaps twice
    assert asked["requests"] == 2 * (4 + 4 + 2 + 1) and asked["money"] is None
    done = workshop.run(*words)
    shown, told = report_of(workshop, done)
    assert {"judge/model", "judge/human"} <= set(shown["parents"])
    assert shown["parents"]["judge/model"] == done["digests"]["base"]
    assert {"judgements.parquet", "predictions.parquet", "report.json"} == {
        one["path"] for one in shown["files"]
    }
    assert told["judge"]["by"] == "tiny" and told["judge"]["verdicts"] == 10 and told["judge"]["own_kind"]
    assert any("The judge is the base that was tuned" in line for line in told["cautions"])
    assert "What the judge says" in (workshop.home / "reports" / "router@1.html").read_text()
    assert workshop.run(*words)["made"] == []
    gate = "evaluate.gate={judge_score: {at_least: 0.0}}"
    if not told["judge"]["trusted"]:
        refused(workshop, 7, "said by a judge that can be trusted", words=[*words, "--set", gate])


def test_a_gate_on_latency_and_cost_is_measured_and_judged(workshop):
    """No `timed_rows` is written, and nobody but our own systems is measured."""
    gate = "evaluate.gate={latency: {p95: {at_most: 10 min}}, cost: {per_1000: {at_most: 100000 USD}}}"
    unknown = ["--set", gate, "--set", "budget.machine=mine"]
    refused(workshop, 2, "what an hour of this machine costs is not known", words=unknown)
    (workshop.home / "prices.yaml").write_text(
        "prices: [{machine: mine, value: 3.6, currency: USD, source: us, retrieved: 2026-01-01}]\n"
    )
    words = ("--set", "evaluate.against=[base]", "--set", gate, "--set", "budget.machine=mine")
    done = workshop.run(*words)
    assert [(one["metric"], one["passed"]) for one in done["verdicts"]] == [("latency", True), ("cost", True)]
    _, told = report_of(workshop, done)
    mine = told["systems"]["tuned"]
    assert mine["latency"]["rows"] > 0 and mine["latency"]["machine"] in done["verdicts"][0]["reason"]
    assert mine["cost"]["per_1000"] == pytest.approx(mine["latency"]["mean_s"])
    assert workshop.run(*words)["made"] == []

    (workshop.home / "prices.yaml").write_text(
        "prices: [{machine: mine, value: 7.2, currency: USD, source: us, retrieved: 2026-01-02}]\n"
    )
    dearer = workshop.run(*words)
    _, again = report_of(workshop, dearer)
    assert again["systems"]["tuned"]["cost"]["per_1000"] == pytest.approx(2 * mine["cost"]["per_1000"])
    assert again["systems"]["tuned"]["latency"] == mine["latency"]
