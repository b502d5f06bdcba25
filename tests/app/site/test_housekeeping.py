"""What nobody needs any more goes by the clock; what somebody may still need stays."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from luthier.app import housekeeping
from luthier.app.housekeeping import (
    CLEAN_EVERY_S,
    DELIVERIES_S,
    IDEMPOTENCY_S,
    LOGS_S,
    WORKING_S,
    Housekeeping,
)
from luthier.app.jobs.launchers.local import hold
from luthier.app.jobs.reconciler import folder_of
from luthier.app.jobs.schedules import fire_due
from luthier.app.webhooks import Webhooks
from luthier.core.errors import NotFound, StoreError
from luthier.store.tables import deliveries, idempotency, jobs, webhooks
from luthier.store.webhooks import TYPES

BOTH = pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)
DAY_S = 86_400.0


@pytest.fixture
def later(site):
    """A pass that comes so much later."""
    keeper = Housekeeping(site, clock=lambda: time.time() + late[0])
    late = [0.0]

    def step(seconds):
        late[0] = seconds
        keeper.step()

    return step


def count(site, table):
    with site.store.database.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


@BOTH
def test_requests_are_known_for_a_day_at_least_and_those_of_a_late_schedule_until_it_moves_on(
    site, admin, later
):
    once = ("monday", "0" * 64)
    first = site.jobs.submit(admin, "fine_tune", {}, once=once)
    nightly = site.jobs.schedules.add(admin, "nightly", "@daily", "fine_tune", {})
    due_s = nightly.next_s
    fire_due(site, due_s)
    with site.store.database.transaction() as connection:  # as if it had died before it moved on
        from luthier.store.tables import schedules

        connection.execute(schedules.update().values(next_s=time.time() - 1))
    assert count(site, idempotency) == 2
    later(DAY_S + 60)
    assert site.jobs.submit(admin, "fine_tune", {}, once=once).id == first.id
    later(IDEMPOTENCY_S + 2 * CLEAN_EVERY_S)
    assert count(site, idempotency) == 1
    assert site.jobs.submit(admin, "fine_tune", {}, once=once).id != first.id
    with site.store.database.transaction() as connection:
        connection.execute(schedules.update().values(next_s=due_s + DAY_S))
    later(IDEMPOTENCY_S + DAY_S)
    assert count(site, idempotency) == 0
    assert count(site, jobs) == 3


@BOTH
def test_deliveries_go_with_their_webhook_or_when_they_are_old(site, admin, later):
    hooks = [
        Webhooks(site).create(admin, title=name, url="https://hooks.example/in", events=TYPES)[0]
        for name in ("stays", "ends")
    ]
    waits = site.jobs.submit(admin, "fine_tune", {})
    site.jobs.ask(admin, waits.id, "cancel")
    Webhooks(site).end(admin, hooks[1].id)
    later(60)
    assert count(site, deliveries) == 2
    later(DAY_S + 2 * CLEAN_EVERY_S)
    [left] = Webhooks(site).deliveries(admin, hooks[0].id)
    assert (left.state, count(site, deliveries), count(site, webhooks)) == ("waiting", 1, 2)
    later(DELIVERIES_S + DAY_S)  # it waits, however old it is
    with site.store.database.transaction() as connection:
        connection.execute(deliveries.update().values(state="delivered"))
    assert count(site, deliveries) == 1
    later(DELIVERIES_S + 2 * DAY_S)
    assert count(site, deliveries) == 0


def test_what_a_job_worked_with_goes_after_a_day_and_what_it_printed_after_three_months(site, admin, later):
    over, runs, waits = (site.jobs.submit(admin, "fine_tune", {}) for _ in range(3))
    for job in (over, runs, waits):
        folder = folder_of(site, job.id)
        for name in ("1/handle", "files/train.jsonl", "logs/1.log", "lock"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("x")
        (folder / "files" / "out").symlink_to(site.top.home)
    site.jobs.ask(admin, over.id, "cancel")
    site.jobs.ask(admin, runs.id, "cancel")
    lock = hold(folder_of(site, runs.id))  # a process that still lives
    left = lambda job: sorted(path.name for path in folder_of(site, job.id).iterdir())  # noqa: E731
    later(WORKING_S - 60)
    assert left(over) == ["1", "files", "lock", "logs"]
    later(WORKING_S + CLEAN_EVERY_S)
    assert left(over) == ["lock", "logs"]
    assert left(runs) == left(waits) == ["1", "files", "lock", "logs"]
    os.close(lock)
    later(LOGS_S + DAY_S)
    assert not folder_of(site, over.id).exists()
    assert not folder_of(site, runs.id).exists()
    assert left(waits) == ["1", "files", "lock", "logs"]
    assert (site.top.home / "prices.yaml").exists()
    assert site.jobs.get(admin, over.id).state == "cancelled"
    assert site.jobs.logs(admin, over.id) == []


def test_files_of_projects_go_when_they_have_expired_or_were_broken_off(site, admin, later, monkeypatch):
    app = site.app(admin)
    with app.uploaded.arriving() as arrived:
        arrived.write(b"rows")
        file = app.uploaded.enter(arrived, "rows.txt", "user_data", expires_after_s=3600)
    fresh, old = (app.store.uploaded.kept.room() for _ in range(2))
    for path, age_s in ((fresh, 0), (old, 2 * DAY_S)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    later(0)
    assert (fresh.exists(), old.exists()) == (True, False)
    assert app.uploaded.get(file.id).size_bytes == 4
    kept = app.store.uploaded.kept.there(file.id, file.sha256)
    soon = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: soon)
    later(0)
    with pytest.raises(NotFound):
        app.uploaded.get(file.id)
    assert not kept.exists()
    assert app.store.audit.head().action == "file.expired"


def test_a_folder_that_cannot_be_emptied_is_told_and_keeps_no_other_from_it(
    site, admin, later, monkeypatch, caplog
):
    names = sorted(site.jobs.submit(admin, "fine_tune", {}).id for _ in range(4))
    for name in names:
        (folder_of(site, name) / "files").mkdir(parents=True)
        (folder_of(site, name) / "rows.jsonl").write_text("x")
        site.jobs.ask(admin, name, "cancel")
    (folder_of(site, names[0]) / "lock").mkdir()  # cannot be held
    rmtree, unlink = shutil.rmtree, os.unlink
    stuck = {folder_of(site, names[1]) / "files", folder_of(site, names[2]) / "rows.jsonl"}
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: path in stuck or rmtree(path))

    def refused(path, **more):
        if path in stuck:
            raise PermissionError(1, "not permitted", str(path))
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", refused)
    later(LOGS_S + DAY_S)
    told = [one.getMessage() for one in caplog.records if one.name == "luthier.site"]
    assert len(told) == 3
    assert f"the folder of job {names[0]}: [Errno 21]" in caplog.text
    assert (
        f"the folder of job {names[1]}: [Errno 39] could not be removed: '{folder_of(site, names[1]) / 'files'}'"
        in caplog.text
    )
    assert f"{folder_of(site, names[2]) / 'rows.jsonl'}'" in caplog.text
    assert not (folder_of(site, names[1]) / "rows.jsonl").exists()
    assert not (folder_of(site, names[2]) / "files").exists()
    assert not folder_of(site, names[3]).exists()


@BOTH
def test_what_is_to_go_goes_from_a_project_that_has_ended_too(site, admin, later, monkeypatch):
    projects = [site.accounts.create_project(site.operator(), admin.organisation, name).id for name in "ab"]
    apps = [site.app_of(project, site.top.actor) for project in projects]
    for app in apps:
        with app.uploaded.arriving() as arrived:
            arrived.write(b"rows")
            app.uploaded.enter(arrived, "rows.txt", "user_data", expires_after_s=3600)
    for project in projects:
        site.accounts.end_project(site.operator(), project)
    assert site.ended() == projects
    if site.store.database.is_sqlite:
        shutil.rmtree(apps[1].home)
    else:
        with site.store.database.transaction() as connection:
            connection.execute(sa.schema.DropSchema(projects[1], cascade=True))
    assert site.ended() == projects[:1]
    soon = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: soon)
    later(0)
    assert apps[0].store.audit.head().action == "file.expired"
    if site.store.database.is_sqlite:
        assert not apps[1].home.exists()  # nothing is made anew


def test_the_place_that_all_share_is_swept_once(site, admin, later, monkeypatch):
    for name in ("second", "third"):
        site.accounts.create_project(site.operator(), admin.organisation, name)
    kept = site.store.blobs.root / "kept"
    kept.mkdir(parents=True)
    fresh, old = kept / ".1.partial", kept / ".2.partial"
    for path, age_s in ((fresh, 0), (old, 2 * DAY_S)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    listed, glob = [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, names: listed.append(self) or glob(self, names))
    later(0)
    assert (fresh.exists(), old.exists()) == (True, False)
    assert listed.count(kept) == 1


def test_what_fails_keeps_nothing_else_from_being_done(site, admin, later, monkeypatch):
    def fails(*_):
        raise StoreError("the records are away.")

    monkeypatch.setattr(type(site.approvals), "lapse", fails)
    monkeypatch.setattr(housekeeping, "settle_left_over", lambda _: 1 / 0)
    site.jobs.submit(admin, "fine_tune", {}, once=("monday", "0" * 64))
    later(IDEMPOTENCY_S + 60)
    assert count(site, idempotency) == 0
