"""`luthier rollout`: words, what is printed, JSON, and errors with their exit codes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from luthier.app.app import App
from luthier.cli.main import main


@pytest.fixture
def luthier(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    app = App.open({"LUTHIER_HOME": str(home)})
    for n in (1, 2):
        with app.store.working(str(n) * 64) as (out, _):
            (out / "r.json").write_text(str(n))
            made = app.store.commit("release", str(n) * 64, {"n": n}, 1, {}, out, {})
        app.store.catalog.name("router", made.digest)

    def run(*words, code=0):
        found = CliRunner().invoke(main, ["rollout", *words])
        assert found.exit_code == code, found.output
        assert "Traceback" not in found.output
        return found.output

    return run


def test_a_rollout_by_hand(luthier, tmp_path):
    assert "no name has a rollout" in luthier("status")
    plan = tmp_path / "plan.yaml"
    plan.write_text("canary: [5%, 100%]\nleast: 3\n")
    said = luthier(
        "start", "router", "--because", "june", "--by", "ann", "--plan", str(plan), "--set", "each=10 min"
    )
    assert "router: canary 0.05; router@1 answers, router@2 is tried" in said
    said = luthier("status", "router")
    assert "start by ann" in said and "june" in said and "waits for 600 s and 3 more requests" in said
    told = json.loads(luthier("status", "router", "--json"))
    assert (told["state"], told["share"], told["plan"]["each"]) == ("canary", 0.05, 600)
    assert [one["metric"] for one in told["findings"]] == ["error_rate", "latency", "refusals", "feedback"]
    assert "paused" in luthier("pause", "router") and "canary" in luthier("resume", "router")
    assert "promoted" in luthier("promote", "router", "--because", "fine", "--by", "bob")
    assert "rolled back; router@1 answers" in luthier("rollback", "router")
    history = json.loads(luthier("history", "router", "--json"))
    assert [(h["action"], h["by"] in ("ann", "bob")) for h in history][::3] == [
        ("start", True),
        ("promote", True),
    ]
    assert "by bob" in luthier("history", "router") and "router@1" in luthier("status")
    assert json.loads(luthier("status", "--json"))[0]["answers"] == "router@1"


def test_mistakes(luthier):
    assert "has no rollout" in luthier("promote", "router", "--because", "x", code=5)
    assert "--because" in luthier("start", "router", code=2)
    assert "no key 'canery'" in luthier("start", "router", "--because", "x", "--set", "canery=[1]", code=2)
    luthier("start", "router@2", "--because", "x")
    assert "cannot approve" in luthier("approve", "router", "--because", "x", code=2)
    assert "From here one can: advance" in luthier("start", "router@2", "--because", "x", code=2)
    assert (
        json.loads(luthier("history", "nobody", "--json", code=5).split("error:")[0])["error"]["kind"]
        == "NotFound"
    )


def test_what_is_served_is_recorded_and_taken_over_from(luthier, tmp_path):
    """Two versions come while router@2 is served: by their order alone router@3 would answer everybody at once."""
    from luthier.cli.serving import _router
    from luthier.server.served import ServedModel
    from luthier.serving.scripted_engine import ScriptedEngine

    class Source:
        def load(self, name, ref):
            return ServedModel(name, ScriptedEngine(), package_digest="d" * 64, release=ref)

    app = App.open({"LUTHIER_HOME": str(tmp_path / "home")})
    _router(app, ("router",), Source())  # router@2 is the newest now
    for n in (3, 4):
        with app.store.working(str(n) * 64) as (out, _):
            (out / "r.json").write_text(str(n))
            made = app.store.commit("release", str(n) * 64, {"n": n}, 1, {}, out, {})
        app.store.catalog.name("router", made.digest)
    assert "router@2 answers, router@4 is tried" in luthier("start", "router@4", "--because", "june")
