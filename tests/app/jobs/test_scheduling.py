"""Whose turn it is: pure rules. The host has 4 cores, 100 bytes of memory, two GPUs and takes four jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.app.jobs.launchers.scripted import Scripted
from luthier.app.jobs.queue_spec import Host, ProjectShareSpec, QueueSpec, read_queue
from luthier.app.jobs.scheduling import choose, usage, wants_of
from luthier.core.errors import SpecError
from luthier.store.attempts import AttemptRow, Queue
from luthier.store.jobs import Job

HOST = Host("here", 4, 100, ("0", "1"), 4)
SPEC = QueueSpec(patience=100, ageing=1000)


def waiting(name, project="p", **given):
    given = {"resources": {"cores": 1, "gpus": 0}, "created_s": 0.0, "seq": int(name[1:] or 0), **given}
    return Job(name, project, "scripted", {}, "user", **given)


def running(name, project="p", *, gpus=(), host="here", state="running", began=0.0, **given):
    job = replace(waiting(name, project, **given), state="running", attempts=1)
    return job, AttemptRow(name, 1, 1, "local", state, began, {"host": host, "gpus": list(gpus)})


def chosen(waits, runs=(), spec=SPEC, used=None, now_s=0.0, host=HOST):
    return choose(Queue(waits, runs), host, spec, used or {}, now_s)


def test_priority_first_then_the_share_then_who_came_first():
    one_place = replace(HOST, at_once=1)
    assert list(chosen([waiting("j1"), waiting("j2", priority=1)], host=one_place).start) == ["j2"]
    two = [waiting("j1", "a"), waiting("j2", "b")]
    assert list(chosen(two, host=one_place).start) == ["j1"]
    assert list(chosen(two, host=one_place, used={"a": 10.0}).start) == ["j2"]
    weighed = QueueSpec(projects={"a": ProjectShareSpec(weight=3)})
    assert list(chosen(two, host=one_place, spec=weighed, used={"a": 20.0, "b": 10.0}).start) == ["j1"]


def test_projects_take_turns_also_within_one_pass():
    many = [waiting(f"j{n}", "a") for n in range(1, 6)] + [waiting("j9", "b")]
    assert "j9" in chosen(many).start


def test_who_has_waited_long_comes_before_a_higher_priority():
    waits = [waiting("j1", priority=0, created_s=0.0), waiting("j2", priority=2, created_s=3000.0)]
    one_place = replace(HOST, at_once=1)
    assert list(chosen(waits, host=one_place, now_s=3000.0).start) == [
        "j1"
    ]  # 0 + 3 hours of ageing against 2 + 0


def test_a_project_has_no_more_at_once_than_it_may_wherever_they_run():
    spec = QueueSpec(projects={"default": ProjectShareSpec(at_once=2)})
    found = chosen([waiting("j2"), waiting("j3")], [running("j1", host="elsewhere")], spec)
    assert (list(found.start), list(found.waits)) == (["j2"], ["j3"])
    assert found.waits["j3"] == "its project has 2 jobs running, as many as it may"


def test_cores_memory_and_gpus_are_given_once():
    runs = [running("j1", resources={"cores": 3, "memory_bytes": 60, "gpus": 1}, gpus=["0"])]
    waits = [
        waiting("j2", resources={"cores": 2, "gpus": 0}),
        waiting("j3", resources={"cores": 1, "memory_bytes": 50, "gpus": 0}),
        waiting("j4", resources={"cores": 1, "memory_bytes": 40, "gpus": 1}),
        waiting("j5", resources={"cores": 1, "gpus": 1}),
        waiting("j6", resources={"cores": 9, "gpus": 0}),
    ]
    found = chosen(waits, runs)
    assert found.start == {"j4": {"host": "here", "gpus": ["1"], "cores": 1}}
    assert found.waits["j2"] == "it needs 2 cores, and 1 are free"
    assert found.waits["j5"] == "it needs 1 cores, and 0 are free"
    assert found.waits["j6"] == "it asks for 9 cores, and this host gives 4 to jobs"


def test_what_is_not_asked_for_is_a_part_of_the_host():
    assert vars(wants_of(waiting("j1", resources={}), HOST)) == {"cores": 1, "memory_bytes": 0, "gpus": 1}


def test_a_higher_priority_stops_the_lowest_and_youngest_and_no_more_than_needed():
    runs = [
        running("j1", priority=0, began=1.0, resources={"cores": 2, "gpus": 0}),
        running("j2", priority=0, began=2.0, resources={"cores": 1, "gpus": 0}),
        running("j3", priority=-1, began=0.0, resources={"cores": 1, "gpus": 0}),
    ]
    found = chosen([waiting("j9", priority=1, resources={"cores": 2, "gpus": 0})], runs)
    assert list(found.stop) == ["j3", "j2"]
    assert "j9" in found.stop["j2"]
    assert not found.start
    alone = chosen([waiting("j9", priority=1, resources={"cores": 1, "gpus": 0})], runs)
    assert list(alone.stop) == ["j3"]
    same = chosen([waiting("j9", priority=0, resources={"cores": 2, "gpus": 0})], runs)
    assert list(same.stop) == ["j3"] or not same.stop


def test_nobody_is_stopped_where_it_would_not_help_or_room_is_coming():
    higher = waiting("j9", priority=5, resources={"cores": 4, "gpus": 0})
    kept = running("j1", priority=5, resources={"cores": 1, "gpus": 0})
    lower = running("j2", priority=0, resources={"cores": 3, "gpus": 0})
    assert not chosen([higher], [kept, lower]).stop
    stopping = running("j3", priority=0, resources={"cores": 3, "gpus": 0}, state="stopping")
    lowest = running("j4", priority=-9, resources={"cores": 1, "gpus": 0})
    small = waiting("j9", priority=5, resources={"cores": 2, "gpus": 0})
    found = chosen([small, waiting("j10")], [stopping, lowest])
    assert not found.stop
    assert found.waits["j10"] == "what is free is kept for a job that has waited longer"


def test_small_ones_pass_a_large_one_until_its_patience_ends():
    runs = [running("j1", resources={"cores": 2, "gpus": 0})]
    waits = [waiting("j2", resources={"cores": 4, "gpus": 0}), waiting("j3")]
    assert list(chosen(waits, runs, now_s=99.0).start) == ["j3"]
    assert not chosen(waits, runs, now_s=100.0).start


def test_use_counts_by_cores_and_fades():
    spec = QueueSpec(memory_of_use=200)
    rows = [("p", {"cores": 2}, 0.0, 10.0), ("p", {"cores": 1}, 100.0, None), ("q", {"cores": 1}, 0.0, 10.0)]
    assert usage(rows, HOST, spec, 110.0) == {"p": pytest.approx(10 + 10.0), "q": pytest.approx(5.0)}


def test_a_job_that_says_nothing_counts_as_what_it_was_given(yard):
    host = replace(HOST, cores=8, at_once=2)
    job = waiting("a1", resources={})
    started = choose(Queue([job], []), host, SPEC, {}, 0.0).start["a1"]
    assert started["cores"] == wants_of(job, host).cores == 4
    assert usage([("p", started, 0.0, 10.0)], host, SPEC, 10.0) == {"p": 40.0}
    real = yard.submit()
    one = yard.reconciler(launcher=Scripted(), clock=lambda: 1e9)
    one.step()
    [(_, attempt)] = yard.site.store.attempts.running()
    yard.site.store.attempts.began(real.id, attempt.fence, {"pid": 1}, 1e9)
    [(project, handle, _, _)] = yard.site.store.attempts.used(0.0)
    assert (project, handle["cores"]) == (real.project, 1)  # of four cores for four jobs


JOBS = st.builds(
    lambda cores, gpus, memory, priority, project: ({"cores": cores, "gpus": gpus, "memory_bytes": memory}, priority, project),
    st.integers(1, 5), st.integers(0, 3), st.integers(0, 120), st.integers(-2, 2), st.sampled_from("ab"),
)  # fmt: skip


@given(st.lists(JOBS, max_size=8), st.lists(JOBS, max_size=4))
def test_never_more_than_the_host_has_and_everybody_hears_something(asked, there):
    runs, gpus = [], ["0", "1"]
    for n, (resources, priority, project) in enumerate(there):
        given_gpus, gpus = gpus[: resources["gpus"]], gpus[resources["gpus"] :]
        runs.append(running(f"j{n + 1}", project, priority=priority, resources=resources, gpus=given_gpus))
    waits = [
        waiting(f"j{n + 50}", project, priority=p, resources=r) for n, (r, p, project) in enumerate(asked)
    ]
    found = chosen(waits, runs)
    assert set(found.start) | set(found.waits) == {job.id for job in waits}
    assert not set(found.start) & set(found.waits)
    started = [job for job in waits if job.id in found.start]
    if started:
        everything = [job for job, _ in runs] + started
        assert sum(job.resources["cores"] for job in everything) <= HOST.cores
        assert sum(job.resources["memory_bytes"] for job in everything) <= HOST.memory_bytes
        assert len(everything) <= HOST.at_once
    given_out = [gpu for one in found.start.values() for gpu in one["gpus"]]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= set(gpus)
    lowest = {job.id: job.priority for job, _ in runs}
    assert all(lowest[victim] < max(job.priority for job in waits) for victim in found.stop)


def test_the_file_is_read_strictly(tmp_path):
    path = tmp_path / "queue.yaml"
    assert read_queue(path) == QueueSpec()
    path.write_text("capacity: {cores: 2, memory: 4 GB}\nprojects: {proj_1: {at_once: 3}}\nageing: 2 h\n")
    found = read_queue(path)
    assert (found.capacity.cores, found.capacity.memory, found.ageing) == (2, 4 * 10**9, 7200.0)
    assert found.share_of("proj_1").at_once == 3
    assert found.share_of("proj_2") == ProjectShareSpec()
    path.write_text("at_onc: 2\n")
    with pytest.raises(SpecError, match="did you mean 'at_once'"):
        read_queue(path)
