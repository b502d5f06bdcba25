"""Rules that ask a model: it is a parent of the dataset, and what it answered about a forgotten record is forgotten too."""

from __future__ import annotations

import sqlite3
from typing import Any

from luthier.app.app import App


def test_the_model_that_is_asked_is_a_parent(workshop: Any) -> None:
    recipe = (workshop.folder / "recipe.yaml").read_text()
    rules = "rules: {quality: [normalize, drop_empty], relevance: [{difficulty: {model: tiny, range: [0, null]}}]}"
    path = workshop.write(
        "recipe.yaml", recipe.replace("rules: {quality: [normalize, drop_empty, deduplicate]}", rules)
    )
    app = App.open({"LUTHIER_HOME": str(workshop.home), "HOME": str(workshop.home)})
    app.plan(path, probe=False)
    [dataset] = app.store.catalog.all("dataset")
    [model] = app.store.catalog.all("model")
    assert dataset.parents["asked.0"] == model.digest
    assert model.digest in {node["digest"] for node in app.lineage(dataset.digest).nodes}
    app.plan(path, ("data.rules.relevance.0.difficulty.n=20",), probe=False)
    other = next(one for one in app.store.catalog.all("dataset") if one.digest != dataset.digest)
    assert any(
        one["key"].endswith("difficulty.n") for one in app.data.diff(dataset.digest, other.digest)["asked"]
    )

    record = app.data.search(dataset.digest, ["message"], limit=1)["rows"][0]["id"]
    file = sqlite3.connect(workshop.home / "answers.db")
    assert file.execute("SELECT count(*) FROM answers WHERE about = ?", [record]).fetchone() == (1,)
    app.data.forget([f"id={record}"], really=True)
    assert file.execute("SELECT count(*) FROM answers WHERE about = ?", [record]).fetchone() == (0,)
