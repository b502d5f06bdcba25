"""Rules that ask a model: it is a parent of the dataset, and what it answered about a forgotten record is forgotten too."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from luthier.app.app import App
from luthier.core.errors import SpecError
from luthier.server.keys import KeyRing, generate
from luthier.server.openai import create_app
from luthier.server.serve import running
from luthier.server.served import ServedModel
from luthier.serving.engine import Request
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine


def test_the_model_that_is_asked_is_a_parent(workshop: Any) -> None:
    recipe = (workshop.folder / "recipe.yaml").read_text()
    rules = "rules: {quality: [normalize, drop_empty], relevance: [{difficulty: {model: tiny, range: [0, null]}}]}"
    path = workshop.write(
        "recipe.yaml", recipe.replace("rules: {quality: [normalize, drop_empty, deduplicate]}", rules)
    )
    app = App.open({"LUTHIER_HOME": str(workshop.home), "HOME": str(workshop.home)})
    app.recipes.plan(path, probe=False)
    [dataset] = app.store.catalog.all("dataset")
    [model] = app.store.catalog.all("model")
    assert dataset.parents["asked.0"] == model.digest
    assert model.digest in {node["digest"] for node in app.records.lineage(dataset.digest).nodes}
    app.recipes.plan(path, ("data.rules.relevance.0.difficulty.n=20",), probe=False)
    other = next(one for one in app.store.catalog.all("dataset") if one.digest != dataset.digest)
    assert any(
        one["key"].endswith("difficulty.n") for one in app.data.diff(dataset.digest, other.digest)["asked"]
    )

    record = app.data.search(dataset.digest, ["message"], limit=1)["rows"][0]["id"]
    file = sqlite3.connect(workshop.home / "answers.db")
    assert file.execute("SELECT count(*) FROM answers WHERE about = ?", [record]).fetchone() == (1,)
    app.data.forget([f"id={record}"], really=True)
    assert file.execute("SELECT count(*) FROM answers WHERE about = ?", [record]).fetchone() == (0,)


def said(request: Request) -> str:
    return request.messages[-1].content


def test_a_plan_sends_nothing_and_a_run_sends_what_it_said(workshop: Any) -> None:
    """Over the project's own server door, with the scripted engine behind it."""
    engine = ScriptedEngine(
        [
            Rule(
                lambda r, n=n: f"Message {n}:" in said(r),
                Reply(f"About message {n}, could you have a look at it"),
            )
            for n in range(60)
        ],
        slots=2,
    )
    engine.load()
    text, key = generate(frozenset({"chat"}))
    model = ServedModel(
        "writer", engine, package_digest="0" * 64, release="writer@1", created_s=1_700_000_000, waiting=8
    )
    with running(create_app({"writer": model}, KeyRing([key]))) as url:
        wish = f"{{n: 6, likeness: [0, 1], length: [0, 2], endpoint: {{url: '{url}/v1', model: writer, key: '${{WRITER_KEY}}', at_once: 2}}}}"
        recipe = (workshop.folder / "recipe.yaml").read_text()
        rules = f"rules: {{quality: [normalize], quantity: [{{generate: {wish}}}]}}"
        path = workshop.write(
            "recipe.yaml", recipe.replace("rules: {quality: [normalize, drop_empty, deduplicate]}", rules)
        )
        app = App.open({"LUTHIER_HOME": str(workshop.home), "HOME": str(workshop.home), "WRITER_KEY": text})
        plan = app.recipes.plan(path, probe=False)
        assert not engine.requests and plan.training is None
        assert plan.asking is not None and plan.asking["requests"] == 6
        assert "generate would ask writer at 127.0.0.1: at most 6 requests" in plan.notes[0]
        with pytest.raises(SpecError, match="Nothing was asked"):
            app.recipes.profile(path)
        assert not engine.requests
        run = app.recipes.run(path)
        assert len(engine.requests) == 6
        dataset = next(iter(app.store.catalog.all("dataset")))
        found = app.data.search(dataset.digest, ["About message"])
        assert found["matches"] == 6 == found["by_side"]["train"]
        assert app.recipes.plan(path, probe=False).steps[0]["state"] == "there" and len(engine.requests) == 6
        assert run.release
        assert text not in "".join(str(event.data) for event in app.store.ledger.read())
    engine.close()
