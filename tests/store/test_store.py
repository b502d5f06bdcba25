"""The store keeps its promises on both databases, on a local folder and behind fsspec, and through every crash."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from luthier.core.artifact import Artifact
from luthier.core.errors import BeingMade, NotFound, SpecError, StoreError
from luthier.core.event import Event
from luthier.core.testing import arm
from luthier.store import Store
from luthier.store.database import HEAD


def put(store, text="hello", key="a" * 64, kind="dataset", parents=None):
    with store.working(key) as (out, _):
        (out / "sub").mkdir()
        (out / "sub" / "data.txt").write_text(text)
        return store.commit(kind, key, {"text": text}, 1, parents or {}, out, {"rows": 1})


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    return Store.open(tmp_path / "home", database_url=url)


@pytest.fixture(params=["local", "remote"])
def any_blobs(request, tmp_path):
    import fsspec

    url = None
    if request.param == "remote":
        url = f"memory://blobs-{tmp_path.name}"
        request.addfinalizer(lambda: fsspec.filesystem("memory").store.clear())
    return Store.open(tmp_path / "home", blobs_url=url)


def test_an_artifact_goes_in_and_comes_out(any_blobs, tmp_path):
    made = put(any_blobs)
    assert any_blobs.catalog.find("a" * 64) == made
    folder = any_blobs.folder(made)
    assert (folder / "sub" / "data.txt").read_text() == "hello"
    assert not os.stat(folder / "sub" / "data.txt").st_mode & 0o222  # read-only
    assert any_blobs.verify(made) == []
    assert not (tmp_path / "home" / "work" / ("a" * 64)).exists()


def test_records_are_the_same_on_both_databases(store):
    base = put(store, "base", "b" * 64, "model")
    data = put(store, "rows", "d" * 64)
    tuned = put(store, "tuned", "t" * 64, "model", {"base": base.digest, "dataset": data.digest})
    assert next(str(a.spec["text"]) for a in store.catalog.ancestors(tuned.digest)) == "tuned"
    assert {a.digest for a in store.catalog.ancestors(tuned.digest)} == {
        base.digest,
        data.digest,
        tuned.digest,
    }
    assert {a.digest for a in store.catalog.descendants(data.digest)} == {data.digest, tuned.digest}
    first = store.catalog.name("router", data.digest)
    again = store.catalog.name("router", data.digest)
    second = store.catalog.name("router", tuned.digest)
    assert (str(first), str(again), str(second)) == ("router@1", "router@1", "router@2")
    assert store.catalog.get("router").digest == tuned.digest
    assert store.catalog.get("router@1").digest == data.digest
    assert store.catalog.get(tuned.digest[:8]).digest == tuned.digest
    with pytest.raises(NotFound, match="has the versions 1, 2"):
        store.catalog.get("router@9")
    with pytest.raises(NotFound, match="did you mean 'router'"):
        store.catalog.get("ruoter")


def test_history_cannot_be_rewritten(store):
    made = put(store)
    store.catalog.name("router", made.digest)
    store.ledger.append(Event("note", "x"))
    for table in ("artifacts", "files", "names", "events"):
        for statement in (
            f"delete from {table}",
            f"update {table} set {'kind' if table in ('artifacts', 'events') else 'digest'} = 'x'",
        ):
            with (
                pytest.raises(sa.exc.DBAPIError, match="append-only"),
                store.catalog._database.engine.begin() as connection,
            ):
                connection.exec_driver_sql(statement)


def test_events_come_back_in_order_and_filtered(store):
    store.ledger.append(
        *(Event("step", "run-1", {"n": n}) for n in range(2_500)), Event("step", "run-2", {"n": -1})
    )
    assert [e.data["n"] for e in store.ledger.read(subject="run-1")] == list(range(2_500))
    assert store.ledger.last(kind="step").data == {"n": -1}
    middle = list(store.ledger.read(subject="run-1"))[1_000]
    assert next(store.ledger.read(after=middle.seq)).data["n"] == 1_001


def test_an_event_without_a_plain_form_is_refused_and_nothing_is_written(store):
    with pytest.raises(TypeError):
        store.ledger.append(Event("a", "x"), Event("b", "x", {"loss": float("nan")}))
    assert list(store.ledger.read()) == []


def test_the_schema_is_what_the_migrations_make(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    import luthier.store.database as database
    from luthier.store.tables import metadata

    store = Store.open(tmp_path / "home")
    with store.catalog._database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert (
        ScriptDirectory(os.path.join(os.path.dirname(database.__file__), "migrations")).get_current_head()
        == HEAD
    )


def test_a_home_of_a_newer_version_is_left_alone(tmp_path):
    store = Store.open(tmp_path / "home")
    with store.catalog._database.engine.begin() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    with pytest.raises(StoreError, match="newer Luthier"):
        Store.open(tmp_path / "home")


@pytest.mark.parametrize("bad", ["../x", "a/b", "UPPER", "", "x" * 101, "é", ".hidden", "a..b", "a b", "a\n"])
def test_a_name_that_could_be_a_path_or_a_twin_is_refused(tmp_path, bad):
    store = Store.open(tmp_path / "home")
    with pytest.raises(SpecError):
        store.catalog.name(bad, put(store).digest)


def test_a_flipped_bit_is_found(tmp_path):
    store = Store.open(tmp_path / "home")
    made = put(store)
    path = store.blobs.path(made.files[0].sha256)
    os.chmod(path, 0o644)
    path.write_text("jello")
    assert [f.path for f in store.verify(made)] == ["sub/data.txt"]
    with pytest.raises(StoreError, match="damaged"):
        store.folder(made)


def test_the_same_bytes_heal_a_damaged_blob(tmp_path):
    store = Store.open(tmp_path / "home")
    made = put(store)
    store.folder(made)
    path = store.blobs.path(made.files[0].sha256)
    os.chmod(path, 0o644)
    path.write_text("jello")
    assert put(store, key="b" * 64, kind="report").files[0].sha256 == made.files[0].sha256
    assert store.verify(made) == []
    assert put(store).digest == made.digest  # the same artifact made anew: its folder is built anew too
    assert (store.folder(made) / "sub" / "data.txt").read_text() == "hello"


def test_a_reader_never_waits_for_a_writer(tmp_path):
    writer, reader = Store.open(tmp_path / "home"), Store.open(tmp_path / "home")
    made = put(writer)
    with writer.catalog._database.transaction() as connection:
        connection.exec_driver_sql(
            "insert into events (time_s, kind, subject, data) values (0, 'x', 'x', '{}')"
        )
        began = time.monotonic()
        assert reader.catalog.get(made.digest) == made
        assert list(reader.ledger.read()) == []
        assert (
            time.monotonic() - began < 5
        )  # a reader that waited would wait for the 30 s of the busy timeout


def test_a_database_file_that_is_none_is_told(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "luthier.db").write_text("this is not a database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(tmp_path / "home")


def test_a_path_that_leaves_its_artifact_is_refused(tmp_path):
    from luthier.core.artifact import File

    store = Store.open(tmp_path / "home")
    made = put(store)
    evil = Artifact("dataset", "e" * 64, {}, 1, {}, (File("../../evil", made.files[0].sha256, 5),))
    with pytest.raises(StoreError, match="leaves its artifact"):
        store.folder(evil)
    assert not (tmp_path / "home" / "evil").exists()


def test_a_link_left_by_a_stage_is_refused(tmp_path):
    store = Store.open(tmp_path / "home")
    with store.working("a" * 64) as (out, _):
        (out / "link").symlink_to("/etc/passwd")
        with pytest.raises(StoreError, match="not a plain file"):
            store.commit("dataset", "a" * 64, {}, 1, {}, out, {})


def _hold(home, ready, done):
    store = Store.open(home)
    with store.working("a" * 64):
        ready.set()
        done.wait(20)


def test_a_second_process_on_the_same_key_is_told_who_holds_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "home", ready, done))
    process.start()
    try:
        assert ready.wait(30)
        store = Store.open(tmp_path / "home")
        with pytest.raises(BeingMade, match=f"pid {process.pid}"), store.working("a" * 64):
            pass
        put(store, key="b" * 64)  # another key is nobody's business
    finally:
        done.set()
        process.join()
    put(store)


def _append_many(home, who):
    store = Store.open(home)
    for n in range(50):
        store.ledger.append(Event("n", who, {"n": n}))


def test_two_processes_write_one_ledger_without_loss(tmp_path):
    Store.open(tmp_path / "home")
    context = multiprocessing.get_context("spawn")
    crowd = [context.Process(target=_append_many, args=(tmp_path / "home", f"p{i}")) for i in range(2)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    store = Store.open(tmp_path / "home")
    assert [e.data["n"] for e in store.ledger.read(subject="p0")] == list(range(50))
    assert [e.data["n"] for e in store.ledger.read(subject="p1")] == list(range(50))


DIES = """
import sys
from pathlib import Path
from luthier.core.testing import arm
from luthier.store import Store
store = Store.open(Path(sys.argv[1]))
with arm(sys.argv[2], at_pass=int(sys.argv[3])), store.working("a" * 64) as (out, scratch):
    (scratch / "kept.txt").write_text("kept")
    for n in range(3):
        (out / f"{n}.txt").write_text(str(n))
    store.commit("dataset", "a" * 64, {}, 1, {}, out, {})
"""


@pytest.mark.parametrize("point", ["files.fsync", "blobs.link", "blobs.rename", "store.record"])
def test_a_kill_at_any_moment_leaves_a_readable_store_and_the_work_goes_on(tmp_path, point):
    home = tmp_path / "home"
    earlier = put(Store.open(home), "earlier", "e" * 64)
    passes, died = 0, True
    while died:
        passes += 1
        died = (
            subprocess.run(
                [sys.executable, "-c", DIES, str(home), point, str(passes)], check=False
            ).returncode
            == -9
        )
        store = Store.open(home)
        assert store.verify(store.catalog.get(earlier.digest)) == []
        if died:
            assert store.catalog.find("a" * 64) is None
            assert (home / "work" / ("a" * 64) / "scratch" / "kept.txt").read_text() == "kept"
    assert passes > 1
    made = store.catalog.find("a" * 64)
    assert [f.path for f in made.files] == ["0.txt", "1.txt", "2.txt"]
    assert store.verify(made) == []


@pytest.mark.parametrize("point", ["files.fsync", "blobs.link", "blobs.rename"])
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, point):
    store = Store.open(tmp_path / "home")
    with (
        arm(point, OSError(28, "No space left on device")),
        pytest.raises(StoreError, match="is full") as caught,
    ):
        put(store)
    assert "run the same command again" in str(caught.value)
    assert store.verify(put(store)) == []
    assert not list((tmp_path / "home").rglob("*.partial"))


def test_a_home_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        Store.open(tmp_path / "home")


@pytest.mark.parametrize(("url", "part"), [("mysql://x", "not a database Luthier"), ("nonsense", "not a database URL"),
                                            ("postgresql://u:${PGPW}@127.0.0.1:1/x", "failed"),
                                            ("postgresql://u:hunter2@127.0.0.1:1/x", "failed")])  # fmt: skip
def test_a_bad_database_url_is_refused_without_its_secret(tmp_path, url, part):
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / "home", database_url=url, environ={"PGPW": "hunter2"})
    assert part in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_copy_is_made_where_hard_links_are_not_to_be_had(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    store = Store.open(tmp_path / "home")
    monkeypatch.setattr(os, "link", refuse)
    made = put(store)
    assert (store.folder(made) / "sub" / "data.txt").read_text() == "hello"
    shutil.rmtree(store.folder(made))
    assert store.verify(made) == []
