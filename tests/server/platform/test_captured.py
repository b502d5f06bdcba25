"""What projects ask of served models is kept in their own homes, and judged there by whoever asked."""

import gc
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from luthier.app.retention import Retention
from luthier.app.site import Site
from luthier.server.keeping import Keeping
from luthier.server.platform.captured import Captured
from luthier.server.platform.make import create_platform
from luthier.server.served import ServedModel
from luthier.serving.scripted_engine import ScriptedEngine

ASK = {"model": "router", "messages": [{"role": "user", "content": "I am jo@firm.com"}]}


@pytest.fixture
def engine():
    engine = ScriptedEngine()
    engine.load()
    return engine


@pytest.fixture
def open_at(site, engine):
    """A client of one server, which keeps everything."""
    captured = Captured(site)
    model = ServedModel("router", engine, package_digest="0" * 64, release="router@3", created_s=1.0)
    app = create_platform(site, {"router": model}, traffic=Keeping(captured.home, 1.0))
    with TestClient(app, base_url="http://127.0.0.1:1") as client:
        yield client


def bearer(key, project=None):
    return {"authorization": f"Bearer {key}", **({"openai-project": project} if project else {})}


@pytest.fixture
def two(site, first_key, key_of):
    """(project, headers of a key) of two projects of one organisation."""
    who = site.check(first_key)
    other = site.accounts.create_project(site.operator(), who.organisation, "other").id
    return (who.project, bearer(first_key)), (other, bearer(key_of("admin", other)))


def ask(client, headers):
    answer = client.post("/v1/chat/completions", json={**ASK, "store": True}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def listed(client, headers):
    answer = client.post("/luthier/v1/do/traffic.listing", json={"name": "router"}, headers=headers)
    return [one["exchange"]["id"] for one in answer.json()["result"]] if answer.status_code == 200 else []


def test_each_project_keeps_its_own_and_sees_no_others(site, open_at, two):
    (first, mine), (second, theirs) = two
    my_id, their_id = ask(open_at, mine), ask(open_at, theirs)
    assert (listed(open_at, mine), listed(open_at, theirs)) == ([my_id], [their_id])
    shown = open_at.post("/luthier/v1/do/traffic.show", json={"exchange_id": their_id}, headers=mine)
    assert shown.status_code == 404
    stores = {project: site.app_of(project, site.top.actor).store.traffic for project in (first, second)}
    assert set(stores[first].find([my_id, their_id])) == {my_id}
    assert set(stores[second].find([my_id, their_id])) == {their_id}
    assert site.store.traffic.find([my_id, their_id]) == {}


def test_private_values_are_on_no_disk(site, open_at, two):
    [(project, mine), _] = two
    kept = site.app_of(project, site.top.actor).traffic.show(ask(open_at, mine))
    assert kept.exchange.messages == [{"role": "user", "content": "I am [EMAIL_1]"}]
    files = [path for path in site.top.home.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"jo@firm.com" in path.read_bytes()]


def test_who_asked_judges_and_nobody_of_another_project(site, open_at, two, key_of):
    (project, mine), (_, theirs) = two
    told = {"id": ask(open_at, mine), "rating": -1, "correction": "write to al@firm.com"}
    refused = open_at.post("/v1/feedback", json=told, headers=theirs)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "exchange_not_found")
    assert open_at.post("/v1/feedback", json=told, headers=bearer(key_of("viewer"))).status_code == 403
    assert open_at.post("/v1/feedback", json=told, headers=mine).status_code == 200
    found = site.app_of(project, site.top.actor).traffic.show(told["id"])
    assert (found.rating, found.correction) == (-1.0, "write to [EMAIL_2]")


def test_a_key_of_all_projects_says_which(site, open_at, two, key_of):
    [(project, mine), _] = two
    everywhere = key_of("admin", "site")
    mute = open_at.post("/v1/feedback", json={"id": "chatcmpl-1", "rating": 1}, headers=bearer(everywhere))
    assert (mute.status_code, mute.json()["error"]["param"]) == (400, "OpenAI-Project")
    one = ask(open_at, bearer(everywhere, project))
    told = {"id": one, "rating": 1}
    assert open_at.post("/v1/feedback", json=told, headers=bearer(everywhere, project)).status_code == 200
    assert listed(open_at, mine) == [one]


def test_without_capture_nothing_is_stored(site, engine, first_key):
    model = ServedModel("router", engine, package_digest="0" * 64, release=None, created_s=1.0)
    with TestClient(create_platform(site, {"router": model}), base_url="http://127.0.0.1:1") as client:
        answer = client.post("/v1/chat/completions", json={**ASK, "store": True}, headers=bearer(first_key))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "store")


def test_what_is_old_goes_from_every_project(site, open_at, two):
    for _, headers in two:
        ask(open_at, headers)
    assert Retention(Captured(site).homes, 3600.0).step() == 0
    assert all(listed(open_at, headers) for _, headers in two)
    Retention(Captured(site).homes, 1e-6).step()
    assert not any(listed(open_at, headers) for _, headers in two)
    for project, _ in two:
        trail = site.app_of(project, site.top.actor).store.audit.read()
        assert [one.actor for one in trail if one.action == "traffic.removed"] == ["server"]


def test_a_home_that_cannot_be_opened_keeps_no_other_from_it(site, open_at, two, monkeypatch, caplog):
    [(broken, _), (project, headers)] = two
    ask(open_at, headers)
    opened = site.app_of

    def app_of(which, actor):
        if which == broken:
            raise PermissionError(13, "not yours")
        return opened(which, actor)

    monkeypatch.setattr(site, "app_of", app_of)
    Retention(Captured(site).homes, 1e-6).step()
    assert f"removed from {broken}: [Errno 13] not yours" in caplog.text
    trail = opened(project, site.top.actor).store.audit.read()
    assert "traffic.removed" in [one.action for one in trail]


def open_files(home):
    links = list(Path("/proc/self/fd").iterdir())
    return [path for link in links if (path := os.path.realpath(link)).startswith(str(home))]


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="this system does not say which files are open"
)
def test_no_home_is_left_open_and_who_is_at_it_goes_on(tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    project = site.check(site.found()).project
    store = site.app_of(project, site.top.actor).store
    with store.database.transaction() as connection:  # as a request would be in the middle of it
        assert open_files(tmp_path / "site" / "projects")
        store.audit.enter(connection, site.top.actor.act("tested", "before"))
        store.database.rest()
        store.audit.enter(connection, site.top.actor.act("tested", "after"))
    assert [one.subject for one in store.audit.read()] == ["before", "after"]
    gc.collect()  # the connection that was in use went back to a pool that nobody has any more
    Retention(Captured(site).homes, 1e-6).step()
    assert open_files(tmp_path / "site" / "projects") == []
