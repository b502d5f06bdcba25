"""Organisations, projects, users, grants and keys: nobody gives more than he holds, the last admin stays, and all of it is in the trail."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from luthier.app.jobs.launchers.scripted import Scripted
from luthier.app.jobs.reconciler import Reconciler
from luthier.app.site import Site
from luthier.app.webhooks import Webhooks
from luthier.core.errors import Conflict, NotAllowed, NotFound, SpecError
from luthier.governance.access import ROLES, SITE
from luthier.store.webhooks import TYPES

BOTH = pytest.mark.parametrize(
    "site", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def site(request, tmp_path):
    environ = {"LUTHIER_HOME": str(tmp_path / "site")}
    if getattr(request, "param", "sqlite") == "postgresql":
        environ["LUTHIER_DATABASE"] = request.getfixturevalue("postgres_url")
    return Site.open(environ)


@pytest.fixture
def root(site):
    """The admin of the site, with a key of the site."""
    admin = site.check(site.found()).user
    made = site.accounts.keys.create(site.operator(), scope=SITE, title="site", user=admin)
    return site.check(made.text)


def member(site, scope, role, **key):
    """Somebody who is that there, by a key of his."""
    operator = site.operator()
    user = site.accounts.create_user(operator, "person", f"some {role}", scope=scope, role=role)
    made = site.accounts.keys.create(operator, scope=scope, title=role, user=user.id, **key)
    return site.check(made.text)


@pytest.fixture
def tenants(site, root):
    """(a project and its admin, another organisation's project and its admin)"""
    first = site.accounts.projects(root)[0]
    other = site.accounts.create_organisation(root, "other")
    second = site.accounts.create_project(root, other.id, "second")
    return (first.id, member(site, first.id, "admin")), (second.id, member(site, second.id, "admin"))


@BOTH
def test_who_may_make_what(site, root, tenants):
    (first, admin), (_, stranger) = tenants
    organisation = site.accounts.project(admin, first).organisation
    with pytest.raises(NotAllowed):
        site.accounts.create_organisation(admin, "mine")
    with pytest.raises(NotFound):  # his key is of a project, and does not reach what is above it
        site.accounts.create_project(admin, organisation, "mine")
    boss = member(site, organisation, "admin")
    made = site.accounts.create_project(boss, organisation, "third")
    assert {one.id for one in site.accounts.projects(boss)} == {first, made.id}
    assert [one.id for one in site.accounts.organisations(boss)] == [organisation]
    assert site.accounts.organisations(admin) == []
    with pytest.raises(NotFound) as theirs:
        site.accounts.retitle_project(stranger, made.id, "mine")
    with pytest.raises(NotFound) as nobodys:
        site.accounts.retitle_project(stranger, made.id[:-1] + "x", "mine")
    assert str(theirs.value).replace(made.id, "") == str(nobodys.value).replace(made.id[:-1] + "x", "")
    assert len(site.accounts.projects(root)) == 3


@pytest.mark.parametrize("role", [one for one in ROLES if one != "admin"])
def test_nobody_but_an_admin_lets_anybody_in(site, tenants, role):
    (first, _), _ = tenants
    who = member(site, first, role)
    with pytest.raises(NotAllowed):
        site.accounts.create_user(who, "service", "more", scope=first, role="viewer")
    with pytest.raises(NotAllowed):
        site.accounts.grant(who, first, who.user, "admin")


def test_what_is_given_is_held(site, root, tenants):
    (first, admin), _ = tenants
    organisation = site.accounts.project(root, first).organisation
    for scope in (organisation, SITE):
        with pytest.raises((NotAllowed, NotFound)):
            site.accounts.grant(admin, scope, admin.user, "admin")
    reduced = site.check(
        site.accounts.keys.create(
            admin, scope=first, title="less", permissions=["members.write", "status"]
        ).text
    )
    with pytest.raises(NotAllowed, match="which you do not hold"):
        site.accounts.create_user(reduced, "service", "more", scope=first, role="admin")
    with pytest.raises(NotAllowed):
        site.accounts.create_user(reduced, "service", "more", scope=first, role="viewer")


def test_a_key_reaches_no_further_than_its_maker(site, root, tenants):
    (first, admin), (second, stranger) = tenants
    verbs = site.accounts.keys
    trainer = member(site, first, "trainer")
    own = site.check(verbs.create(trainer, scope=first, title="script").text)
    assert own.permissions == ROLES["trainer"]
    for scope in (second, SITE, site.accounts.project(root, first).organisation):
        with pytest.raises((NotAllowed, NotFound)):
            verbs.create(trainer, scope=scope, title="more")
    with pytest.raises(NotAllowed):
        verbs.create(trainer, scope=first, title="more", permissions=["members.write"])
    with pytest.raises(NotFound):  # somebody whom he may not see
        verbs.create(trainer, scope=first, title="more", user=admin.user)
    with pytest.raises(NotAllowed, match="is a person"):
        verbs.create(admin, scope=first, title="as another", user=trainer.user)
    with pytest.raises(NotAllowed, match="is a person"):
        verbs.rotate(admin, own.key_id)
    less = site.check(verbs.create(trainer, scope=first, title="less", permissions=["keys.own", "chat"]).text)
    assert less.permissions == {"keys.own", "chat"}
    with pytest.raises(NotAllowed, match="made for less"):
        verbs.create(less, scope=first, title="all again")
    with pytest.raises(NotAllowed):
        verbs.create(less, scope=first, title="more", permissions=["jobs.write"])
    with pytest.raises(NotAllowed):
        verbs.rotate(less, own.key_id)  # it would hand out all that its user may
    assert site.check(
        verbs.create(less, scope=first, title="same", permissions=["chat"]).text
    ).permissions == {"chat"}
    short = site.check(verbs.create(trainer, scope=first, title="short", expires_s=time.time() + 60).text)
    with pytest.raises(NotAllowed, match="expires"):
        verbs.create(short, scope=first, title="for ever")
    assert [one.title for one in verbs.list(stranger)] == ["admin"]


def test_a_key_follows_its_user(site, tenants):
    (first, admin), _ = tenants
    service = site.accounts.create_user(admin, "service", "builder", scope=first, role="trainer")
    text = site.accounts.keys.create(admin, scope=first, title="ci", user=service.id).text
    assert "jobs.write" in site.check(text).permissions
    site.accounts.grant(admin, first, service.id, "viewer")
    site.accounts.end_grant(admin, first, service.id, "trainer")
    assert site.check(text).permissions == ROLES["viewer"]
    site.accounts.end_user(admin, service.id)
    assert site.check(text) is None
    with pytest.raises(NotFound):
        site.accounts.user(admin, service.id)


@BOTH
def test_rotation(site, tenants):
    (first, admin), _ = tenants
    verbs = site.accounts.keys
    old = verbs.create(admin, scope=first, title="old", expires_s=time.time() + 1_000)
    new = verbs.rotate(admin, old.key.id, grace_s=60)
    assert site.check(old.text) and site.check(new.text)
    assert new.key.replaces == old.key.id and 990 < new.key.expires_s - time.time() < 1_001
    with pytest.raises(Conflict):
        verbs.rotate(admin, old.key.id)
    newer = verbs.rotate(admin, new.key.id)
    assert site.check(new.text) is None and site.check(newer.text)
    verbs.end(admin, newer.key.id)
    assert site.check(newer.text) is None
    with pytest.raises(NotFound):
        verbs.end(admin, newer.key.id)
    for wrong in (-1, 8 * 86_400):
        with pytest.raises(SpecError):
            verbs.rotate(admin, old.key.id, grace_s=wrong)
    with pytest.raises(SpecError):
        verbs.create(admin, scope=first, title="late", expires_s=1.0)
    with pytest.raises(SpecError):
        verbs.create(admin, scope=first, title="none", permissions=[])


def test_a_key_made_for_little_ends_none_made_for_more(site, root, tenants):
    (first, admin), _ = tenants
    verbs = site.accounts.keys
    full = verbs.create(admin, scope=first, title="full").key
    narrow = site.check(verbs.create(admin, scope=first, title="narrow", permissions=["keys.own"]).text)
    peer = verbs.create(admin, scope=first, title="peer", permissions=["keys.own"]).key
    with pytest.raises(NotAllowed, match="which you do not hold"):
        verbs.end(narrow, full.id)
    verbs.end(narrow, peer.id)
    verbs.end(narrow, narrow.key_id)
    verbs.end(admin, full.id)
    assert [one.title for one in verbs.list(admin)] == ["admin"]


def test_a_user_has_so_many_keys_and_no_more(site, tenants, monkeypatch):
    monkeypatch.setattr("luthier.app.api_keys.MOST_KEYS", 3)
    (first, admin), _ = tenants
    verbs = site.accounts.keys
    verbs.create(admin, scope=first, title="second")
    last = verbs.create(admin, scope=first, title="third").key
    with pytest.raises(Conflict, match="3 keys already"):
        verbs.create(admin, scope=first, title="fourth")
    verbs.end(admin, verbs.rotate(admin, last.id).key.id)
    verbs.create(admin, scope=first, title="fourth")


def test_an_identity_is_given_by_who_admins_more_than_a_project(site, root, tenants):
    (first, admin), _ = tenants
    organisation = site.accounts.project(root, first).organisation
    boss = member(site, organisation, "admin")
    who = {"scope": first, "role": "viewer", "issuer": "https://i.example"}
    for identity in ({"subject": "sub-1"}, {"email": "ann@example.com"}):
        with pytest.raises(NotAllowed, match="admin of the organisation"):
            site.accounts.create_user(admin, "person", "Ann", **who, **identity)
        assert site.accounts.create_user(boss, "person", "Ann", **who, **identity).issuer == who["issuer"]


def test_who_is_nothing_anywhere_is_the_sites(site, root, tenants):
    (first, admin), _ = tenants
    user = site.accounts.create_user(admin, "person", "Bob", scope=first, role="viewer")
    site.accounts.end_grant(admin, first, user.id, "viewer")
    himself = replace(admin, user=user.id)
    with pytest.raises(NotAllowed):
        site.accounts.rename_user(himself, user.id, "Rob")
    site.accounts.end_user(root, user.id)


@BOTH
def test_the_last_admin_stays(site, root, tenants):
    (first, admin), _ = tenants
    for end in (
        lambda: site.accounts.end_grant(admin, first, admin.user, "admin"),
        lambda: site.accounts.end_user(admin, admin.user),
        lambda: site.accounts.end_grant(root, SITE, root.user, "admin"),
        lambda: site.accounts.end_user(root, root.user),
    ):
        with pytest.raises(Conflict, match="last admin"):
            end()
    assert site.accounts.grants(admin, first)[0].user == admin.user


@BOTH
def test_of_two_who_take_each_other_out_one_stays(site, root, tenants):
    (first, one), _ = tenants
    other = member(site, first, "admin")
    went = []

    def end(who, whom):
        try:
            site.accounts.end_grant(who, first, whom.user, "admin")
            went.append(whom.user)
        except (Conflict, NotFound, NotAllowed):
            pass

    threads = [threading.Thread(target=end, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(went) == 1
    assert [grant.role for grant in site.accounts.grants(root, first)] == ["admin"]


def test_nobody_ends_a_user_of_others(site, root, tenants):
    (first, admin), (second, stranger) = tenants
    shared = site.accounts.create_user(admin, "person", "shared", scope=first, role="viewer")
    with pytest.raises(NotFound):
        site.accounts.end_user(stranger, shared.id)
    with pytest.raises(NotFound):  # nor lets him in, which would tell that he is there
        site.accounts.grant(stranger, second, shared.id, "viewer")
    site.accounts.grant(root, second, shared.id, "viewer")
    with pytest.raises(NotAllowed):
        site.accounts.end_user(admin, shared.id)
    site.accounts.end_grant(stranger, second, shared.id, "viewer")
    site.accounts.end_user(admin, shared.id)


@BOTH
def test_the_queue_of_a_project_that_ends_ends_and_everybody_hears_of_it(site, tenants):
    (_, other), (second, admin) = tenants
    launcher = Scripted()
    reconciler = Reconciler(site, owner="one", launcher=launcher)
    runs, theirs = site.jobs.submit(admin, "fine_tune", {}), site.jobs.submit(other, "fine_tune", {})
    reconciler.step()
    site.store.attempts.began(runs.id, site.store.attempts.of(runs.id)[0].fence, {}, time.time() - 60)
    waits = site.jobs.submit(admin, "fine_tune", {})
    nightly = site.jobs.schedules.add(admin, "nightly", "@daily", "fine_tune", {})
    hook, _ = Webhooks(site).create(admin, title="told", url="https://hooks.example/in", events=TYPES)
    site.accounts.end_project(admin, second)
    get = lambda job: site.store.jobs.get(job.project, job.id)  # noqa: E731
    assert (get(waits).state, get(runs).state, get(runs).wanted) == ("cancelled", "running", "cancel")
    assert site.store.schedules.list(second) == []
    reconciler.step()
    launcher.end(f"{runs.id}/1", {"state": "stopped", "time_s": time.time()})
    reconciler.step()
    assert (get(runs).state, get(theirs).state) == ("cancelled", "running")
    last = {job.id: [one.data["message"] for one in site.store.jobs.events(job.id)] for job in (waits, runs)}
    assert last[waits.id][-1] == "Job cancelled: its project was ended"
    assert "Job cancelled, once its attempt has saved and stopped: its project was ended" in last[runs.id]
    assert {one.event["data"]["id"] for one in site.store.webhooks.deliveries(hook)} == {waits.id, runs.id}
    acts = {(one.action, one.subject) for one in site.store.audit.read() if one.data.get("with") == second}
    assert acts == {
        ("job.cancelled", waits.id),
        ("job.cancel", runs.id),
        ("schedule.removed", nightly.id),
    }
    assert site.top.audit.verify().sound


@BOTH
def test_a_project_that_ends_takes_its_keys_and_jobs_with_it(site, root, tenants):
    (_, _), (second, admin) = tenants
    job = site.jobs.submit(admin, "fine_tune", {})
    key = site.accounts.keys.list(admin)[0]
    organisation = admin.organisation
    with pytest.raises(Conflict):
        site.accounts.end_organisation(root, organisation)
    site.accounts.end_project(admin, second)
    assert site.store.jobs.get(second, job.id).state == "cancelled"
    assert site.store.accounts.key(key.id) is None
    with pytest.raises(NotFound):
        site.accounts.project(root, second)
    site.accounts.end_organisation(root, organisation)
    site.accounts.end_user(root, admin.user)  # who was the last admin of what is over


@BOTH
def test_a_job_that_comes_while_its_project_ends_is_refused_or_cancelled(site, tenants):
    _, (second, admin) = tenants

    def enter():
        entered = []
        with suppress(NotFound, NotAllowed):
            while True:
                entered.append(site.jobs.submit(admin, "fine_tune", {}).id)
        return entered

    with ThreadPoolExecutor(4) as threads:
        entering = [threads.submit(enter) for _ in range(4)]
        time.sleep(0.5)
        site.accounts.end_project(admin, second)
        entered = [job for one in entering for job in one.result(timeout=60)]
    assert entered
    assert {site.store.jobs.get(second, job).state for job in entered} == {"cancelled"}


TITLES = [
    "",
    " ",
    "a\nb",
    "a\x00b",
    "a\x1b[31mb",
    "\u202eevil",
    "a\u200bb",
    "x" * 201,
    "\ud800",
    "\ue000",
    "a\u2028b",
]


@pytest.mark.parametrize("title", TITLES, ids=[ascii(one)[:20] for one in TITLES])
def test_names_that_hide_something_are_refused(site, root, title):
    with pytest.raises(SpecError):
        site.accounts.create_organisation(root, title)


@BOTH
def test_two_names_that_look_the_same_are_one(site, root, tenants):
    organisation = site.accounts.create_organisation(root, "Cafe\u0301")
    assert organisation.title == "Caf\u00e9"
    for same in ("caf\u00e9", "CAFE\u0301", " Caf\u00e9 ", "\uff23af\u00e9"):
        with pytest.raises(Conflict):
            site.accounts.create_organisation(root, same)
    one = site.accounts.create_project(root, organisation.id, "one")
    two = site.accounts.create_project(root, organisation.id, "two")
    with pytest.raises(Conflict):
        site.accounts.retitle_project(root, two.id, "ONE")
    assert site.accounts.retitle_project(root, one.id, "ONE").title == "ONE"
    elsewhere = site.accounts.project(root, tenants[0][0]).organisation
    assert site.accounts.create_project(root, elsewhere, "one").title == "one"


@BOTH
def test_every_change_is_in_the_trail_and_names_nobody_in_what_stays(site, root, tenants):
    (first, admin), _ = tenants
    secret_name = "Ann Canary"
    user = site.accounts.create_user(
        root,
        "person",
        secret_name,
        scope=first,
        role="viewer",
        issuer="https://i.example",
        email="Ann@Canary.example",
    )
    site.accounts.rename_user(admin, user.id, f"{secret_name} II")
    entries = list(site.top.audit.read())
    done = {one.entry.action for one in entries}
    assert done >= {
        "site.founded", "organisation.created", "project.created", "user.created", "key.created", "user.changed",
    }  # fmt: skip
    assert not [one for one in entries if "canary" in str(one.entry).casefold()]
    mine = [one.entry.action for one in site.top.audit.read(mentions=first)]
    assert "user.created" in mine and "organisation.created" not in mine
    assert all(one.entry.data.get("project", first) == first for one in site.top.audit.read(mentions=first))
    assert site.top.audit.verify().sound


@BOTH
def test_who_somebody_was_can_be_taken_out(site, root, tenants):
    (first, admin), _ = tenants
    ann = site.accounts.create_user(
        root,
        "person",
        "Ann Canary",
        scope=first,
        role="trainer",
        issuer="https://i.example",
        subject="canary-7",
    )
    caller = site.check(
        site.accounts.keys.create(site.operator(), scope=first, title="Ann's", user=ann.id).text
    )
    site.jobs.submit(caller, "fine_tune", {})
    with pytest.raises(NotFound):
        site.accounts.erase_user(root, ann.id, "asked to")
    site.accounts.end_user(admin, ann.id)
    with pytest.raises(NotAllowed):
        site.accounts.erase_user(admin, ann.id, "asked to")
    assert site.accounts.erase_user(root, ann.id, "asked to") == 1
    with site.store.database.reading() as connection:
        for table in ("users", "api_keys", "audit", "audit_people"):
            rows = connection.exec_driver_sql(f"select * from {table}").all()
            assert "canary" not in str(rows).casefold() and "Ann" not in str(rows)
    assert site.top.audit.verify().sound


@BOTH
def test_a_site_is_founded_once_however_many_start_it(site):
    others = [Site.open(site.environ) for _ in range(3)]
    texts, threads = [], []
    for one in others:
        one.store  # noqa: B018  (opened: what is raced for is the founding)
        threads.append(threading.Thread(target=lambda one=one: texts.append(one.found())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([text for text in texts if text]) == 1
    assert len(site.store.accounts.projects()) == 1
