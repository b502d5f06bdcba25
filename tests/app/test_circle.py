"""The whole circle in small: a topic that nobody was trained on, an alarm, labels, a new run, a rollout that promotes it, and a bad
candidate that is taken back. The same on real rows, over HTTP: examples/learn-again."""

from __future__ import annotations

import json
import time

import pytest

from luthier.app.app import App
from luthier.deployment.evidence import Tally
from luthier.monitoring import reference
from luthier.store.traffic import Exchange, Judgement

HOUR = 3600.0
MONITOR = """
monitor:
  drift: {every: 1 h}
  retrain: {on: drift, min_labels: 30, replay: 0.5, approve: gate, at_most_every: 0 s, forgives: 0.5}
deploy:
  rollout: {canary: [50%], each: 0 s, least: 10}
"""
NEW = "The scanner in the warehouse of hall {i} jams whenever barcodes are smudged or torn."


def ask(app, name, text, release, topic, said, at_s):
    """One exchange, and what somebody says of it."""
    app.store.traffic.keep(
        Exchange(name, "router", release, "d" * 64, "k", None, [{"role": "user", "content": text}],
                 [{"text": said, "refusal": None}], 0.6, 0, at_s)
    )  # fmt: skip
    rating, correction = (1.0, None) if said == topic else (-1.0, topic)
    app.store.traffic.judge([Judgement(name, 0, rating, correction, None, "people", at_s + 1)])


@pytest.mark.slow
def test_the_circle(workshop, monkeypatch):
    monkeypatch.setattr(reference, "FEWEST", 20)  # few rows are held out here
    recipe = (workshop.folder / "recipe.yaml").read_text()
    (workshop.folder / "recipe.yaml").write_text(recipe + MONITOR)
    assert workshop.run()["release"] == "router@1"
    app = App.open({"LUTHIER_HOME": str(workshop.home)})
    old = [json.loads(line) for line in (workshop.folder / "rows.jsonl").read_text().splitlines()]
    begin_s = time.time() // HOUR * HOUR - 6 * HOUR

    def step():
        told = workshop.luthier("monitor", "step", "router", "--folder", workshop.folder, "--json")
        assert told.exit_code == 0, told.output
        return json.loads(told.stdout)

    for i, row in enumerate(old):
        ask(app, f"quiet-{i}", f"{row['text']} ({i})", "router@1", row["queue"], row["queue"], begin_s + i)
    assert step()["retrain"]["state"] == "waiting"
    for i in range(60):
        ask(app, f"new-{i}", NEW.format(i=i), "router@1", "hardware", "technical", begin_s + HOUR + i)
    done = step()
    assert [one["group"] for one in done["looks"][0]["alarms"]], "an alarm"
    assert done["retrain"]["state"] == "handed over", done["retrain"]
    assert "all" in [one["part"] for one in done["retrain"]["parts"]]
    release = app.store.catalog.get("router@2")
    dataset = app.store.folder(app.store.catalog.get(release.parents["dataset"]))
    assert "hardware" in json.loads((dataset / "dataset.json").read_text())["labels"], (
        "a correction brings a label"
    )
    compared = json.loads(workshop.luthier("compare", "router@2", "router@1", "--json").stdout)
    names = {one["metric"] for one in compared["metrics"]}
    assert compared["rows"] > 5 and "macro_f1" in names, "over the old rows, although there is one label more"
    assert not names & {"log_loss", "perplexity"}, "which are of so many labels"

    at = app.rollouts.current("router")
    assert (at.state, at.stable, at.candidate) == ("canary", "router@1", "router@2")
    app.rollouts.observe(at, Tally(requests=10))
    assert app.rollouts.review("router").state == "promoted"

    shuffled = [row | {"queue": old[(i + 1) % len(old)]["queue"]} for i, row in enumerate(old)]
    (workshop.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    (workshop.folder / "recipe.yaml").write_text(recipe)
    assert workshop.run()["release"] == "router@3"
    app.rollouts.start("router@3", by="ann", reason="planted")
    for i in range(30):
        for version, said in (("router@2", "billing"), ("router@3", "delivery")):
            ask(app, f"{version}-{i}", f"Invoice {i} is wrong", version, "billing", said, time.time())
    at = app.rollouts.review("router")
    assert at.state == "rolled_back" and "feedback +100.0%" in at.reason
    assert app.rollouts.answering("router") == "router@2"
    spec = app.monitor.settings("router").retrain
    assert spec is not None and spec.replay == 0.5, "the bad candidate's recipe had none"
    assert app.monitor.show("router")["retrain"]["state"] == "handed over"
