"""Four eyes: nobody agrees to what he asked for or trained; what waits for a word goes on with it and ends without it."""

import pytest

from luthier.app.webhooks import Webhooks
from luthier.core.errors import Conflict, NotAllowed, NotFound, SpecError
from luthier.store.webhooks import TYPES

POLICY = "data: {unclassified: {approval: true}}\napprovals: {release: true, rollout: true}"


@pytest.fixture
def strict(site, admin):
    site.policies.lay(admin, "project", POLICY, "four eyes")
    return site


def submitted(site, caller, upload):
    upload("file-abc", 3_000)
    wish = {
        "base": "smollm2-135m-instruct",
        "files": {"train": "file-abc", "test": None},
        "train": {"epochs": 1},
    }
    return site.jobs.submit(caller, "fine_tune", wish)


def test_a_job_waits_for_another_persons_word(strict, trainer, deployer, upload):
    job = submitted(strict, trainer, upload)
    assert job.state == "held"
    [asked] = strict.approvals.list(deployer, ["open"])
    assert (asked.kind, asked.subject, asked.by) == ("job", job.id, trainer.user)
    with pytest.raises(NotAllowed, match="yourself"):
        strict.approvals.grant(trainer, asked.id, "fine by me")
    done = strict.approvals.grant(deployer, asked.id, "looked at the rows")
    assert (done.state, done.decided_by, done.decided_reason) == (
        "granted",
        deployer.user,
        "looked at the rows",
    )
    assert strict.jobs.get(trainer, job.id).state == "queued"
    assert strict.store.audit.head().action == "approval.granted"
    with pytest.raises(Conflict):
        strict.approvals.decline(deployer, asked.id, "changed my mind")


@pytest.mark.parametrize("how", ["decline", "withdraw", "lapse"])
def test_without_it_the_job_ends_and_its_budget_is_free(strict, trainer, deployer, upload, how, admin):
    strict.budgets.add(admin, "project", "tokens", 3_000)
    hook, _ = webhook(strict, admin)
    job = submitted(strict, trainer, upload)
    [asked] = strict.approvals.list(trainer)
    assert strict.budgets.list(admin)[0]["promised"] == 1_000
    if how == "decline":
        strict.approvals.decline(deployer, asked.id, "not these rows")
    elif how == "withdraw":
        with pytest.raises(NotAllowed):
            strict.approvals.withdraw(deployer, asked.id, "not mine")
        strict.approvals.withdraw(trainer, asked.id, "a mistake")
    else:
        assert strict.approvals.lapse(asked.expires_s - 1) == 0
        assert strict.approvals.lapse(asked.expires_s) == 1
    assert strict.jobs.get(trainer, job.id).state == "cancelled"
    assert strict.budgets.list(admin)[0]["promised"] == 0
    assert strict.approvals.list(trainer, ["open"]) == []
    assert told_of(strict, trainer, job) == f"Job cancelled: {SAID[how]}"
    [sent] = Webhooks(strict).deliveries(admin, hook.id)
    assert (sent.event["type"], sent.event["data"]) == ("fine_tuning.job.cancelled", {"id": job.id})
    [entry] = strict.store.audit.read(action="job.cancelled", subject=job.id)
    assert entry.data["approval"] == asked.id


SAID = {
    "decline": "its approval was declined: not these rows",
    "withdraw": "the request for its approval was withdrawn: a mistake",
    "lapse": "its approval was not given in time: nobody decided",
}


@pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)
def test_cancelling_what_waits_for_a_word_withdraws_the_request(strict, trainer, deployer, upload, admin):
    hook, _ = webhook(strict, admin)
    job = submitted(strict, trainer, upload)
    [asked] = strict.approvals.list(deployer, ["open"])
    strict.jobs.ask(trainer, job.id, "cancel")
    now = strict.approvals.get(deployer, asked.id)
    assert (now.state, now.decided_by, now.decided_reason) == (
        "withdrawn",
        "server",
        "the job has ended: cancelled",
    )
    assert [one.action for one in strict.store.audit.read(subject=asked.id)] == [
        "approval.asked",
        "approval.withdrawn",
    ]
    assert [one.event["data"]["id"] for one in Webhooks(strict).deliveries(admin, hook.id)] == [job.id]
    with pytest.raises(Conflict):
        strict.approvals.grant(deployer, asked.id, "too late")


def webhook(site, admin):
    return Webhooks(site).create(admin, title="told", url="https://hooks.example/in", events=TYPES)


def told_of(site, caller, job):
    return list(site.jobs.events(caller, job.id))[-1].data["message"]


def test_who_may_decide(strict, trainer, deployer, upload, join, admin):
    submitted(strict, trainer, upload)
    [asked] = strict.approvals.list(trainer)
    for nobody in (join("sue", "trainer"), join("bot", "deployer", kind="service"), join("vic", "viewer")):
        with pytest.raises(NotAllowed):
            strict.approvals.grant(nobody, asked.id, "yes")
    with pytest.raises(SpecError, match="reason"):
        strict.approvals.grant(deployer, asked.id, " ")
    strict.policies.lay(admin, "project", POLICY.replace("rollout: true", "roles: [admin]"), "admins alone")
    with pytest.raises(NotAllowed, match="admin may decide"):
        strict.approvals.grant(deployer, asked.id, "yes")
    assert strict.approvals.grant(admin, asked.id, "yes").state == "granted"


def test_a_second_key_makes_no_second_person(strict, admin, upload):
    from luthier.core import keys
    from luthier.store.accounts import KeyRow

    submitted(strict, admin, upload)
    text, key_id, sha256 = keys.generate()
    strict.store.accounts.add(
        KeyRow(key_id, sha256, admin.user, admin.project, "second", 1.0),
        act=strict.top.actor.act("key", key_id),
    )
    with pytest.raises(NotAllowed, match="yourself"):
        strict.approvals.grant(strict.check(text), strict.approvals.list(admin)[0].id, "yes")


def test_a_service_account_of_ones_own_is_no_second_person(strict, admin, join, upload):
    keeper, other, third = join("kim", "admin"), join("lea", "admin"), join("moe", "admin")
    keys = strict.accounts.keys
    bot = strict.accounts.create_user(keeper, "service", "bot", scope=admin.project, role="trainer")
    key = keys.create(other, scope=admin.project, title="robot", user=bot.id)
    key = keys.rotate(admin, key.key.id)
    submitted(strict, strict.check(key.text), upload)
    keys.end(admin, key.key.id)
    for one in (keeper, other):  # neither ended keys nor erased names make them strangers
        keys.end(admin, one.key_id)
    [asked] = strict.approvals.list(admin, ["open"])
    for one in (keeper, other, admin):
        with pytest.raises(NotAllowed, match="yourself"):
            strict.approvals.grant(one, asked.id, "looks good to me")
    assert strict.approvals.grant(third, asked.id, "looked at the rows").state == "granted"


def release(site, caller, name="router"):
    """A version of a name, as a run in the caller's name leaves it."""
    from luthier.core.artifact import Artifact

    store, actor = site.app(caller).store, caller.actor
    key = f"{len(store.catalog.all('release')):064d}"
    artifact = store.catalog.record(Artifact("release", key, {}, 1, {}, (), {}, 1.0))
    return str(store.catalog.name(name, artifact.digest, actor.act("released", name)))


def test_a_release_answers_once_another_person_agrees(strict, trainer, deployer, admin):
    ref = release(strict, admin)
    app = strict.app(admin)
    assert app.rollouts.answering("router") is None
    asked = strict.approvals.ask(trainer, "release", ref, "it is better")
    with pytest.raises(Conflict, match=asked.id):
        strict.approvals.ask(trainer, "release", ref, "again")
    with pytest.raises(NotAllowed, match="yourself"):  # he trained it, whoever asked
        strict.approvals.grant(admin, asked.id, "mine is good")
    strict.approvals.grant(deployer, asked.id, "the report says so")
    assert app.rollouts.answering("router") == ref
    alias = strict.approvals.ask(trainer, "name", f"production={ref}", "for all")
    with pytest.raises(NotAllowed, match="yourself"):
        strict.approvals.grant(admin, alias.id, "mine is good")
    with pytest.raises(NotFound):  # a version that is not there yet
        strict.approvals.ask(trainer, "release", "router@2", "in advance")
    for moving in ("router", "production=router", "router@2=router@1"):
        with pytest.raises(SpecError, match="not one version"):
            strict.approvals.ask(
                trainer, "name" if "=" in moving else "release", moving, "whatever it is by then"
            )


def test_a_rollout_and_a_further_name_wait_too(strict, trainer, deployer):
    first, second = release(strict, trainer), release(strict, trainer)
    app = strict.app(deployer)
    with pytest.raises(NotAllowed, match="another person must agree"):
        app.rollouts.start(second, by="ben", reason="better")
    asked = strict.approvals.ask(trainer, "rollout", second, "better")
    strict.approvals.grant(deployer, asked.id, "agreed")
    app.rollouts.start(second, by="ben", reason="better")
    assert app.rollouts.promote("router", by="ben", reason="good").answers == second
    with pytest.raises(NotAllowed, match="production=router@1"):
        app.consent("name", f"production={first}")


def test_other_projects_requests_are_none(strict, trainer, admin, upload):
    submitted(strict, trainer, upload)
    [asked] = strict.approvals.list(trainer)
    from dataclasses import replace

    from luthier.store.accounts import Project

    other = Project("proj_other", admin.organisation, "other", 1.0)
    strict.store.accounts.add(other, act=strict.top.actor.act("project", other.id))
    with pytest.raises(NotFound):
        strict.approvals.get(replace(admin, project=other.id), asked.id)
