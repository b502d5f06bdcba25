"""`luthier policy`, `approval` and `budget` on a server's home, and the examples that go with them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from luthier.app.site import Site
from luthier.cli.main import main
from luthier.governance.site_policy import Effective, loosened, read_policy

EXAMPLES = Path(__file__).parents[2] / "examples" / "server"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "site"))
    monkeypatch.delenv("LUTHIER_KEY", raising=False)
    return Site.open()


@pytest.fixture
def key(site):
    return site.found()


@pytest.fixture
def told(key):
    def told(*words, exit_code=0, key=None):
        done = CliRunner().invoke(main, list(words), env={"LUTHIER_KEY": key})
        assert done.exit_code == exit_code, done.output
        return done.output

    return told


def test_the_examples_are_policies_and_the_narrower_one_tightens():
    site, project = (read_policy((EXAMPLES / f"{name}.yaml").read_text()) for name in ("site", "project"))
    assert loosened(project, Effective((("site", site),))) == []


def test_policies_are_laid_down_shown_and_tried(told, tmp_path):
    assert "version 1" in told(
        "policy", "set", "site", str(EXAMPLES / "site.yaml"), "--because", "first rules"
    )
    told("policy", "set", "project", str(EXAMPLES / "project.yaml"), "--because", "less")
    shown = told("policy", "show")
    assert "s3://company-tickets/2026" in shown and "proj_" in shown
    assert json.loads(told("policy", "get", "project", "--json"))["methods"] == ["sft", "classify"]
    assert "less" in told("policy", "history", "project")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: router\nbase: smollm2-135m-instruct\ntask: {kind: classify}\n"
        "data: {sources: [{files: file-abc}], about: {tags: ['class:internal']}}\n"
        "evaluate: {gate: {macro_f1: {at_least: 0.9, waivable: false}}}\n"
    )
    assert "class internal" in told("policy", "check", str(recipe))
    refused = told("policy", "check", str(recipe), "--set", "data.sources.0.files=/etc/passwd", exit_code=8)
    assert "may not be read" in refused
    (tmp_path / "wide.yaml").write_text("methods: [grpo]")
    assert "not allowed by the site" in told(
        "policy", "set", "project", str(tmp_path / "wide.yaml"), "--because", "x", exit_code=2
    )


def test_budgets_and_what_was_used(told, tmp_path):
    made = json.loads(told("budget", "set", "project", "tokens", "1000", "--alert", "0.9", "--json"))
    assert made["alerts"] == [0.9]
    assert "left 1,000" in told("budget", "list")
    assert "2,000 tokens" in told("budget", "change", made["id"], "--amount", "2000")
    told("budget", "set", "project", "euros", "5", exit_code=2)
    assert told("budget", "usage") == "nothing was used\n"
    file = tmp_path / "usage.csv"
    told("budget", "usage", "--by", "user,day", "--csv", str(file))
    assert file.read_bytes() == b"user,day,unit,amount\r\n"
    assert "there already" in told("budget", "usage", "--csv", str(file), exit_code=2)
    told("budget", "end", made["id"])
    assert "nothing is limited" in told("budget", "list")


def test_whose_word_it_is_says_the_key(told, key, site):
    from luthier.core.artifact import Artifact

    caller = site.check(key)
    catalog = site.app(caller).store.catalog
    catalog.name("router", catalog.record(Artifact("release", "0" * 64, {}, 1, {}, (), {}, 1.0)).digest)
    asked = json.loads(
        told("approval", "ask", "release", "router@1", "--because", "better", "--json", key=key)
    )
    assert "release   router@1" in told("approval", "list", "--state", "open").replace(
        "  release ", "  release "
    )
    assert "a key of his own" in told("approval", "grant", asked["id"], "--because", "fine", exit_code=8)
    assert "yourself" in told("approval", "grant", asked["id"], "--because", "fine", key=key, exit_code=8)
    assert "withdrawn" in told("approval", "withdraw", asked["id"], "--because", "a mistake", key=key)
    assert "opens nothing" in told("approval", "list", key="luthier_none", exit_code=2)
    assert "a mistake" in told("approval", "show", asked["id"])
