"""`luthier server`, and what it takes to let somebody in: on a home, on PostgreSQL, as two processes, backed up and restored."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest
from click.testing import CliRunner

from luthier.app.backup import back_up, restore
from luthier.app.site import Site
from luthier.cli.main import main
from luthier.core.errors import Conflict, DataError, SpecError
from luthier.server.platform import beside


def luthier(*words, code=0):
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == code, done.output
    return done.output


@contextmanager
def started(*words, **environ):
    command = [sys.executable, "-m", "luthier", "server", "start", "--port", "0", "--json", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
    )
    try:
        yield json.loads(process.stdout.readline() or process.communicate(timeout=60)[1])
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in said, said


def test_people_and_keys_by_hand(tmp_path):
    assert "no server's yet" in luthier("org", "list", code=2)
    first = json.loads(luthier("server", "init", "--json"))
    assert "already" in luthier("server", "init", code=2)
    org = luthier("org", "create", "Other").strip()
    project = luthier("project", "create", org, "tickets").strip()
    assert luthier("org", "create", "OTHER", code=5)
    user = luthier("user", "create", "ci", "--scope", project, "--role", "trainer", "--service").strip()
    made = json.loads(
        luthier("key", "create", "--user", user, "--scope", project, "--title", "ci", "--permission", "jobs.read", "--expires-in", "1 day", "--json")
    )  # fmt: skip
    site = Site.open()
    assert site.check(made["key"]).permissions == {"jobs.read"}
    new = json.loads(luthier("key", "rotate", made["id"], "--json"))
    assert site.check(made["key"]) is None and site.check(new["key"]).project == project
    assert new["id"] in luthier("key", "list") and made["key"] not in luthier("key", "show", new["id"])
    luthier("user", "grant", user, "--scope", project, "--role", "viewer")
    assert {line.split()[1] for line in luthier("user", "grants", "--scope", project).splitlines()} == {
        "trainer",
        "viewer",
    }
    luthier("user", "revoke", user, "--scope", project, "--role", "viewer")
    luthier("user", "rename", user, "builder")
    assert "builder" in luthier("user", "list", "--scope", project)
    assert luthier("user", "end", first["user"], code=5)  # the last admin
    luthier("key", "end", new["id"])
    luthier("user", "end", user)
    luthier("user", "erase", user, "--because", "asked to")
    luthier("project", "rename", project, "letters")
    luthier("project", "end", project)
    luthier("org", "rename", org, "Another")
    luthier("org", "end", org)
    assert project not in luthier("project", "list")
    assert luthier("key", "create", "--user", "nobody", "--scope", "site", "--title", "x", code=5)
    assert all(one.entry.actor == "local" for one in site.top.audit.read())


def test_a_server_that_is_started_drained_and_told_of(tmp_path):
    with started() as told:
        assert told["api_key"].startswith("luthier_")
        head = {"authorization": f"Bearer {told['api_key']}"}
        assert httpx.get(f"{told['address']}/luthier/v1/me", headers=head).json()["name"] == "admin"
        assert httpx.get(f"{told['address']}/luthier/v1/me").status_code == 401
    site = Site.open()
    acts = [(one.entry.action, one.entry.outcome) for one in site.top.audit.read()]
    assert [action for action, _ in acts[:2]] == ["serving.started", "site.founded"]
    assert ("request", "denied") in acts and ("serving.stopped", "done") in acts
    (away := tmp_path / "away").mkdir()
    key = str(tmp_path / "audit.pem")
    luthier("audit", "key", key)
    signing = ("--checkpoints-to", str(away), "--checkpoint-key", key)
    with started("--machine", "local-cpu", "--capture", "0", "--keep-for", "1 day", *signing) as again:
        assert again["api_key"] is None
        assert httpx.get(f"{again['address']}/luthier/v1/me", headers=head).status_code == 200
        assert httpx.get(f"{again['address']}/luthier/v1/me").status_code == 401
        [state] = httpx.get(f"{again['address']}/status/data", headers=head).json()["beside"]
        assert state["name"] == "audit_checkpoints" and state["ok"]
    told = luthier("audit", "verify", "--checkpoints", str(away / "site"), "--key", f"{key}.pub", "--json")
    assert (
        json.loads(told)["proven"] == json.loads(told)["entries"] > 0
    )  # that it stopped, and who was denied, is signed too
    assert site.top.audit.read(action="request").__next__().entry.outcome == "denied"


def test_nothing_listens_beyond_this_machine_before_there_is_a_key():
    assert "luthier server init" in luthier("server", "start", "--host", "0.0.0.0", "--port", "0", code=2)
    assert not Site.open().store.accounts.any()  # and no key was made on the way
    luthier("server", "init")
    with started("--host", "0.0.0.0") as told:
        assert told["api_key"] is None and told["address"].startswith("http://0.0.0.0:")
    assert "no rate" in luthier("server", "start", "--calls", "many", code=2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--machine", "none-such"), "no price is known"),
        (("--keep-for", "1 day"), "--capture"),
        (("--capture", "7"), "not between 0 and 1"),
        (("--guard", "nowhere.yaml"), "cannot be read"),
        (("--rate", "often"), "no rate"),
        (("--checkpoints-to", "away"), "need a key and a place"),
        (("--checkpoint-every", "1 hour"), "need a key and a place"),
        (("--checkpoints-to", "away", "--checkpoint-key", "nowhere.pem"), "no private key"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_made(words, told):
    assert told in luthier("server", "start", "--port", "0", *words, code=2)
    assert not Site.open().store.accounts.any()


@pytest.mark.parametrize("where", ["port", "place", "login", "interval"])
def test_a_start_that_fails_makes_no_key_that_nobody_saw(tmp_path, monkeypatch, where):
    key, away = str(tmp_path / "audit.pem"), tmp_path / "away"
    away.mkdir()
    luthier("audit", "key", key)
    words = ["server", "start", "--checkpoints-to", str(away), "--checkpoint-key", key]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if where == "port" else 0
        if where == "place":
            (away / "started").write_text("a file where a folder should be")
        if where == "login":
            (Site.open().top.home / "login.yaml").write_text("providers: 7\n")
        if where == "interval":
            words += ["--checkpoint-every", "1 s"]
        done = CliRunner().invoke(main, [*words, "--port", str(port)])
    told = {
        "port": "in use",
        "place": str(away / "started"),
        "login": "login.yaml",
        "interval": "out of bounds",
    }
    assert done.exit_code != 0 and told[where] in done.output
    assert not Site.open().store.accounts.any()
    assert json.loads(luthier("server", "init", "--json"))["api_key"]


@pytest.mark.postgres
@pytest.mark.slow
def test_two_processes_on_one_postgresql(postgres_url, tmp_path):
    """Started at the same moment: one of them founds the site; what one ends, the other does not take two seconds later."""
    home = {"LUTHIER_HOME": str(tmp_path / "shared"), "LUTHIER_DATABASE": postgres_url}
    command = [sys.executable, "-m", "luthier", "server", "start", "--port", "0", "--json"]
    both = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **home}
        )
        for _ in range(2)
    ]
    try:
        told = [json.loads(one.stdout.readline() or one.communicate()[1]) for one in both]
        (key,) = [one["api_key"] for one in told if one["api_key"]]
        head = {"authorization": f"Bearer {key}"}
        one, two = (f"{each['address']}/luthier/v1" for each in told)
        made = httpx.post(f"{one}/keys", headers=head, json={"title": "x"}).json()
        use = {"authorization": f"Bearer {made['key']}"}
        assert httpx.get(f"{two}/me", headers=use).status_code == 200
        assert httpx.delete(f"{one}/keys/{made['id']}", headers=head).status_code == 200
        time.sleep(2)
        assert [httpx.get(f"{each}/me", headers=use).status_code for each in (one, two)] == [401, 401]
    finally:
        for each in both:
            each.send_signal(signal.SIGTERM)
        for each in both:
            assert "Traceback" not in each.communicate(timeout=60)[1]
    assert [one.returncode for one in both] == [0, 0]
    site = Site.open(home)
    assert len(site.store.accounts.projects()) == 1 and site.top.audit.verify().sound


def test_a_backup_while_it_works_is_a_home_again(tmp_path):
    site = Site.open()
    caller = site.check(site.found())
    source = tmp_path / "a.txt"
    source.write_text("rows")
    entered = site.store.blobs.put(source, "a.txt")
    site.app(caller).audit.served("started", ("a@1",), "here")
    done = back_up(site, tmp_path / "safe")
    site.accounts.create_organisation(site.operator(), "later")
    restored = restore(tmp_path / "safe", tmp_path / "again")
    assert (restored.files, restored.audit_head, restored.projects) == (done.files, done.audit_head, 1)
    again = Site.open({"LUTHIER_HOME": str(tmp_path / "again")})
    assert [one.title for one in again.accounts.organisations(again.operator())] == ["default"]
    assert again.store.blobs.path(entered.sha256).read_text() == "rows"
    assert [one.entry.action for one in again.app(caller).audit.read()] == ["serving.started"]
    assert again.top.audit.verify().sound and again.store.audit.head().sha256 == done.audit_head
    with pytest.raises(Conflict):
        restore(tmp_path / "safe", tmp_path / "again")
    with pytest.raises(Conflict):
        back_up(site, tmp_path / "safe")
    blob = next((tmp_path / "safe" / "blobs").rglob(entered.sha256))
    blob.write_text("other")
    with pytest.raises(DataError, match="damaged"):
        restore(tmp_path / "safe", tmp_path / "third")
    assert not (tmp_path / "third").exists()
    told = json.loads((tmp_path / "safe" / "backup.json").read_text())
    (tmp_path / "safe" / "backup.json").write_text(
        json.dumps({**told, "files": {"../evil": {"sha256": "0" * 64, "size_bytes": 1}}})
    )
    with pytest.raises(DataError, match="no backup"):
        restore(tmp_path / "safe", tmp_path / "third")
    (tmp_path / "safe" / "backup.json").unlink()
    with pytest.raises(DataError, match="no backup"):
        restore(tmp_path / "safe", tmp_path / "third")
    site.store.blobs.path(entered.sha256).chmod(0o644)
    site.store.blobs.path(entered.sha256).write_text("flipped")
    with pytest.raises(DataError, match="damaged"):
        back_up(site, tmp_path / "fourth")


@pytest.mark.postgres
def test_a_backup_of_postgresql_is_its_own_tools_matter(postgres_url, tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_DATABASE": postgres_url})
    with pytest.raises(SpecError, match="own tools"):
        back_up(site, tmp_path / "safe")
    assert not (tmp_path / "safe").exists()


@pytest.mark.postgres
@pytest.mark.slow
def test_a_dump_of_postgresql_is_a_site_again(postgres_server, postgres_url, tmp_path):
    """As docs/server.md has it."""
    folder, run = postgres_server
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_DATABASE": postgres_url})
    caller = site.check(site.found())
    site.app(caller).audit.served("started", ("a@1",), "here")
    name = postgres_url.split("@/")[1].split("?")[0]
    as_who = ("-h", folder, "-U", "luthier")
    dump = folder / f"{name}.dump"
    run("pg_dump", *as_who, "--format=custom", f"--file={dump}", name)
    run("createdb", *as_who, f"{name}again")
    run("pg_restore", *as_who, f"--dbname={name}again", dump)
    again = Site.open(
        {
            "LUTHIER_HOME": str(tmp_path / "again"),
            "LUTHIER_DATABASE": f"postgresql://luthier@/{name}again?host={folder}",
        }
    )
    assert again.accounts.projects(again.operator())[0].id == caller.project
    assert [one.entry.action for one in again.app(caller).audit.read()] == ["serving.started"]
    assert again.top.audit.verify().sound and again.app(caller).audit.verify().sound


class Worker:
    seen: list[str] = []  # noqa: RUF012

    def __init__(self, site):
        self.site = site

    @contextmanager
    def running(self):
        self.seen.append("began")
        yield
        self.seen.append("ended")


def test_what_works_beside_the_routes_is_a_line(monkeypatch, tmp_path):
    Worker.seen.clear()
    monkeypatch.setitem(sys.modules, "luthier_test_worker", sys.modules[__name__])
    monkeypatch.setattr(beside, "WORKERS", ("luthier_test_worker:Worker", "luthier_test_worker:Worker"))
    with beside.working(Site.open({"LUTHIER_HOME": str(tmp_path / "site")})) as models:
        assert models == {} and Worker.seen == ["began", "began"]
    assert Worker.seen == ["began", "began", "ended", "ended"]
