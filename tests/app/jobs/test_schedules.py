"""A time of cron gives one job, however many servers find it due and wherever one of them dies."""

from __future__ import annotations

import threading

import pytest

from luthier.app.jobs.launchers.scripted import Scripted
from luthier.app.jobs.schedules import fire_due
from luthier.core.errors import NotFound, SpecError

HOUR = 3600.0


def add(yard, **given):
    return yard.site.jobs.schedules.add(yard.caller, "hourly", "0 * * * *", "scripted", {"steps": 1}, **given)


def jobs(yard):
    return yard.site.jobs.list(yard.caller)[0]


def test_a_time_fires_once_with_two_servers_at_once(each_yard):
    yard = each_yard
    schedule = add(yard, priority=3)
    assert fire_due(yard.site, schedule.next_s - 1) == 0
    threads = [threading.Thread(target=fire_due, args=(yard.site, schedule.next_s + 1)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (job,) = jobs(yard)
    assert (job.schedule, job.priority, job.by) == (schedule.id, 3, yard.caller.user)
    now = yard.site.jobs.schedules.get(yard.caller, schedule.id)
    assert (now.last_s, now.next_s) == (schedule.next_s, schedule.next_s + HOUR)


def test_a_server_that_dies_between_submitting_and_moving_on_submits_nothing_twice(yard, monkeypatch):
    schedule = add(yard)

    class Died(BaseException):
        pass

    def died(*_):
        raise Died

    monkeypatch.setattr("luthier.app.jobs.schedules._move_on", died)
    with pytest.raises(Died):
        fire_due(yard.site, schedule.next_s + 1)
    monkeypatch.undo()
    assert fire_due(yard.site, schedule.next_s + 2) == 1
    assert len(jobs(yard)) == 1


def test_what_was_missed_is_made_up_for_once(yard):
    schedule = add(yard)
    yard.reconciler(launcher=Scripted(), clock=lambda: schedule.next_s + 10 * HOUR + 5).step()
    assert len(jobs(yard)) == 1
    assert yard.site.jobs.schedules.get(yard.caller, schedule.id).next_s == schedule.next_s + 11 * HOUR


def test_off_on_and_removed(yard):
    verbs, schedule = yard.site.jobs.schedules, add(yard)
    verbs.switch(yard.caller, schedule.id, on=False)
    assert fire_due(yard.site, schedule.next_s + HOUR) == 0
    assert verbs.switch(yard.caller, schedule.id, on=True).next_s is not None
    verbs.remove(yard.caller, schedule.id)
    assert verbs.list(yard.caller) == []
    with pytest.raises(NotFound):
        verbs.get(yard.caller, schedule.id)
    actions = [entry.action for entry in yard.site.store.audit.read(subject=schedule.id)]
    assert actions == ["schedule.added", "schedule.off", "schedule.on", "schedule.removed"]


def test_who_may_not_submit_any_more_has_nothing_submitted_in_his_name(yard):
    schedule = add(yard)
    with yard.site.store.database.transaction() as connection:
        connection.exec_driver_sql("delete from grants")
    assert fire_due(yard.site, schedule.next_s + 1) == 0
    assert jobs(yard) == []
    (event,) = yard.site.store.ledger.read(kind="schedule.failed")
    assert "may not submit jobs any more" in event.data["message"]
    assert yard.site.store.schedules.due(schedule.next_s + 1) == []


def test_what_cannot_be_is_refused_when_it_is_made(yard):
    with pytest.raises(SpecError, match="not a time of cron"):
        yard.site.jobs.schedules.add(yard.caller, "x", "daily", "scripted", {})
    with pytest.raises(SpecError, match="title"):
        yard.site.jobs.schedules.add(yard.caller, "x" * 201, "@daily", "scripted", {})
