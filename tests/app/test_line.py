"""The line from rows to a served answer, on a tiny model: once, twice, changed, stopped, traced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from luthier.app.app import App
from luthier.store import Store


def test_a_recipe_becomes_a_release_that_answers(workshop):
    done = workshop.run()
    assert done["release"] == "router@1"
    assert done["made"] == ["dataset", "base", "model", "calibration", "report", "package", "release"]
    assert set(done["metrics"]) == {"tuned", "base", "base_3shot", "tfidf"}
    said = workshop.luthier("chat", "router", "--ask", "my parcel is late", "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["answer"] in ("billing", "delivery", "technical")
    listed = json.loads(workshop.luthier("list", "--json").stdout)
    assert [row["name"] for row in listed] == ["router@1"]
    shown = json.loads(workshop.luthier("show", "router@1", "--verify", "--json").stdout)
    assert shown["damaged"] == [] and shown["kind"] == "release"
    page = Path(done["report_path"]).read_text(encoding="utf-8")
    assert "<script src" not in page and "http" not in page.split("<body", 1)[0].replace("http-equiv", "")


def test_a_second_run_does_nothing_and_says_so(ran):
    first = ran.done
    events = ran.luthier("list", "run", "--json").stdout
    began = time.monotonic()
    again = ran.luthier("run", ran.folder / "recipe.yaml")
    assert again.exit_code == 0 and "nothing to do: router@1 is up to date" in again.stdout
    assert time.monotonic() - began < 5  # a generous bound; `make bench` holds the real figure
    assert ran.luthier("list", "run", "--json").stdout == events
    assert ran.run()["digests"] == first["digests"]


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (("--set", "evaluate.resamples=300"), ["report", "release"]),
        (("--set", "postprocess.export=[adapter, merged]"), ["package", "release"]),
        (("--set", "train.seed=5"), ["model", "calibration", "report", "package", "release"]),
        (("--set", "data.split.seed=5"), ["dataset", "model", "calibration", "report", "package", "release"]),
        (("--set", "name=other"), ["release"]),
        (("--set", "budget.time=10 h"), []),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_changed_section_reruns_only_what_follows_from_it(ran, change, made):
    assert ran.run(*change)["made"] == made


def test_new_rows_rerun_everything_but_the_base(ran):
    path = ran.folder / "rows.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "One more invoice.", "queue": "billing"}) + "\n")
    assert ran.run()["made"] == ["dataset", "model", "calibration", "report", "package", "release"]


def test_the_same_recipe_gives_the_same_digests_in_another_home(ran, tmp_path, monkeypatch):
    first = ran.done["digests"]
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "elsewhere"))
    assert ran.run()["digests"] == first


def test_the_gate_stops_the_line_with_the_numbers_and_nothing_is_released(workshop):
    result = workshop.luthier(
        "run", workshop.folder / "recipe.yaml", "--set", "evaluate.gate={macro_f1: {at_least: 1.0}}"
    )
    assert result.exit_code == 7
    assert "macro_f1 at least 1" in result.stderr and "report:" in result.stderr
    assert json.loads(workshop.luthier("list", "--json").stdout) == []
    assert json.loads(workshop.luthier("list", "run", "--json").stdout)[0]["state"] == "stopped by the gate"
    assert workshop.run()["made"] == ["package", "release"]  # the bar moved; nothing is measured again


def test_a_plan_spends_nothing_and_a_budget_stops_a_run(workshop):
    plan = workshop.luthier("plan", workshop.folder / "recipe.yaml", "--json")
    assert plan.exit_code == 0, plan.output
    told = json.loads(plan.stdout)
    assert [s["state"] for s in told["steps"]] == ["there", "there", *["to do"] * 5]
    assert told["forecast"]["probed"] and told["forecast"]["peak_bytes"] > 0
    stopped = workshop.luthier("run", workshop.folder / "recipe.yaml", "--set", "budget.time=1 ms")
    assert stopped.exit_code == 2 and "over its limits" in stopped.stderr
    assert json.loads(workshop.luthier("list", "model", "--json").stdout)[0]["digest"]  # the base only
    assert len(json.loads(workshop.luthier("list", "model", "--json").stdout)) == 1


def test_lineage_goes_both_ways(ran):
    done = ran.done
    up = json.loads(ran.luthier("lineage", "router@1", "--rows", "--json").stdout)
    assert {n["kind"] for n in up["nodes"]} == {
        "source",
        "dataset",
        "model",
        "calibration",
        "report",
        "package",
        "release",
    }
    assert up["row_count"] == len(up["rows"]) > 0
    row = up["rows"][0]
    assert row["origin"].startswith("rows.jsonl:")
    down = json.loads(ran.luthier("lineage", f"row:{row['id']}", "--json").stdout)
    assert {
        done["digests"][s] for s in ("dataset", "model", "calibration", "report", "package", "release")
    } <= {n["digest"] for n in down["nodes"]}
    assert down["rows"][0]["split"] == "train" and down["rows"][0]["models"][0]["seen"] == 1
    assert {n["relation"] for n in down["nodes"] if n["kind"] == "report"} == {"trained on it"}
    tested = pq.read_table(
        next(Path(ran.home / "folders" / done["digests"]["dataset"]).glob("test.parquet"))
    )["id"][0].as_py()
    down = json.loads(ran.luthier("lineage", f"row:{tested}", "--json").stdout)
    assert {n["relation"] for n in down["nodes"] if n["kind"] == "report"} == {"measured on it"}


def test_ctrl_c_leaves_a_state_to_go_on_from(workshop):
    long = ("--set", "train.epochs=8", "--set", "train.checkpoint_every=1")
    command = [sys.executable, "-m", "luthier", "run", str(workshop.folder / "recipe.yaml"), *long]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    for line in process.stderr:
        if "step     3" in line:
            process.send_signal(signal.SIGINT)
            break
    said = process.stderr.read()
    assert process.wait(60) == 130
    assert "Run the same command again" in said
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "going on from step" in again.stderr
    store = Store.open(workshop.home)
    told = store.ledger.last(
        kind="actual"
    ).data  # what both runs took together, against the forecast of the whole
    assert (
        told["steps"] == store.ledger.last(kind="forecast").data["steps"]
        and told["forecast_error"]["tokens"] == 0
    )


def test_kill_9_and_run_again_gives_the_digests_of_an_undisturbed_run(workshop, tmp_path, monkeypatch):
    long = ("--set", "train.epochs=4", "--set", "train.checkpoint_every=2")
    command = [sys.executable, "-m", "luthier", "run", str(workshop.folder / "recipe.yaml"), *long]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "step     7" in line:
            process.kill()
            break
    assert process.wait(60) == -signal.SIGKILL
    disturbed = workshop.run(*long)["digests"]
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "elsewhere"))
    assert workshop.run(*long)["digests"] == disturbed


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_an_export_is_a_plain_folder_and_never_overwrites(ran, form):
    target = ran.folder / "out"
    assert ran.luthier("export", "router", target, "--form", form).exit_code == 0
    names = {p.name for p in target.iterdir()}
    assert ("adapter_model.safetensors" if form == "adapter" else "model.safetensors") in names
    again = ran.luthier("export", "router", target, "--form", form)
    assert again.exit_code == 2 and "already there" in again.stderr


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_an_exported_model_keeps_its_head_and_says_who_reads_it(workshop, form):
    from luthier.models.head import head_of
    from luthier.models.weights import load

    done = workshop.run("--set", "train.method=classify")
    target = workshop.folder / "out"
    said = workshop.luthier("export", "router", target, "--form", form)
    assert (
        said.exit_code == 0
        and "head.safetensors is the model's own head: only Luthier reads it" in said.stdout
    )
    tuned = workshop.home / "folders" / done["digests"]["model"]
    assert (target / "head.safetensors").read_bytes() == (tuned / "head.safetensors").read_bytes()
    if form == "merged":
        assert head_of(load(target)).gives.labels == ("billing", "delivery", "technical")


def test_a_fresh_run_makes_everything_anew_and_gives_the_same_release(ran):
    first = ran.done
    again = ran.run("--fresh")
    assert again["made"] == ["dataset", "base", "model", "calibration", "report", "package", "release"]
    assert again["digests"] == first["digests"] and again["release"] == "router@1"


def test_a_fallback_that_cannot_answer_from_here_is_refused_before_anything_is_made():
    from types import SimpleNamespace as Told

    from luthier.app.line import asked_beside
    from luthier.core.errors import SpecError
    from luthier.outputs.spec import FallbackSpec

    package = Told(kind="package", parents={"base": "b"}, summary={"forms": ["gguf-q8"]})
    at = Told(store=Told(catalog=Told(get=lambda one: package)))
    recipe = Told(postprocess=Told(fallback=FallbackSpec(to="big@1")))
    with pytest.raises(SpecError, match="big@1 holds gguf-q8, and none of these answers from here"):
        asked_beside(recipe, at, make=None)
    package.summary["forms"].append("merged")
    assert set(asked_beside(recipe, at, make=None)) == {"fallback", "fallback_base"}


def test_a_row_is_traced_without_what_it_says(ran):
    rows = json.loads(ran.luthier("lineage", "router", "--json").stdout)["rows"]
    told = ran.luthier("lineage", f"row:{rows[0]['id']}", "--json")
    assert told.exit_code == 0, told.output
    [place] = json.loads(told.stdout)["rows"]
    assert set(place) == {"dataset", "id", "split", "origin", "source", "removed", "models"}
    assert json.loads(ran.luthier("data", "explain", rows[0]["id"], "--json").stdout)["found"][0]["content"]


def test_what_a_model_began_from_or_was_merged_of_has_seen_its_rows(ran):
    """A second model is trained on the weights of the first, exported, and on other rows; a third is both merged."""
    app = App.open({"LUTHIER_HOME": str(ran.home)})
    first = app.store.catalog.get(ran.done["release"])
    [row] = json.loads(ran.luthier("lineage", "router", "--json").stdout)["rows"][:1]
    weights = ran.folder / "weights"
    assert ran.luthier("export", "router", weights, "--form", "merged").exit_code == 0
    kept = (ran.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    del kept[int(row["origin"].partition(":")[2]) - 1]
    ran.write("rows.jsonl", "".join(kept))
    second = app.store.catalog.get(ran.run("--set", "base=weights")["release"])
    assert first.parents["model"] in [one.digest for one in app.store.catalog.ancestors(second.digest)]
    ran.write("merge.yaml", "models: [router@1, router@1]\nmethod: {kind: linear}\n")
    merged = json.loads(ran.luthier("merge", ran.folder / "merge.yaml", "--json").stdout)["model"]
    told = app.data.forget([f"id={row['id']}"])
    saw = {one["digest"]: one["saw"] for one in told["models"]}
    assert {first.parents["model"], second.parents["model"], merged} <= {
        digest for digest, n in saw.items() if n
    }
    explained = app.data.explain(row["id"])["found"]
    models = {one["model"] for found in explained for one in found["models"] if one["seen"]}
    assert {second.parents["model"], merged} <= models
