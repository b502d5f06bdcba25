"""Of two transactions of a server's home none waits for the other while that waits for it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from luthier.app.jobs.observing import observer_of
from luthier.app.spending import MACHINE
from luthier.core.errors import NotAllowed
from luthier.store.attempts import Change, Choice
from luthier.store.audit import Act
from luthier.store.tables import jobs

WISH = {"base": "smollm2-135m-instruct", "files": {"train": "file-abc", "test": None}, "train": {"epochs": 1}}


@pytest.mark.parametrize("site", ["postgres"], indirect=True)
def test_a_job_ends_with_its_tokens_while_another_is_promised_some(site, admin, trainer, upload):
    """Both go from the budget to the trail. Who enters has the budget and waits until the other must have come as far as it gets."""
    site.environ[MACHINE] = "without a price"  # so that the end of its time touches no budget
    upload("file-abc", 3_000)
    site.budgets.add(admin, "project", "tokens", 1e9)
    job, lease = running(site, trainer)
    promised, over = threading.Event(), threading.Event()

    def also(connection):
        promised.set()
        assert not over.wait(0.3)

    def end():
        assert promised.wait(10)
        act = Act("server", "job.succeeded", job.id)
        change = Change("succeeded", None, "succeeded", "Done", result={"trained_tokens": 7}, act=act)
        ours, now = observer_of(site), time.time()
        try:
            return site.store.attempts.end(
                lease, job.id, 1, lambda *_: change, now_s=now, metered=ours.metered, ended=ours.ended, ran_until_s=now
            )  # fmt: skip
        finally:
            over.set()

    with ThreadPoolExecutor(2) as threads:
        ending, entering = (
            threads.submit(end),
            threads.submit(lambda: site.jobs.submit(trainer, "fine_tune", WISH, also=also)),
        )
        assert (ending.result(30).state, entering.result(30).state) == ("succeeded", "queued")
    assert site.budgets.usage(admin, [], unit="tokens") == [{"unit": "tokens", "amount": 7}]


@pytest.mark.parametrize("site", ["postgres"], indirect=True)
def test_the_trail_is_written_last_whenever_it_is_entered(site, admin, trainer):
    """One enters and then wants a row, the other has the row and enters: neither holds the trail while it waits."""
    job = site.jobs.submit(trainer, "scripted", {})
    entered, locked = threading.Event(), threading.Event()
    row = sa.select(jobs).where(jobs.c.id == job.id).with_for_update()

    def first():
        with site.store.database.transaction() as connection:
            site.store.audit.enter(connection, Act("server", "first", job.id))
            entered.set()
            assert locked.wait(10)
            connection.execute(row).one()

    def second():
        assert entered.wait(10)
        with site.store.database.transaction() as connection:
            connection.execute(row).one()
            locked.set()
            time.sleep(0.2)
            site.store.audit.enter(connection, Act("server", "second", job.id))

    with ThreadPoolExecutor(2) as threads:
        for work in [threads.submit(first), threads.submit(second)]:
            work.result(30)
    told = [one.action for one in site.store.audit.read(subject=job.id) if one.actor == "server"]
    assert told == ["second", "first"]
    assert site.top.audit.verify().sound


def test_what_cannot_be_entered_is_refused_where_it_is_entered_and_a_change_that_fails_enters_nothing(
    site, trainer
):
    before = site.store.audit.head()
    with pytest.raises(ValueError, match="subject has more"), site.store.database.transaction() as connection:
        site.store.audit.enter(connection, Act("server", "x", "s" * 257))
    with pytest.raises(TypeError), site.store.database.transaction() as connection:
        site.store.audit.enter(connection, Act("server", "x", "s", {"when": object()}))
    with pytest.raises(RuntimeError), site.store.database.transaction() as connection:
        site.store.audit.enter(connection, Act("server", "x", "s"))
        raise RuntimeError
    site.store.audit.append(Act("server", "y", "s"))
    assert [one.action for one in site.store.audit.read(after=before.seq if before else 0)] == ["y"]


@pytest.mark.parametrize("wanted", ["run", "cancel"])
def test_a_host_that_is_given_up_takes_back_no_job_that_ended_a_moment_before(
    site, trainer, upload, monkeypatch, wanted
):
    from luthier.store import attempts

    upload("file-abc", 3_000)
    job, lease = running(site, trainer)
    if wanted == "cancel":
        site.jobs.ask(trainer, job.id, "cancel")
    stale = site.store.attempts.running()
    act, ours = Act("server", "job.succeeded", job.id), observer_of(site)
    change = Change("succeeded", None, "succeeded", "Done", result={}, act=act)
    site.store.attempts.end(
        lease, job.id, 1, lambda *_: change, now_s=time.time(), metered=ours.metered, ended=ours.ended, ran_until_s=None
    )  # fmt: skip
    monkeypatch.setattr(attempts, "_running", lambda _: stale)
    assert site.jobs.abandon(site.operator(), "here") == []
    assert site.jobs.get(trainer, job.id).state == "succeeded"


def test_only_who_may_write_jobs_everywhere_gives_a_host_up(site, trainer):
    with pytest.raises(NotAllowed, match="is not held in site"):
        site.jobs.abandon(trainer, "here")


def running(site, caller):
    job, now = site.jobs.submit(caller, "fine_tune", WISH), time.time()
    [(_, attempt, lease)] = site.store.attempts.start(
        lambda queue: Choice({job.id: {"host": "here", "gpus": [], "cores": 1}}),
        owner="one", launcher="scripted", now_s=now, lease_s=60.0, also=lambda *_: None,
    )  # fmt: skip
    site.store.attempts.began(job.id, attempt.fence, {}, now - 5)
    return job, lease
