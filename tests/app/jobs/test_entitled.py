"""A job does not outlive the rights and the policy that it was let in by."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from luthier.app.jobs.entitled import permission_of, still_allowed
from luthier.app.site import Caller, new_id
from luthier.core.errors import NotAllowed
from luthier.store.accounts import Grant, User


@pytest.fixture
def other(yard) -> Caller:
    user, now, project = User(new_id("user"), "person", "ann", time.time()), time.time(), yard.caller.project
    act = yard.site.top.actor.act("joined", user.id)
    yard.site.store.accounts.add(user, Grant(project, user.id, "trainer", now), act=act)
    caller = yard.site.acting(user.id, project)
    assert caller is not None
    return caller


def test_who_lost_the_right_has_his_job_fail(yard, other):
    job = yard.site.jobs.submit(other, "scripted", {"steps": 1})
    still_allowed(yard.site, job)
    accounts = yard.site.store.accounts
    act = yard.site.top.actor.act("grant", other.user)
    accounts.add(Grant(other.project, other.user, "viewer", 1.0), act=act)
    accounts.end_grant(other.project, other.user, "trainer", act)
    (job,) = yard.finish(job, by=[yard.reconciler()])
    assert (job.state, job.attempts, job.error["code"]) == ("failed", 1, "not_allowed")
    assert "'jobs.write'" in job.error["message"]


def test_each_kind_needs_what_submitting_it_takes(yard, other):
    job = yard.site.jobs.submit(other, "scripted", {"steps": 1})
    assert permission_of(replace(job, kind="eval_run")) == "evals.write"
    assert permission_of(replace(job, kind="verb", wish={"verb": "data.export"})) == "data.write"
    act = yard.site.top.actor.act("user.ended", other.user)
    yard.site.store.accounts.end_user(other.user, act, lambda *_: None)
    assert yard.get(job).state == "cancelled"
    for kind in ("recipe", "verb", "eval_run", "scripted"):
        with pytest.raises(NotAllowed, match="any more"):
            still_allowed(yard.site, replace(job, kind=kind))


def test_a_wish_for_fine_tuning_is_held_against_the_policy_of_the_moment(yard):
    wish = {"base": "smollm2-135m-instruct", "files": {"train": None}, "train": {"epochs": 1}}
    job = yard.site.jobs.submit(yard.caller, "fine_tune", wish)
    still_allowed(yard.site, job)
    yard.site.policies.lay(yard.caller, "project", "data: {public: {}}", "no more of that")
    with pytest.raises(NotAllowed, match="class 'unclassified'"):
        still_allowed(yard.site, job)
