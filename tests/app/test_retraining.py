"""The whole way once: a trained release, judged traffic, a step that trains anew on old rows and new ones, and a person's word."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from luthier.app.app import App
from luthier.monitoring import reference
from luthier.store.traffic import Exchange, Judgement

MONITOR = """
monitor:
  drift: {every: 1 h}
  retrain: {on: labels, min_labels: 20, replay: 0.5, at_most_every: 0 s, forgives: 0.5}
"""


def test_judged_traffic_becomes_the_next_release(ran, monkeypatch):
    monkeypatch.setattr(reference, "FEWEST", 20)  # few rows are held out here
    recipe = ran.write("recipe.yaml", (ran.folder / "recipe.yaml").read_text() + MONITOR)
    app = App.open({"LUTHIER_HOME": str(ran.home)})
    traffic = app.store.traffic
    for i in range(30):
        queue = ("billing", "delivery", "technical")[i % 3]
        asked = (
            f"Hello number {i}, {('invoice', 'parcel', 'login')[i % 3]} trouble since Monday, kind regards."
        )
        traffic.keep(
            Exchange(f"chatcmpl-{i}", "router", "router@1", "d" * 64, "k", None, [{"role": "user", "content": asked}],
                     [{"text": "billing", "refusal": None}], 0.6, 0, 1_000_000.0 + i)
        )  # fmt: skip
        traffic.judge([Judgement(f"chatcmpl-{i}", 0, None, queue, None, "people", 1_000_100.0)])
    told = ran.luthier("monitor", "step", "router", "--recipe", recipe, "--json")
    assert told.exit_code == 0, told.output
    done = json.loads(told.stdout)
    assert done["looks"][0]["rows"] == 30
    assert done["retrain"]["state"] == "pending", done["retrain"]
    release = app.store.catalog.get("router@2")
    dataset = app.store.folder(app.store.catalog.get(release.parents["dataset"]))
    train = pq.read_table(dataset / "train.parquet").to_pylist()
    new = [row for row in train if row["source"] == "feedback"]
    assert {row["label"] for row in new} <= {"billing", "delivery", "technical"} and len(new) > 10
    assert len(train) - len(new) == 30, "replay 0.5: as many old rows as were judged"
    old_test = pq.read_table(dataset / "test.parquet")["source"].to_pylist().count("rows.jsonl")
    before = app.store.folder(app.store.catalog.get(app.store.catalog.get("router@1").parents["dataset"]))
    assert old_test == pq.ParquetFile(before / "test.parquet").metadata.num_rows, "old test rows stay"
    assert [part["part"] for part in done["retrain"]["parts"]] == ["all", "old", "new"]
    report = app.store.folder(app.store.catalog.get(release.parents["report"]))
    assert "production" in json.loads((report / "report.json").read_text())["systems"]
    approved = ran.luthier("monitor", "decline", "router", "--by", "ann", "--reason", "not yet", "--json")
    assert json.loads(approved.stdout)["state"] == "declined"
