"""What a job uses while it runs: taken from its promise, promised anew while something is left, halted where nothing is; alerts once."""

from dataclasses import replace

import pytest

from luthier.app.jobs.watching import JobWatch
from luthier.app.spending import ALERT, Spending, settle_left_over
from luthier.core.errors import NotAllowed, SpecError
from luthier.core.event import Event
from luthier.cost.quota import MICRO
from luthier.store.ledger import row_of
from luthier.store.tables import events
from luthier.store.tables import jobs as job_rows

WISH = {"base": "smollm2-135m-instruct", "files": {"train": "file-abc", "test": None}, "train": {"epochs": 1}}


@pytest.fixture
def job(site, trainer, upload, admin):
    upload("file-abc", 3_000)
    site.budgets.add(admin, "project", "money:EUR", 2.0, alerts=[0.5, 1.0])
    return site.jobs.submit(trainer, "fine_tune", WISH)


@pytest.fixture
def spending(site):
    return Spending(site)


def meter(site, spending, job, seconds):
    with site.store.database.transaction() as connection:
        spending.metered(connection, job, seconds)


def standing(site, admin):
    [told] = site.budgets.list(admin)
    return told["used"], told["promised"], told["left"]


def test_gpu_hours_are_of_the_gpus_that_a_job_is_given_whatever_it_says(
    site, admin, trainer, upload, spending
):
    from luthier.store.tables import attempts

    upload("file-abc", 3_000)
    site.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    site.budgets.add(admin, "project", "gpu_hours", 1.0)
    job = site.jobs.submit(trainer, "fine_tune", WISH)  # it does not say how many
    assert standing(site, admin)[1] == 0.25
    with site.store.database.transaction() as connection:
        connection.execute(
            job_rows.update().where(job_rows.c.id == job.id).values(state="running", attempts=1)
        )
        connection.execute(attempts.insert().values(
            job=job.id, number=1, state="running", fence=1, launcher="local", handle={"gpus": ["0", "1"]}, created_s=0.0,
        ))  # fmt: skip
    meter(site, spending, site.store.jobs.get(job.project, job.id), 360)
    assert standing(site, admin)[0] == pytest.approx(0.2)


@pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)
def test_metered_while_running_and_settled_at_the_end(site, admin, job, spending):
    assert standing(site, admin) == (0, 0.5, 1.5)
    meter(site, spending, job, 300)  # 1/12 h at 2 EUR
    used, promised, left = standing(site, admin)
    assert (used, promised) == (pytest.approx(1 / 6, abs=1e-6), pytest.approx(1 / 3, abs=1e-6))
    assert used + promised + left == pytest.approx(2)
    with site.store.database.transaction() as connection:
        spending.ended(connection, site.store.jobs.get(job.project, job.id))
        spending.ended(connection, job)
    assert standing(site, admin)[1] == 0
    rows = site.budgets.usage(admin, ["job", "model", "kind", "user"])
    [row] = rows
    assert row == {
        "job": job.id, "model": WISH["base"], "kind": "fine_tune", "user": job.by, "unit": "money:EUR",
        "amount": pytest.approx(1 / 6, abs=1e-6),
    }  # fmt: skip


def test_a_job_is_promised_more_while_something_is_left_and_halted_where_nothing_is(
    site, admin, job, spending
):
    for _ in range(23):
        meter(site, spending, job, 150)  # 1/12 EUR each
        assert spending.may_run(job) is None
        used, promised, left = standing(site, admin)
        assert left >= 0 and used + promised <= 2 + 1e-6
    meter(site, spending, job, 150)
    assert standing(site, admin)[0] == pytest.approx(2, abs=1e-4)
    halt = spending.may_run(job)
    if halt is None:  # rounding left a millionth
        meter(site, spending, job, 150)
        halt = spending.may_run(job)
    assert (halt.then, halt.code) == ("paused", "budget_exhausted")
    [budget] = site.budgets.list(admin)
    site.budgets.change(admin, budget["id"], amount=5)
    assert spending.may_run(job) is None
    told = [event.data["share"] for event in site.store.ledger.read(kind=ALERT)]
    assert told == [0.5, 1.0]
    assert [entry.data["share"] for entry in site.store.audit.read(action=ALERT)] == [0.5, 1.0]


def test_another_jobs_promise_is_not_used_up(site, admin, trainer, job, spending):
    for _ in range(3):
        site.jobs.submit(trainer, "fine_tune", WISH)
    assert standing(site, admin) == (0, 2, 0)
    meter(site, spending, job, 899)
    assert spending.may_run(job) is None  # within its own promise
    meter(site, spending, job, 2)
    assert spending.may_run(job) is not None
    assert standing(site, admin)[1] == pytest.approx(1.5)


def test_tokens_that_a_job_says_it_learnt_from_are_entered(site, admin, job, spending):
    from dataclasses import replace

    with site.store.database.transaction() as connection:
        spending.ended(connection, replace(job, result={"trained_tokens": 700}))
        spending.ended(connection, replace(job, result={"trained_tokens": 700}))
    assert site.budgets.usage(admin, [], unit="tokens") == [{"unit": "tokens", "amount": 700}]


@pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)
@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_tokens_of_a_run_are_those_that_its_story_tells_of_every_attempt(
    site, admin, trainer, spending, state
):
    job = site.jobs.submit(trainer, "verb", {"verb": "data.prepare"})
    lines: list = []
    watch = JobWatch(job.id, lambda events, _: lines.extend(events), lambda: 0.0)
    for _attempt in range(2):  # the second did the last step again
        watch.event(Event("step", "run", {"step": 1, "loss": 2.0, "tokens": 90}))
        watch.event(Event("validation", "run", {"step": 1, "loss": 2.0, "tokens": 1_000}))
    watch.event(Event("asked", "run", {"by": "judge", "requests": 2, "tokens_in": 30, "tokens_out": 4}))
    watch.event(Event("step", "run", {"step": 2, "loss": 1.0, "tokens": "many"}))
    watch.flush()
    with site.store.database.transaction() as connection:
        connection.execute(events.insert(), [row_of(one) for one in lines])
        spending.ended(connection, replace(job, state=state, result={"result": {}, "files": []}))
        spending.ended(connection, replace(job, state=state, result={"result": {}, "files": []}))
    rows = site.budgets.usage(admin, ["job", "kind"], unit="tokens")
    assert rows == [{"job": job.id, "kind": "verb", "unit": "tokens", "amount": 90 + 90 + 34}]


def test_the_time_a_token_took_is_learnt_from_jobs_that_succeeded(site, trainer, job):
    from luthier.store.tables import attempts

    with site.store.database.transaction() as connection:
        connection.execute(job_rows.update().values(
            state="succeeded", started_s=100.0, finished_s=9_150.0, result={"trained_tokens": 1_000}
        ))  # fmt: skip
        for number, state, began_s, ended_s in (
            (1, "stopped", 100, 130),  # paused for two hours and more
            (2, "lost", None, 9_000),  # which never began
            (3, "succeeded", 9_130, 9_150),
        ):
            connection.execute(attempts.insert().values(
                job=job.id, number=number, state=state, fence=number, launcher="local", handle={}, created_s=0.0, started_s=began_s,
                finished_s=ended_s,
            ))  # fmt: skip
    later = site.jobs.submit(trainer, "fine_tune", WISH, resources={"gpus": 2})
    held = {one.unit: one.held_micro for one in site.store.budgets.held_by(later.id)}
    # 1,000 tokens at 50 ms: 50 s, with two GPUs
    assert held == {"tokens": 1_000 * MICRO, "gpu_hours": 27_778, "money:EUR": 27_778}
    assert settle_left_over(site) == 1
    assert settle_left_over(site) == 0


def test_who_may_set_a_budget_and_read_what_was_used(site, admin, trainer, join):
    for scope in ("project", "organisation", "site"):
        with pytest.raises(NotAllowed):
            site.budgets.add(trainer, scope, "tokens", 5)
    with pytest.raises(NotAllowed):
        site.budgets.usage(trainer, ["month"])
    assert site.budgets.usage(join("aud", "auditor"), ["month"]) == []
    wide = join("max", "admin", scope=admin.organisation)
    made = site.budgets.add(wide, "organisation", "gpu_hours", 5, period="once")
    with pytest.raises(NotAllowed):
        site.budgets.end(admin, made["id"])
    assert made["id"] in [one["id"] for one in site.budgets.list(trainer)]
    site.budgets.end(wide, made["id"])
    assert site.budgets.list(trainer) == []
    for wrong in ({"unit": "euros"}, {"amount": 0}, {"period": "week"}, {"alerts": [2]}):
        with pytest.raises(SpecError):
            site.budgets.add(admin, "project", **{"unit": "tokens", "amount": 5, **wrong})
    for wrong in (["planet"], ["day", "day"]):
        with pytest.raises(SpecError):
            site.budgets.usage(admin, wrong)


def test_tokens_that_models_have_read_and_written_are_entered_at_the_end_under_the_name_that_was_asked(
    site, trainer, admin, spending
):
    job = site.jobs.submit(trainer, "eval_run", {"run": "evalrun_1"}, shown={"model": "tiny-1"})
    with site.store.database.transaction() as connection:
        done = replace(site.store.jobs.get(job.project, job.id), result={"run": "evalrun_1", "tokens": 34})
        spending.ended(connection, done)
        spending.ended(connection, done)
    rows = site.budgets.usage(admin, ["job", "model"], unit="tokens")
    assert rows == [{"job": job.id, "model": "tiny-1", "unit": "tokens", "amount": 34}]
