"""Signed checkpoints that a running server takes outside its home: of every trail, and never silently of none."""

import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from luthier.app.checkpoints import Checkpoints
from luthier.app.site import Site
from luthier.core.errors import SCHEME_EXTRAS, SpecError, StoreError
from luthier.governance.trail import new_key
from luthier.server.platform.make import create_platform

pytest.importorskip("cryptography", reason="cryptography is not installed (pip install 'luthier[audit]')")


@pytest.fixture
def site(tmp_path):
    return Site.open({"LUTHIER_HOME": str(tmp_path / "home"), "BUCKET": "bucket-k3y"})


@pytest.fixture
def founded(site):
    """The first key; its project is the only one."""
    return site.found()


@pytest.fixture
def key(tmp_path):
    new_key(tmp_path / "audit.pem")
    return tmp_path / "audit.pem"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "away").mkdir()
    return tmp_path / "away"


def written(folder):
    return sorted(path.name for path in folder.glob("*.jsonl"))


def test_every_trail_is_signed_where_something_is_new(site, founded, key, place):
    project = site.check(founded).project
    app = site.app_of(project, site.top.actor)
    app.store.audit.append(site.top.actor.act("tested", "one"))
    checkpoints = Checkpoints.of(site, key, str(place), 3600.0)
    assert (checkpoints.ok, checkpoints.last_s) == (True, None)
    with checkpoints.running():
        site.top.audit.served("started", ("platform",), "http://here")
    assert checkpoints.ok and checkpoints.last_s is not None
    assert int(written(place / "site")[-1][:12]) == 2
    [told] = (place / "started").iterdir()
    assert told.suffix == ".txt" and "This is no checkpoint." in told.read_text()
    assert [int(name[:12]) for name in written(place / "projects" / project)] == [1]
    before = written(place / "site")
    checkpoints.step()
    assert written(place / "site") == before
    for trail, folder in ((site.top, place / "site"), (app, place / "projects" / project)):
        found = trail.audit.verify([folder], [key.with_name("audit.pem.pub")])
        assert found.sound and found.proven == found.entries > 0


def test_what_is_not_sound_is_not_signed_and_the_others_are(site, founded, key, place, caplog):
    checkpoints = Checkpoints.of(site, key, str(place), 3600.0)
    site.top.audit.served("started", ("platform",), "http://here")
    checkpoints.step()
    last_s = checkpoints.last_s
    with sqlite3.connect(site.top.home / "luthier.db") as connection:
        connection.execute("drop trigger audit_no_delete")
        connection.execute("delete from audit where seq = 2")
    app = site.app_of(site.check(founded).project, site.top.actor)
    app.store.audit.append(site.top.actor.act("tested", "one"))
    checkpoints.step()
    assert (checkpoints.ok, checkpoints.last_s) == (False, last_s)
    assert "of the site has no new checkpoint: the trail is not sound (truncated" in caplog.text
    assert len(written(place / "site")) == 1
    assert len(list(place.glob("projects/*/*.jsonl"))) == 1


def test_a_place_that_is_gone_is_told_in_log_status_and_metrics(site, founded, key, place, caplog):
    checkpoints = Checkpoints.of(site, key, str(place), 3600.0)
    app = create_platform(site, {}, beside=[checkpoints])
    with TestClient(
        app, base_url="http://127.0.0.1:1", headers={"authorization": f"Bearer {founded}"}
    ) as client:
        checkpoints.step()
        assert client.get("/status/data").json()["beside"] == [
            {"name": "audit_checkpoints", "ok": True, "last_s": checkpoints.last_s}
        ]
        place.rename(place.with_name("unmounted"))
        site.top.audit.served("started", ("platform",), "http://here")
        checkpoints.step()
        assert client.get("/status/data").json()["beside"][0]["ok"] is False
        assert 'luthier_beside_ok{name="audit_checkpoints"} 0.0' in client.get("/metrics").text
        assert "of the site has no new checkpoint" in caplog.text
        place.with_name("unmounted").rename(place)
        checkpoints.step()
        assert client.get("/status/data").json()["beside"][0]["ok"] is True


def test_a_project_that_has_ended_is_signed_up_to_its_last_entry(site, founded, key, place, tmp_path):
    who, by = site.check(founded), site.top.actor
    projects = [site.accounts.create_project(site.operator(), who.organisation, name).id for name in "abc"]
    known, short, gone = (site.app_of(project, by) for project in projects)
    checkpoints = Checkpoints.of(site, key, str(place), 3600.0)
    for app in (known, short, gone):
        app.store.audit.append(by.act("tested", "one"))
    site.accounts.end_project(site.operator(), projects[1])
    site.accounts.end_project(site.operator(), projects[2])
    shutil.rmtree(gone.home)
    checkpoints.step()
    site.accounts.end_project(site.operator(), projects[0])
    known.store.audit.append(by.act("tested", "two"))  # of a job that was still stopping
    short.store.audit.append(by.act("tested", "two"))
    checkpoints.step()
    assert checkpoints.ok
    signed = [[int(name[:12]) for name in written(place / "projects" / project)] for project in projects]
    assert signed == [[1, 2], [1, 2], []]
    assert not gone.home.exists()


def test_what_nobody_looked_at_is_not_signed_at_the_start_either(site, founded, key, place):
    site.top.audit.served("started", ("platform",), "http://here")
    with sqlite3.connect(site.top.home / "luthier.db") as connection:
        connection.execute("drop trigger audit_no_update")
        connection.execute("update audit set subject = 'x' where seq = 1")
    checkpoints = Checkpoints.of(site, key, str(place), 3600.0)
    with checkpoints.running():
        assert len(list((place / "started").iterdir())) == 1
    assert not checkpoints.ok
    assert written(place / "site") == []


def test_the_last_is_signed_also_where_it_ends_with_an_error(site, founded, key, place):
    with pytest.raises(ZeroDivisionError), Checkpoints.of(site, key, str(place), 3600.0).running():
        site.top.audit.served("stopped", ("platform",), "http://here")
        raise ZeroDivisionError
    assert int(written(place / "site")[-1][:12]) == 2


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="this system does not say which files are open"
)
def test_no_project_is_left_open(site, founded, key, place):
    site.app_of(site.check(founded).project, site.top.actor).store.audit.append(
        site.top.actor.act("tested", "one")
    )
    Checkpoints.of(site, key, str(place), 3600.0).step()
    assert len(list(place.glob("projects/*/*.jsonl"))) == 1
    inside = str(site.top.home / "projects")
    assert not [link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link).startswith(inside)]


def test_nobody_is_served_before_the_place_was_tried(site, founded, key, place):
    checkpoints = Checkpoints.of(site, key, str(place), 60.0)
    place.rename(place.with_name("unmounted"))
    with pytest.raises(StoreError), checkpoints.running():
        raise AssertionError("nothing was written, and it went on")


def test_an_object_store_by_its_url(site, founded, key, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setitem(SCHEME_EXTRAS, "memory", "s3")
    checkpoints = Checkpoints.of(site, key, "memory://${BUCKET}/trail/", 60.0)
    checkpoints.step()
    assert checkpoints.ok
    [path] = fsspec.filesystem("memory").glob("/bucket-k3y/trail/site/*.jsonl")
    assert fsspec.filesystem("memory").cat_file(path).startswith(b'{"format":"luthier audit 1"')


@pytest.mark.parametrize(
    ("to", "every_s", "told"),
    [
        ("nowhere", 60.0, "no folder that can be written"),
        ("home", 60.0, "lies in the home"),
        ("home/blobs", 60.0, "lies in the home"),
        ("file:///tmp", 60.0, "cannot be kept at file://"),
        ("https://luthier.example/x", 60.0, "cannot be kept at https://"),
        ("away", 1.0, "out of bounds"),
    ],
)
def test_what_cannot_be_is_told_at_once(site, key, place, tmp_path, to, every_s, told):
    (tmp_path / "home" / "blobs").mkdir(parents=True, exist_ok=True)
    where = to if "://" in to else str(tmp_path / to)
    with pytest.raises(SpecError, match=told):
        Checkpoints.of(site, key, where, every_s)


def test_a_key_that_others_may_read_signs_nothing(site, key, place):
    key.chmod(0o644)
    with pytest.raises(SpecError, match="read by others"):
        Checkpoints.of(site, key, str(place), 60.0)


def test_what_came_since_must_go_on_from_what_was_signed(site, founded, key):
    app = site.top
    app.audit.served("started", ("platform",), "http://here")
    last = app.audit.signed(key)
    assert app.audit.signed(key, last).seq == last.seq == 2
    app.audit.served("stopped", ("platform",), "http://here")
    assert app.audit.signed(key, last).seq == 3
    for wrong in (replace(last, sha256="0" * 64), replace(app.audit.signed(key), sha256="0" * 64)):
        with pytest.raises(SpecError, match="not sound"):
            app.audit.signed(key, wrong)
    with pytest.raises(SpecError, match="truncated at entry 4"):
        app.audit.signed(key, replace(last, seq=4))
