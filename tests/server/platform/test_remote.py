"""`luthier remote` and commands at a server: the same output as here, secrets kept, refusals in words."""

import json
import os
import stat

import pytest
from click.testing import CliRunner

from luthier.app.site import Site
from luthier.cli import remotes
from luthier.cli.main import main

ROWS = [
    {"text": f"Message {i}: the {('bill', 'parcel')[i % 2]} again.", "queue": ("billing", "delivery")[i % 2]}
    for i in range(40)
]
RECIPE = """\
name: router
base: tiny
task: {kind: classify, instruction: "Route the message."}
data:
  sources: [{files: rows/*.jsonl, map: {user: text, label: queue}}]
  rules: {quality: [normalize, deduplicate]}
  split: {validation: 0.15, test: 0.25}
"""


@pytest.fixture(scope="module")
def company(tmp_path_factory, at_a_port, allow):
    place = tmp_path_factory.mktemp("company")
    site = Site.open({"LUTHIER_HOME": str(place / "site"), "HOME": str(place)})
    key = site.found()
    allow(site, bases=["known", "tiny"])
    with at_a_port(site) as (url, runner):
        yield url, key, site, runner


@pytest.fixture
def shell(company, tmp_path, monkeypatch):
    url, key, _, _ = company
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LUTHIER_REMOTE", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words, input=None, code=0):
        result = CliRunner().invoke(main, [str(word) for word in words], input=input)
        assert result.exit_code == code, result.output
        assert key not in result.output
        return result

    run("remote", "login", url, "--name", "company", input=f"{key}\n")
    return run


def test_a_key_is_kept_for_its_owner_alone_and_never_shown(shell, company, tmp_path):
    path = tmp_path / "config" / "luthier" / "remotes.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(shell("remote", "list", "--json").stdout) == [
        {"remote": "company", "url": company[0], "project": None, "in_use": False}
    ]
    assert company[1] not in repr(remotes.load({"XDG_CONFIG_HOME": str(tmp_path / "config")}))
    path.chmod(0o644)
    assert "others may read it" in shell("remote", "list", code=2).stderr


def test_a_key_that_opens_nothing_is_not_kept(shell, company):
    refused = shell("remote", "login", company[0], "--name", "other", input="luthier_abcdefgh_no\n", code=2)
    assert "valid key" in refused.stderr
    assert [one["remote"] for one in json.loads(shell("remote", "list", "--json").stdout)] == ["company"]
    assert "2 words were given" in shell("remote", "login", company[0], input="two words\n", code=2).stderr


def test_a_key_by_reference_is_read_each_time(shell, company, monkeypatch, tmp_path):
    monkeypatch.setenv("COMPANY_KEY", company[1])
    shell("remote", "login", company[0], "--name", "byref", "--key-env", "COMPANY_KEY")
    text = (tmp_path / "config" / "luthier" / "remotes.yaml").read_text()
    assert "${COMPANY_KEY}" in text and text.count(company[1]) == 1
    assert json.loads(shell("--remote", "byref", "list", "--json").stdout) == []
    monkeypatch.delenv("COMPANY_KEY")
    assert "COMPANY_KEY is not set" in shell("--remote", "byref", "list", code=2).stderr


def test_which_server_is_meant(shell, monkeypatch):
    assert "no remote 'compani'" in shell("--remote", "compani", "list", code=2).stderr
    assert "nothing has been released" in shell("list").stdout  # this machine
    monkeypatch.setenv("LUTHIER_REMOTE", "company")
    assert "server company is meant" in shell("serve", "router", code=2).stderr
    shell("remote", "use", "company")
    monkeypatch.delenv("LUTHIER_REMOTE")
    assert json.loads(shell("remote", "status", "--json").stdout)["remote"] == "company"
    assert "server company is meant" in shell("chat", "router", "--ask", "hello", code=2).stderr
    assert "nothing has been released" in shell("--remote", "local", "list").stdout
    shell("remote", "logout", "company")
    assert "no server is named" in shell("remote", "status", code=2).stderr


def test_http_beyond_this_machine_is_refused_before_the_key_is_sent(shell):
    refused = shell("remote", "login", "http://luthier.example", input="x\n", code=2)
    assert "would send the key through the network" in refused.stderr


def test_a_long_verb_is_submitted_looked_at_and_prints_as_here(shell, company, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "june.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    here = shell("data", "prepare", "recipe.yaml", "--json")
    afar = shell("--remote", "company", "data", "prepare", "recipe.yaml", "--json")
    assert "job-" in afar.stderr and "at company" in afar.stderr
    assert json.loads(here.stdout) == json.loads(afar.stdout)
    digest = json.loads(here.stdout)["dataset"]
    words = ("data", "search", digest, "parcel", "--limit", "3")
    assert shell(*words).stdout == shell("--remote", "company", *words).stdout
    shell("--remote", "company", "data", "export", digest, "out", "--format", "jsonl")
    assert (tmp_path / "out" / "train.jsonl").read_bytes().startswith(b'{"')
    again = shell("--remote", "company", "data", "export", digest, "out", "--format", "jsonl", code=2)
    assert "already there" in again.stderr


def test_errors_are_those_of_here(shell):
    for words, code in (
        (("show", "nothing"), 5),
        (("list", "datasets"), 2),
        (("rollout", "status", "desk"), 5),
    ):
        here, afar = shell(*words, code=code), shell("--remote", "company", *words, code=code)
        assert here.stderr == afar.stderr and "→" in here.stderr


def test_a_recipe_that_names_places_of_the_server_is_refused(shell, tmp_path):
    for source in ("/etc/passwd.csv", "../other/rows.jsonl", "s3://bucket/rows.jsonl", "${HOME}/rows.csv"):
        (tmp_path / "bad.yaml").write_text(RECIPE.replace("rows/*.jsonl", f'"{source}"'))
        refused = shell("--remote", "company", "data", "prepare", "bad.yaml", code=8)
        assert "may not" in refused.stderr, source
    assert (
        "is a file or an address"
        in shell("--remote", "company", "data", "inspect", "/etc/passwd", code=2).stderr
    )


def test_what_a_server_does_not_take_is_said(shell):
    refused = shell(
        "--remote", "company", "rollout", "promote", "desk", "--because", "because", "--by", "ann", code=2
    )
    assert "a server knows who asks" in refused.stderr
    assert (
        "takes no 'recipe'"
        in shell("--remote", "company", "data", "explain", "x:1", "--recipe", "r.yaml", code=2).stderr
    )


def test_ctrl_c_stops_looking_and_the_job_can_be_followed_and_cancelled(
    shell, company, tmp_path, monkeypatch
):
    runner = company[3]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "june.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:30]))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    runner.held.set()
    try:
        from luthier.sdk import Client

        def interrupted(self, job, **_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Client, "wait", interrupted)
            stopped = shell("--remote", "company", "data", "prepare", "recipe.yaml", code=130)
        job = stopped.stderr.split()[0]
        assert f"luthier remote follow {job}" in stopped.stderr
        cancelled = shell("--remote", "company", "remote", "cancel", job)
        assert "cancelled" in cancelled.stdout
        assert "was cancelled" in shell("--remote", "company", "remote", "follow", job, code=130).stderr
    finally:
        runner.held.clear()
    assert os.environ.get("LUTHIER_REMOTE") is None


def test_the_queue_of_a_server(shell, company, monkeypatch):
    """Printed as on the server's own host."""
    _, _, site, runner = company
    runner.held.set()
    try:
        caller = site.local()
        job = site.jobs.submit(caller, "scripted", {"steps": 1}).id
        for _ in range(2):
            site.jobs.submit(caller, "scripted", {"steps": 2})
        at = ("--remote", "company", "job")

        def here_and_there(*words):
            with monkeypatch.context() as patch:
                patch.setenv("LUTHIER_HOME", str(site.top.home))
                found = shell("job", *words).stdout
            assert shell(*at, *words).stdout == found
            return found

        monkeypatch.setattr("luthier.cli.queue.PAGE", 2)
        assert len(json.loads(here_and_there("list", "--state", "queued", "--newest", "3", "--json"))) == 3
        assert job in here_and_there("list", "--newest", "100")
        assert json.loads(shell(*at, "priority", job, "2", "--json").stdout)["priority"] == 2
        assert json.loads(shell(*at, "pause", job, "--json").stdout)["state"] == "paused"
        assert json.loads(shell(*at, "resume", job, "--json").stdout)["state"] == "queued"
        assert shell(*at, "cancel", job).stdout == f"{job} cancelled\n"
        assert json.loads(here_and_there("show", job, "--json"))["history"] == []
        assert "cancelled" in here_and_there("show", job)
        told = here_and_there("events", job, "--json").splitlines()
        assert json.loads(told[-1])["message"] == "Job cancelled"
        assert here_and_there("events", job, "--follow").count("\n") == len(told)
        assert (
            here_and_there("events", job, "--after", str(json.loads(told[0])["seq"])).count("\n")
            == len(told) - 1
        )
        assert here_and_there("logs", job, "--lines", "5", "--containing", "a & b").strip() == ""
        for nothing in ("job-none", "../me"):  # a word stays a word of the path
            assert shell(*at, "show", nothing, code=5).stdout == ""
        for words in (
            ("work",),
            ("submit", "recipe.yaml"),
            ("schedule", "list"),
            ("abandon", "here", "--gone"),
        ):
            assert "works on this machine" in shell(*at, *words, code=2).stderr
    finally:
        runner.held.clear()
