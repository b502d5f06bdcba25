"""A reconciler may end at any point of a pass; another one goes on, and everything is there once. Attempts are scripted, so the boundaries
between steps are tried one by one; benchmarks/job_kills.py does the same with real processes and kill -9."""

from __future__ import annotations

from collections import Counter

import pytest

from luthier.app.jobs.launchers.scripted import Scripted
from luthier.core.testing import arm
from luthier.store.jobs import ENDED

BOUNDARIES = (
    "jobs.start",
    "jobs.started",
    "reconciler.seen",
    "reconciler.asked",
    "jobs.end.metered",
    "jobs.end.attempt",
    "jobs.end",
    "jobs.ended",
)


class Died(BaseException):
    """As a process dies: nothing that the code does about errors stops it."""


def drive(yard, jobs, launcher, owners, seconds=0.0):
    """Passes of new reconcilers, each after the last one's lease is over, until all jobs have ended."""
    for n in range(200):
        clock = 1e9 + seconds + n * 100.0
        one = yard.reconciler(f"owner-{owners}-{n}", launcher=launcher, clock=lambda clock=clock: clock)
        one.step()
        for _, attempt in yard.site.store.attempts.running():
            mark = f"{attempt.job}/{attempt.number}"
            if launcher.status(one._launch(yard.get(attempt_job(yard, attempt)), attempt)).state == "alive":
                word = "stopped" if attempt_job(yard, attempt).wanted != "run" else "succeeded"
                launcher.end(mark, {"state": word, "result": {"n": attempt.number}, "time_s": clock})
        if all(yard.get(job).state in ENDED for job in jobs):
            return
    raise AssertionError("they did not end")


def attempt_job(yard, attempt):
    return yard.site.store.jobs.get(yard.caller.project, attempt.job)


@pytest.mark.parametrize("at_pass", [1, 2])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_pass_that_ends_anywhere_loses_and_doubles_nothing(yard, boundary, at_pass):
    launcher = Scripted()
    jobs = [yard.submit({"n": n}, priority=n) for n in range(2)]
    cancelled = yard.submit()
    first = yard.reconciler("first", launcher=launcher, clock=lambda: 1e9)
    try:
        with arm(boundary, Died(), at_pass):
            first.step()
            yard.site.jobs.ask(yard.caller, cancelled.id, "cancel")
            first.step()
            for job in jobs:
                if yard.get(job).attempts:
                    launcher.end(f"{job.id}/1", {"state": "succeeded", "result": {"n": 1}, "time_s": 1e9})
            first.step()
    except Died:
        pass
    if yard.get(cancelled).state not in ENDED:
        yard.site.jobs.ask(yard.caller, cancelled.id, "cancel")
    drive(yard, [*jobs, cancelled], launcher, 1)
    assert all(count == 1 for count in launcher.launched.values())
    for job in [*jobs, cancelled]:
        found = yard.get(job)
        assert found.state == ("cancelled" if job is cancelled else "succeeded")
        told = Counter(yard.messages(job))
        ends = "Job cancelled" if job is cancelled else "Job succeeded"
        assert told["Created job"] == told[ends] == 1
        assert all(told[f"Attempt {n} begins"] == 1 for n in range(1, found.attempts + 1))
        acts = Counter(entry.action for entry in yard.site.store.audit.read(subject=job.id))
        assert acts["job.submitted"] == 1
        assert (
            acts["job.succeeded"] + acts["job.cancelled"] + (acts["job.cancel"] and not found.attempts) == 1
        )
    assert yard.site.top.audit.verify().sound


def test_a_lease_that_is_held_keeps_others_away_and_one_that_has_expired_does_not(yard):
    launcher, now = Scripted(), [1e9]
    job = yard.submit()
    one = yard.reconciler("one", launcher=launcher, clock=lambda: now[0])
    other = yard.reconciler("other", launcher=launcher, clock=lambda: now[0])
    one.step()
    launcher.end(f"{job.id}/1", {"state": "succeeded", "result": {}, "time_s": 1e9})
    other.step()
    assert yard.get(job).state == "running"
    now[0] += 16.0
    other.step()
    assert yard.get(job).state == "succeeded"
    assert one.step() == 0


def test_an_end_is_entered_once_whoever_tries(yard):
    from luthier.core.errors import Stale

    launcher = Scripted()
    job = yard.submit()
    one = yard.reconciler("one", launcher=launcher)
    one.step()
    ((found, attempt),) = yard.site.store.attempts.running()
    launcher.end(f"{job.id}/1", {"state": "succeeded", "result": {}, "time_s": 1e9})
    lease = yard.site.store.leases.take(f"job:{job.id}", "one", now_s=1e9, for_s=1.0)
    status = launcher.status(one._launch(found, attempt))
    assert one._end(lease, found, attempt, status) == 1
    with pytest.raises(Stale):
        one._end(lease, found, attempt, status)
    assert yard.messages(job).count("Job succeeded") == 1


def test_what_never_began_is_launched_and_what_is_on_another_host_is_left_alone(yard):
    launcher, elsewhere = Scripted(), Scripted(host="elsewhere")
    job = yard.submit()
    with arm("jobs.started", Died()), pytest.raises(Died):
        yard.reconciler("one", launcher=launcher, clock=lambda: 1e9).step()
    assert not launcher.launched
    yard.reconciler("two", launcher=elsewhere, clock=lambda: 2e9).step()
    assert not elsewhere.launched
    yard.reconciler("three", launcher=launcher, clock=lambda: 2e9).step()
    assert launcher.launched == {f"{job.id}/1": 1}


def test_retries_wait_longer_each_time_and_then_the_job_has_failed(yard):
    launcher, now = Scripted(), [1e9]
    job = yard.submit(most_attempts=3)
    spec = yard.quick.model_copy(update={"first_wait": 10.0, "longest_wait": 15.0})
    one = yard.reconciler("one", launcher=launcher, spec=spec, clock=lambda: now[0])
    for number, wait_s in ((1, 10.0), (2, 15.0)):
        one.step()
        launcher.end(f"{job.id}/{number}", None, "its process was killed by SIGKILL")
        one.step()
        assert yard.get(job).not_before_s == now[0] + wait_s
        now[0] += wait_s - 1
        one.step()
        assert yard.get(job).attempts == number
        now[0] += 1
    one.step()
    launcher.end(f"{job.id}/3", None, "its process was killed, and the kernel says that memory had run out")
    one.step()
    found = yard.get(job)
    assert found.state == "failed"
    assert found.error["message"] == (
        "3 attempts failed; the last one: its process was killed, and the kernel says that memory had run out."
    )
    reasons = [row.reason for row in yard.site.jobs.attempts(yard.caller, job.id)]
    assert reasons[0] == "its process was killed by SIGKILL."


def test_what_needs_a_job_waits_for_it_and_is_cancelled_with_it(yard):
    launcher = Scripted()
    first = yard.submit(most_attempts=1)
    second = yard.submit(needs=[first.id])
    third = yard.submit(needs=[second.id])
    one = yard.reconciler("one", launcher=launcher)
    one.step()
    assert [yard.get(job).state for job in (first, second)] == ["running", "queued"]
    launcher.end(f"{first.id}/1", None)
    for _ in range(3):
        one.step()
    assert [yard.get(job).state for job in (first, second, third)] == ["failed", "cancelled", "cancelled"]
    assert yard.get(second).error["message"] == f"the job {first.id}, which it waited for, has failed."
    good = yard.submit()
    after = yard.submit(needs=[good.id])
    one.step()
    launcher.end(f"{good.id}/1", {"state": "succeeded", "result": {}, "time_s": 1.0})
    one.step()
    assert yard.get(after).state == "running"


def test_a_higher_priority_stops_a_lower_one_which_goes_on_later_and_loses_no_attempt(yard):
    launcher = Scripted()
    spec = yard.quick.model_copy(update={"at_once": 1})
    low = yard.submit(most_attempts=1)
    one = yard.reconciler("one", launcher=launcher, spec=spec)
    one.step()
    high = yard.submit(priority=5)
    one.step()
    one.step()
    assert launcher.asked[f"{low.id}/1"] >= 1
    launcher.end(f"{low.id}/1", {"state": "stopped", "time_s": 1.0})
    one.step()
    assert [yard.get(job).state for job in (low, high)] == ["queued", "running"]
    launcher.end(f"{high.id}/1", {"state": "succeeded", "result": {}, "time_s": 1.0})
    one.step()
    launcher.end(f"{low.id}/2", {"state": "succeeded", "result": {}, "time_s": 1.0})
    one.step()
    assert (yard.get(low).state, yard.get(low).attempts) == ("succeeded", 2)
    told = yard.messages(low)
    assert (
        f"Attempt 1 is asked to save and stop: the job {high.id} has a higher priority and needs the room"
        in told
    )


def test_an_observer_hears_of_every_second_once_and_may_stop_a_job(yard):
    from luthier.app.jobs.observing import Halt, Nobody

    class Budget(Nobody):
        halt = None

        def __init__(self):
            self.seconds, self.ends, self.starts = Counter(), Counter(), Counter()

        def started(self, connection, job, attempt):
            self.starts[job.id] += 1

        def metered(self, connection, job, seconds):
            self.seconds[job.id] += seconds

        def ended(self, connection, job):
            self.ends[job.id] += 1

        def may_run(self, job):
            return self.halt

    launcher, budget, now = Scripted(), Budget(), [1e9]
    yard.site.observer = budget
    job, waits = yard.submit(), yard.submit(not_before_s=1e9 + 50)
    one = yard.reconciler("one", launcher=launcher, clock=lambda: now[0])
    one.step()
    fence = yard.site.jobs.attempts(yard.caller, job.id)[0].fence
    yard.site.store.attempts.began(job.id, fence, {"pid": 1}, now[0])
    for _ in range(4):
        now[0] += 10.0
        one.step()
    assert 0 < budget.seconds[job.id] <= 40.0
    budget.halt = Halt("failed", "budget_exhausted", "the budget of this month is used up.")
    one.step()
    now[0] += 20.0
    launcher.end(f"{job.id}/1", {"state": "stopped", "time_s": now[0] - 3.0})
    one.step()
    assert budget.seconds[job.id] == pytest.approx(57.0)
    assert (budget.starts[job.id], budget.ends[job.id]) == (1, 1)
    found = yard.get(job)
    assert (found.state, found.error["code"]) == ("failed", "budget_exhausted")
    one.step()
    assert (yard.get(waits).state, yard.get(waits).attempts) == ("failed", 0)  # it may not even start
    cancelled = yard.submit(not_before_s=9e9)
    yard.site.jobs.ask(yard.caller, cancelled.id, "cancel")
    assert budget.ends == {job.id: 1, waits.id: 1, cancelled.id: 1}


def test_a_held_job_is_not_let_go_by_pausing_and_resuming_it(yard):
    from luthier.core.errors import Conflict

    job = yard.submit()
    with yard.site.store.database.transaction() as connection:
        connection.exec_driver_sql(f"update jobs set state = 'held' where id = '{job.id}'")
    with pytest.raises(Conflict, match="waits for an approval"):
        yard.site.jobs.ask(yard.caller, job.id, "pause")
    assert yard.site.jobs.ask(yard.caller, job.id, "run").state == "held"
