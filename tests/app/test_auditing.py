"""The trail through App and the command line: what verbs enter, what is exported, and what is said of a trail that was changed."""

import json
import sqlite3

import pytest
from click.testing import CliRunner

from luthier.app.acting import Actor
from luthier.app.app import App
from luthier.cli.main import main
from luthier.core.errors import NotFound, SpecError
from luthier.store.traffic import Exchange


@pytest.fixture
def app(tmp_path):
    return App(tmp_path / "home", {}, Actor("local", {"user": "ann"}))


def removed(app, n=1):
    for k in range(n):
        app.store.traffic.keep(
            Exchange(f"chat-{k}", "router", None, "d" * 64, "k", None, [], [], None, 0, 5.0)
        )
        app.traffic.remove(ids=[f"chat-{k}"], why="asked for")


def run(app, *words):
    return CliRunner().invoke(main, ["audit", *words], env={"LUTHIER_HOME": str(app.home)})


def test_removing_traffic_is_entered_with_who_did_it(app):
    removed(app)
    (one,) = app.audit.read(action="traffic.")
    assert (one.entry.actor, one.entry.action, one.person) == ("local", "traffic.removed", {"user": "ann"})
    assert one.entry.data == {"ids": 1, "older_s": None, "of_a_user": False, "exchanges": 1}
    assert list(app.audit.read(action="traffic")) == [] and list(app.audit.read(since_s=2e9)) == []


def test_verify_says_what_vouches_and_what_is_wrong(app, tmp_path):
    pytest.importorskip("cryptography")
    removed(app, 3)
    key, kept = str(tmp_path / "audit.pem"), str(tmp_path / "kept.jsonl")
    assert run(app, "key", key).exit_code == 0
    assert run(app, "checkpoint", "--key", key, "--to", kept).exit_code == 0
    alone = run(app, "verify")
    assert (
        alone.exit_code == 0 and "sound: 3 entries" in alone.output and "give --checkpoints" in alone.output
    )
    vouched = run(app, "verify", "--checkpoints", kept, "--key", f"{key}.pub")
    assert vouched.exit_code == 0 and "up to entry 3 by 1 checkpoints" in vouched.output
    with sqlite3.connect(app.home / "luthier.db") as connection:
        connection.execute("drop trigger audit_no_update")
        connection.execute("update audit set subject = 'x' where seq = 2")
    bad = run(app, "verify", "--checkpoints", kept, "--key", f"{key}.pub", "--json")
    assert bad.exit_code == 1
    told = json.loads(bad.output)
    assert told["sound"] is False and told["faults"][0]["kind"] == "altered" and told["faults"][0]["seq"] == 2
    unsigned = run(app, "checkpoint", "--key", key, "--to", kept)
    assert unsigned.exit_code != 0 and "so it is not signed" in unsigned.output
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 1


def test_a_checkpoint_that_was_cut_off_is_told_and_spoils_no_other(app, tmp_path):
    pytest.importorskip("cryptography")
    removed(app, 3)
    key, kept = str(tmp_path / "audit.pem"), tmp_path / "kept"
    kept.mkdir()
    run(app, "key", key)
    run(app, "checkpoint", "--key", key, "--to", str(kept / "1.jsonl"))
    line = (kept / "1.jsonl").read_text()
    for n, cut in enumerate(("", line[:5], line[:-3], line[:40] + "\0" * 30, "\0" * 30), 2):
        (kept / f"{n}.jsonl").write_text(cut)
    run(app, "checkpoint", "--key", key, "--to", str(kept / "3.jsonl"))
    (kept / "7.jsonl").write_text(line[:-1])  # whole, but for the end of its line
    found = run(app, "verify", "--checkpoints", str(kept), "--key", f"{key}.pub")
    assert found.exit_code == 0 and "up to entry 3 by 3 checkpoints" in found.output
    assert "5 checkpoints were cut off while they were written" in found.output
    for wrong in ("hello", '{"format":"other', line[:-3] + "}", "{}"):
        (kept / "8.jsonl").write_text(wrong)
        assert (
            "is no checkpoint" in run(app, "verify", "--checkpoints", str(kept), "--key", f"{key}.pub").output
        ), wrong


def test_it_is_exported_line_by_line_and_never_over_a_file(app, tmp_path):
    removed(app, 2)
    assert app.audit.export(tmp_path / "a.jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [one["seq"] for one in lines] == [1, 2] and lines[0]["person"] == {"user": "ann"}
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o077 == 0
    assert [one.entry.data for one in app.audit.read(action="audit.exported")] == [{"entries": 2, "after": 0}]
    with pytest.raises(SpecError, match="is there already"):
        app.audit.export(tmp_path / "a.jsonl")
    assert app.audit.export(tmp_path / "b.jsonl", "otlp", after=1) == 2
    (record,) = json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])["resourceLogs"][0][
        "scopeLogs"
    ][0]["logRecords"]
    told = {one["key"]: one["value"] for one in record["attributes"]}
    assert record["severityText"] == "INFO" and told["audit.seq"] == {"intValue": "2"}
    assert told["audit.sha256"] == {"stringValue": lines[1]["sha256"]}


def test_a_person_is_taken_out_and_the_trail_still_verifies(app):
    removed(app, 2)
    with pytest.raises(NotFound, match="names no such person"):
        app.audit.erase(person="bob", because="asked for")
    with pytest.raises(SpecError, match="not said why"):
        app.audit.erase(person="ann", because=" ")
    assert app.audit.erase(person="ann", because="asked for") == 2
    assert [one.person for one in app.audit.read(action="traffic.")] == [None, None]
    assert app.audit.verify().sound and app.audit.verify().erased == 2
    with sqlite3.connect(app.home / "luthier.db") as connection:
        assert connection.execute("select count(*) from audit_people where seq < 3").fetchone() == (0,)


def test_of_somebody_who_was_taken_out_no_byte_is_left(tmp_path):
    """Not in the file and not in the log beside it."""
    app = App(tmp_path / "home", {}, Actor("local", {"user": "somebodyquiterare"}))
    removed(app)
    App(tmp_path / "home", {}, Actor("local", {"user": "ann"})).audit.erase(
        person="somebodyquiterare", because="asked for"
    )
    for path in (tmp_path / "home").rglob("luthier.db*"):
        assert b"somebodyquiterare" not in path.read_bytes()


def test_a_failed_export_leaves_nothing_in_the_way(app, tmp_path, monkeypatch):
    removed(app)
    monkeypatch.setattr(type(app.audit), "read", lambda *_, **__: (_ for _ in ()).throw(OSError("away")))
    with pytest.raises(OSError, match="away"):
        app.audit.export(tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_nonsense_on_the_command_line_is_told(app):
    for words in (["list", "--newest", "9" * 20], ["export", "x", "--after", "9" * 20]):
        assert run(app, *words).exit_code == 2
    assert "not in plain words" in run(app, "erase", "--person", "ann", "--because", "\x1b[31m").output


def test_a_list_of_nothing_and_of_something(app):
    assert "no entries" in run(app, "list").output
    removed(app)
    shown = run(app, "list")
    assert "traffic.removed" in shown.output and "local (ann)" in shown.output
    assert json.loads(run(app, "list", "--json").output)[0]["action"] == "traffic.removed"


def test_what_was_denied_is_entered_with_how_often(app):
    sums = {
        ("invalid_api_key", "GET", "/v1/models", None, None): 7,
        ("x", "POST", "/metrics", "abcdefgh", None): 1,
    }
    app.audit.denied(sums.items())
    nobody, somebody = app.audit.read(action="request")
    assert (nobody.entry.actor, nobody.entry.outcome, nobody.person) == ("nobody", "denied", None)
    assert nobody.entry.data == {"code": "invalid_api_key", "times": 7}
    assert (somebody.entry.actor, somebody.entry.subject) == ("key:abcdefgh", "POST /metrics")


def test_that_something_is_served_is_entered_however_many_names_it_has(app):
    app.audit.served("started", [f"router-{n}" for n in range(100)], "http://127.0.0.1:8000")
    (one,) = app.audit.read(action="serving.")
    assert len(one.entry.subject) == 256 and one.entry.subject.endswith("…")
