"""What a plan says and what it says it does not know: several processes, answers that are written, work before the first
step; and that the figures hold each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.app.app import App
from luthier.app.recipe import read_recipe
from luthier.app.running import _forecast_and_actual, run_line

FSDP = "train.parallel={kind: fsdp, processes: 2}", "train.adapter={kind: full}"
DDP = ("train.parallel={kind: ddp, processes: 2}",)
CHAT = 'task={kind: chat, instruction: "Route."}'
GRPO = "train.method={grpo: {rewards: [exact_match], generations: 3, max_tokens: 5}}", CHAT


@pytest.fixture
def plan(workshop):
    """`luthier plan` with these overrides, as its --json and as its text."""

    def run(*overrides, probe=True):
        words = [word for one in overrides for word in ("--set", one)] + ([] if probe else ["--no-probe"])
        told = workshop.luthier("plan", workshop.folder / "recipe.yaml", *words, "--json")
        assert told.exit_code == 0, told.output
        text = workshop.luthier("plan", workshop.folder / "recipe.yaml", *words)
        return json.loads(told.stdout), text.stdout

    return run


def line(text, name):
    return next(one for one in text.splitlines() if one.strip().startswith(name))


def test_a_plan_of_one_process_needs_no_note(plan):
    told, text = plan()
    assert told["notes"] == [] and told["forecast"]["seconds"] > 0
    assert "up to" not in line(text, "tokens") and "about" not in line(text, "tokens")
    assert "at most (measured)" in line(text, "memory")


def test_fsdp_is_planned_by_formula_and_a_limit_of_time_cannot_be_promised(plan):
    told, text = plan(*FSDP, "budget.time=1 h", "budget.money=5 USD", "budget.machine=aws-g6.xlarge")
    assert (told["forecast"]["probed"], told["forecast"]["seconds"], told["forecast"]["money"]) == (
        False,
        None,
        None,
    )
    (note,) = told["notes"]
    assert "2 processes share the work" in note and "time and money are not known" in note
    assert [one.partition(":")[0] for one in told["over_budget"]] == ["time", "money"]
    assert all("cannot be promised" in one for one in told["over_budget"])
    assert "at most by 2 processes: " in line(text, "memory") and "gathered" in line(text, "memory")


def test_ddp_counts_its_memory_twice_and_says_whose_time_it_tells(plan):
    told, text = plan(*DDP)
    (note,) = told["notes"]
    assert "2 processes share the work" in note and "forecast of one process alone" in note
    assert told["forecast"]["seconds"] > 0 and "at most by 2 processes (measured)" in line(text, "memory")
    alone, _ = plan(probe=False)
    both, _ = plan(*DDP, probe=False)
    assert both["forecast"]["peak_bytes"] == 2 * alone["forecast"]["peak_bytes"]
    # A limit that one process keeps to and two do not.
    limit = f"budget.memory={alone['forecast']['peak_bytes'] + 1000}"
    assert plan(limit, probe=False)[0]["over_budget"] == []
    assert plan(limit, *DDP, probe=False)[0]["over_budget"] != []


def test_answers_are_bounded_without_the_probe_and_measured_with_it(plan):
    bound, text = plan(*GRPO, probe=False)
    assert any("3 answers to each row, of up to 5 tokens" in one for one in bound["notes"])
    assert "up to" in line(text, "tokens")
    told, text = plan(*GRPO)
    assert any("taken from the rows of the real steps" in one for one in told["notes"])
    assert "about" in line(text, "tokens") and told["forecast"]["tokens"] < bound["forecast"]["tokens"]


def test_what_a_method_prepares_is_a_note_without_the_probe_and_in_the_time_with_it(plan, workshop):
    pairs = {"text": "user", "chosen": "chosen", "rejected": "rejected"}
    rows = [{"text": f"Message {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    workshop.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    mapped = ", ".join(f"{field}: {column}" for column, field in pairs.items())
    dpo = (f"data.sources=[{{files: pairs.jsonl, map: {{{mapped}}}}}]", "train.method=dpo", CHAT)
    told, _ = plan(*dpo, probe=False)
    assert any(one == "what dpo prepares before the first step is in no figure" for one in told["notes"])
    told, _ = plan(*dpo)
    assert not any("dpo prepares" in one for one in told["notes"])


def test_a_probe_of_another_meaning_is_made_again(plan, monkeypatch):
    from luthier.training import probe

    made = []
    real = probe.probe
    monkeypatch.setattr(probe, "probe", lambda *given: made.append(1) or real(*given))
    plan()  # twice: as JSON and as text
    assert len(made) == 1
    monkeypatch.setattr(probe, "VERSION", probe.VERSION + 1)
    plan()
    assert len(made) == 2


def test_the_memory_of_processes_that_this_one_only_listens_to_is_not_told(workshop):
    app = App(workshop.home, environ={})
    wish = read_recipe(workshop.folder / "recipe.yaml")
    at = app.recipes.context(wish, None)
    run_line(wish, at)
    from luthier.app.line import Look, walk

    there = walk(wish, at, Look(at))
    _, took = _forecast_and_actual(wish, at, there)
    assert took["peak_bytes"] > 0
    parallel = wish.recipe.train.model_validate({"parallel": {"kind": "ddp", "processes": 2}})
    several = replace(wish, recipe=wish.recipe.model_copy(update={"train": parallel}))
    _, took = _forecast_and_actual(several, at, there)
    assert took["peak_bytes"] is None and took["seconds"] > 0


def test_what_a_forecast_holds_is_written_down():
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    from luthier.models.weights import ModelFacts
    from luthier.training.memory import Team, peak_bytes
    from luthier.training.spec import TrainSpec

    facts = ModelFacts(1000, 2, 8, 2, 1, 4, 50, 16, 64, True, "fp32")
    for kind in ("ddp", "fsdp"):
        wish = TrainSpec.model_validate({"parallel": {"kind": kind}, "adapter": {"kind": "full"}})
        for part in peak_bytes(wish, facts, (10, 5), "fp32", team=Team(2)):
            assert f"| {part} |" in page, part
