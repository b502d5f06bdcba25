"""`luthier job ...` for whoever is at the host: thin over site.jobs, so a scripted launcher is enough."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from luthier.app.jobs.launchers.scripted import Scripted
from luthier.app.jobs.reconciler import Reconciler
from luthier.app.site import Site
from luthier.cli.main import main

RECIPE = "name: router\nbase: /srv/models/base\ndata: {sources: [{files: rows.jsonl, map: {user: text, label: queue}}]}\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "site"))
    site = Site.open()
    site.found()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return site


def luthier(*words):
    return CliRunner().invoke(main, ["job", *words])


def plain(*words):
    result = luthier(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_job_from_the_command_line(site, tmp_path):
    job = plain(
        "submit",
        "recipe.yaml",
        "--priority",
        "20",
        "--memory",
        "2 GB",
        "--cores",
        "1",
        "--set",
        "train.epochs=2",
    )
    assert job["resources"] == {"cores": 1, "memory_bytes": 2 * 10**9}
    assert job["wish"] == {"recipe": RECIPE, "sets": ["train.epochs=2"], "folder": str(tmp_path)}
    launcher = Scripted()
    one = Reconciler(site, owner="one", launcher=launcher)
    one.step()
    assert "running" in luthier("list", "--state", "running").stdout
    assert plain("pause", job["id"])["wanted"] == "pause"
    one.step()
    launcher.end(f"{job['id']}/1", {"state": "stopped", "time_s": 1.0})
    one.step()
    shown = luthier("show", job["id"]).stdout
    assert "paused" in shown
    assert "attempt 1: stopped" in shown
    assert plain("resume", job["id"])["state"] == "queued"
    assert plain("priority", job["id"], "-1")["priority"] == -1
    assert luthier("cancel", job["id"]).stdout == f"{job['id']} cancelled\n"
    told = [
        json.loads(line)["message"] for line in luthier("events", job["id"], "--json").stdout.splitlines()
    ]
    assert (told[0], told[-1]) == ("Created job", "Job cancelled")
    assert luthier("events", job["id"], "--follow").stdout.count("\n") == len(told)
    assert plain("logs", job["id"]) == []
    assert plain("show", job["id"])["history"][0]["state"] == "stopped"
    (entry,) = site.store.audit.read(subject=job["id"], action="job.submitted")
    assert entry.actor == "local"


def test_schedules_from_the_command_line(site):
    made = plain(
        "schedule", "add", "nightly", "0 3 * * mon-fri", "recipe.yaml", "--timezone", "Europe/Berlin"
    )
    assert made["enabled"]
    assert "Europe/Berlin" in luthier("schedule", "list").stdout
    assert plain("schedule", "off", made["id"])["next_s"] is None
    assert plain("schedule", "on", made["id"])["next_s"] is not None
    assert plain("schedule", "remove", made["id"])["enabled"] is False
    assert luthier("schedule", "list").stdout == "no schedules\n"


def test_mistakes_are_told_and_change_nothing(site):
    wrong = luthier("submit", "recipe.yaml", "--memory", "much")
    assert (wrong.exit_code, "--memory" in wrong.output) == (2, True)
    assert luthier("submit", "none.yaml").exit_code == 2
    assert luthier("show", "job-none").exit_code == 5
    assert luthier("abandon", "elsewhere").exit_code == 2
    assert plain("abandon", "elsewhere", "--gone") == []
    assert plain("list") == []


def test_without_a_project_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "empty"))
    assert "there are 0 projects" in luthier("list").output


def test_with_a_key_it_is_that_key_who_asks(site, monkeypatch):
    """In its project, with what it may do, and by its user's name."""
    operator = site.local()
    user = site.accounts.create_user(operator, "service", "looker", scope=operator.project, role="viewer")
    viewer = site.accounts.keys.create(operator, scope=operator.project, title="of a viewer", user=user.id)
    monkeypatch.setenv("LUTHIER_KEY", viewer.text)
    assert plain("list") == []
    for words in (
        ("submit", "recipe.yaml"),
        ("cancel", "job-1"),
        ("schedule", "add", "x", "@daily", "recipe.yaml"),
    ):
        refused = luthier(*words)
        assert refused.exit_code != 0 and "does not hold 'jobs.write'" in refused.output, words
    site.accounts.grant(operator, operator.project, user.id, "trainer")
    assert (
        "may not be used" in luthier("submit", "recipe.yaml").output
    )  # whoever is at the host may use any base
    job = site.jobs.submit(operator, "scripted", {})
    assert plain("cancel", job.id)["state"] == "cancelled"
    entry = next(one for one in site.store.audit.read(subject=job.id, action="job.cancel"))
    assert entry.actor == f"key:{viewer.key.id}"
    monkeypatch.setenv("LUTHIER_KEY", viewer.text[:-1])
    assert "opens nothing here" in luthier("list").output
