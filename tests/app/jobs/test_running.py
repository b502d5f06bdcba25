"""Jobs run in processes of their own, come to one end, and go on where they were."""

from __future__ import annotations

import os
import signal
import time

import pytest

from luthier.core.errors import Conflict, SpecError, Stale


def test_a_job_runs_to_its_end_and_tells_its_story(each_yard):
    yard = each_yard
    job = yard.submit({"steps": 2, "result": {"model": "m"}})
    (job,) = yard.finish(job, by=[yard.reconciler()])
    assert (job.state, job.result) == ("succeeded", {"steps": 2, "attempt": 1, "model": "m"})
    assert job.started_s <= job.finished_s
    assert yard.messages(job) == [
        "Created job", "Attempt 1 begins", "Finished step 1", "Finished step 2", "Job succeeded",
    ]  # fmt: skip
    (attempt,) = yard.site.jobs.attempts(yard.caller, job.id)
    assert (attempt.state, attempt.handle["host"]) == ("succeeded", "here")
    actions = [entry.action for entry in yard.site.store.audit.read(subject=job.id)]
    assert actions == ["job.submitted", "job.succeeded"]
    assert (job.progress["done"], job.progress["share"]) == (2, 1.0)
    assert not yard.pids(job)


def test_a_server_that_dies_leaves_its_trainer_and_the_next_one_takes_it_over(yard):
    job = yard.submit({"steps": 3, "step_s": 0.4})
    first = yard.reconciler("first", lease_s=0.5)
    yard.until(lambda: yard.site.jobs.attempts(yard.caller, job.id)[0].state == "running", first)
    (trainer,) = yard.pids(job)
    second = yard.reconciler("second", lease_s=0.5)
    second.step()
    assert yard.site.store.leases.take(f"job:{job.id}", "third", now_s=time.time(), for_s=1.0) is None
    (job,) = yard.finish(job, by=[second])  # the first one makes no pass any more
    assert (job.state, job.attempts) == ("succeeded", 1)
    assert yard.site.jobs.steps(yard.caller, job.id)["step-3"]["pid"] == trainer


def test_two_servers_that_launch_the_same_attempt_make_one_trainer(yard):
    job = yard.submit({"steps": 3, "step_s": 0.2})
    one, other = yard.reconciler("one"), yard.reconciler("other")
    one.step()
    ((job, attempt),) = yard.site.store.attempts.running()
    launch = one._launch(job, attempt)
    other._launcher.status = lambda _: type(one._launcher.status(launch))(
        "absent"
    )  # as if it had looked too early
    other._launcher.submit(launch)
    (job,) = yard.finish(job, by=[one])
    assert (job.state, job.attempts) == ("succeeded", 1)
    assert not yard.doubled(job)
    won, lost = sorted(
        (server._launcher._mine[launch.mark].wait() for server in (one, other)), key=lambda code: code != 0
    )
    assert won == 0 and lost in (75, -9)  # it gave way, or was ended with what the winner left


def test_a_trainer_that_is_killed_is_tried_again_and_goes_on_after_what_is_finished(yard):
    job = yard.submit({"steps": 3, "fails": [{"attempt": 1, "step": 2, "how": "kill"}]})
    (job,) = yard.finish(job, by=[yard.reconciler()])
    assert (job.state, job.attempts) == ("succeeded", 2)
    told = yard.messages(job)
    assert told.count("Finished step 1") == 1
    assert any(line.startswith("Attempt 1 failed: its process was killed by SIGKILL.") for line in told)
    steps = yard.site.store.attempts.steps(job.id)
    assert steps["step-1"]["pid"] != steps["step-2"]["pid"]


def test_a_failure_that_would_come_again_is_final_and_others_use_up_the_attempts(yard):
    data = yard.submit({"fails": [{"step": 1, "how": "data"}]})
    memory = yard.submit(
        {"fails": [{"attempt": n, "step": 1, "how": "memory"} for n in (1, 2)]}, most_attempts=2
    )
    defect = yard.submit({"fails": [{"step": 1, "how": "defect"}]}, most_attempts=1)
    data, memory, defect = yard.finish(data, memory, defect, by=[yard.reconciler()])
    assert (data.state, data.attempts, data.error["code"]) == ("failed", 1, "invalid_data")
    assert data.error["message"].startswith("the rows are not what they should be.")
    assert (memory.state, memory.attempts, memory.error["code"]) == ("failed", 2, "out_of_memory")
    assert memory.error["message"] == "2 attempts failed; the last one: memory ran out."
    assert defect.error["code"] == "internal_error"
    assert "a defect" not in defect.error["message"]
    assert any("RuntimeError: a defect" in line for line in yard.log(defect))


def test_pause_saves_and_resume_goes_on_and_neither_counts_as_an_attempt_that_failed(yard):
    job = yard.submit({"steps": 4, "step_s": 0.3}, most_attempts=1)
    reconciler = yard.reconciler()
    yard.until(lambda: "Finished step 1" in yard.messages(job), reconciler)
    yard.site.jobs.ask(yard.caller, job.id, "pause")
    yard.until(lambda: yard.get(job).state == "paused", reconciler)
    assert not yard.pids(job)
    yard.site.jobs.ask(yard.caller, job.id, "run")
    (job,) = yard.finish(job, by=[reconciler])
    assert (job.state, job.attempts) == ("succeeded", 2)
    told = yard.messages(job)
    assert [line for line in told if line.startswith("Finished")] == [
        f"Finished step {n}" for n in (1, 2, 3, 4)
    ]
    assert "Job paused, once its attempt has saved and stopped" in told


def test_cancel_is_heard_and_a_deaf_trainer_is_killed_after_its_grace(yard):
    polite, deaf = (
        yard.submit({"steps": 50, "step_s": 0.2}),
        yard.submit({"steps": 50, "step_s": 30, "deaf": True}),
    )
    reconciler = yard.reconciler()
    yard.until(lambda: all(row.started_s for _, row in yard.site.store.attempts.running()), reconciler)
    for job in (polite, deaf):
        yard.site.jobs.ask(yard.caller, job.id, "cancel")
    polite, deaf = yard.finish(polite, deaf, by=[reconciler])
    assert [job.state for job in (polite, deaf)] == ["cancelled", "cancelled"]
    assert not yard.pids(polite)
    assert not yard.pids(deaf)
    with pytest.raises(Conflict, match="has been cancelled"):
        yard.site.jobs.ask(yard.caller, deaf.id, "run")


def test_who_was_taken_for_dead_can_change_nothing(yard):
    job = yard.submit({"steps": 2, "step_s": 0.1})
    yard.finish(job, by=[yard.reconciler()])
    fence = yard.site.jobs.attempts(yard.caller, job.id)[0].fence
    with pytest.raises(Stale):
        yard.site.store.attempts.write(job.id, fence, progress={"done": 1}, now_s=time.time())
    job = yard.submit({"steps": 40, "step_s": 0.1})
    reconciler = yard.reconciler()
    yard.until(lambda: yard.get(job).attempts and yard.pids(job), reconciler)
    old = yard.site.jobs.attempts(yard.caller, job.id)[0]
    yard.until(lambda: yard.site.jobs.attempts(yard.caller, job.id)[0].state == "running", reconciler)
    yard.site.store.attempts.abandon(
        "here", yard.caller.actor.act("host.abandoned", "here"), time.time(), lambda *_: None
    )
    assert yard.site.store.attempts.asked(job.id, old.fence) == "stale"
    yard.until(lambda: not yard.pids(job))  # it has noticed by itself


def test_orphans_of_a_killed_trainer_are_ended_before_the_next_attempt(yard):
    job = yard.submit({"steps": 30, "step_s": 0.2})
    reconciler = yard.reconciler()
    yard.until(lambda: "Finished step 1" in yard.messages(job), reconciler)
    (trainer,) = yard.pids(job)
    environ = {**os.environ, "LUTHIER_ATTEMPT": f"{job.id}/1"}
    orphan = os.posix_spawn("/bin/sleep", ["sleep", "60"], environ, setsid=True)
    os.kill(trainer, signal.SIGKILL)
    yard.until(lambda: yard.get(job).attempts == 2, reconciler)
    assert os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]) == -signal.SIGKILL


def test_numbers_out_of_bounds_are_refused(yard):
    with pytest.raises(SpecError, match="the priority 101"):
        yard.submit(priority=101)
    with pytest.raises(SpecError, match="did you mean 'gpus'"):
        yard.submit(resources={"gpu": 1})
    with pytest.raises(SpecError, match="whole number from 1"):
        yard.submit(resources={"cores": 0})


def test_a_job_sees_nothing_of_the_servers_environment_but_what_is_passed_on(yard):
    from luthier.app.jobs.environment import environment_of
    from luthier.app.jobs.launchers.launcher import Launch

    there = {
        "PATH": "/bin",
        "OPENAI_API_KEY": "s",
        "TICKETS_URL": "t",
        "LUTHIER_JOB_ENVIRON": "TICKETS_*",
        "PGPASSWORD": "p",
    }
    launch = Launch("job-1", 2, 3, yard.site.top.home, cores=2, gpus=("5",))
    found = environment_of(there, launch)
    assert not {"OPENAI_API_KEY", "PGPASSWORD"} & {*found}
    records = {"LUTHIER_DATABASE": "postgresql://luthier@db/luthier"}
    assert environment_of({**there, **records}, launch)["PGPASSWORD"] == "p"
    assert (found["TICKETS_URL"], found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("t", "2", "5")
