"""Budgets under several writers: of all who want the last of one, those get it for whom there is enough; sums of use are sums of its rows."""

import threading

import pytest
import sqlalchemy as sa

from luthier.cost.quota import Standing
from luthier.store.audit import Act, Audit
from luthier.store.budgets import Budget, Budgets, Hold, Use, Whose
from luthier.store.database import Database
from luthier.store.jobs import Job, Jobs
from luthier.store.tables import usage, usage_totals

MONTH = "2026-11"
WHOSE = Whose("org_1", "proj_1", "user_1", "abcdefgh")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path / 'x.db'}", {})
    return Database(request.getfixturevalue("postgres_url"), {})


@pytest.fixture
def audit(database):
    return Audit(database)


@pytest.fixture
def rows(database, audit):
    return Budgets(database, audit)


def budget(rows, scope="proj_1", amount=100, unit="tokens", period="month", **more):
    made = Budget(
        f"budget_{scope}_{unit}_{period}",
        scope,
        unit,
        amount,
        period,
        more.pop("alerts", [1.0]),
        0,
        "user_1",
        1.0,
    )
    return rows.add(made, Act("local", "budget.added", made.id))


def hold(job, amount, whose=WHOSE):
    return Hold(
        job, "tokens", amount, 0, whose.organisation, whose.project, whose.user, whose.key_id, MONTH, 1.0
    )


def use(amount, whose=WHOSE, time_s=1_795_000_000.0, **more):
    return Use(time_s, more.pop("month", MONTH), whose, "served", more.pop("unit", "tokens"), amount, **more)


def standing(rows, database, one, month=MONTH):
    with database.transaction() as connection:
        return Standing(one.amount_micro, *rows.standing(connection, one, month))


def submit(database, audit, rows, number, wanted):
    """Whether a job that wants so much was let in, as the desk does it."""

    def also(connection):
        for one in rows.applying(connection, WHOSE):
            if not Standing(one.amount_micro, *rows.standing(connection, one, MONTH)).lets_in(wanted):
                raise OverflowError
        rows.hold(connection, hold(f"job-{number}", wanted))

    job = Job(f"job-{number}", "proj_1", "fine_tune", {}, "user_1", 1.0)
    try:
        Jobs(database, audit).submit(job, Act("local", "job.submitted", job.id), also=also)
    except OverflowError:
        return False
    return True


def test_several_at_once_cannot_overbook(database, audit, rows):
    one = budget(rows, amount=100)
    budget(rows, scope="org_1", amount=1_000)
    let_in, barrier = [], threading.Barrier(8)

    def work(number):
        barrier.wait()
        for n in range(4):
            let_in.append(submit(database, audit, rows, f"{number}-{n}", 9))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 11 × 9 = 99 ≤ 100 < 108
    assert len(let_in) == 32 and sum(let_in) == 11
    assert standing(rows, database, one).held_micro == 99
    assert audit.head().seq == 2 + 11


def test_use_is_added_up_for_each_scope_whoever_writes(database, rows):
    other = Whose("org_1", "proj_2", "user_1", None)

    def work(whose):
        for _ in range(10):
            with database.transaction() as connection:
                rows.use(connection, [use(3, whose), use(2, whose, month="2026-12"), use(0, whose)])

    threads = [threading.Thread(target=work, args=(one,)) for one in (WHOSE, WHOSE, other, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        totals = {(r.scope, r.month): r.amount_micro for r in connection.execute(sa.select(usage_totals))}
        assert connection.execute(sa.select(sa.func.sum(usage.c.amount_micro))).scalar_one() == 200
    assert totals == {
        **{(scope, MONTH): 120 for scope in ("site", "org_1", "user_1")}, **{(s, MONTH): 60 for s in ("proj_1", "proj_2", "abcdefgh")},
        **{(scope, "2026-12"): 80 for scope in ("site", "org_1", "user_1")},
        **{(s, "2026-12"): 40 for s in ("proj_1", "proj_2", "abcdefgh")},
    }  # fmt: skip


def test_what_is_promised_becomes_use_and_what_is_left_over_is_free_again(database, audit, rows):
    monthly, whole = budget(rows, amount=100), budget(rows, scope="user_1", amount=100, period="once")
    assert submit(database, audit, rows, 1, 60)
    assert not submit(database, audit, rows, 2, 41)
    with database.transaction() as connection:
        assert [one.held_micro for one in rows.holds_of(connection, "job-1")] == [60]
        rows.use(connection, [use(25, job="job-1")])
        rows.change_hold(connection, "job-1", "tokens", metered_micro=25)
    assert standing(rows, database, monthly) == Standing(100, 25, 35)
    assert standing(rows, database, monthly, "2026-12") == Standing(
        100, 0, 35
    )  # still promised in the next month
    assert standing(rows, database, whole, "2026-12") == Standing(100, 25, 35)
    with database.transaction() as connection:
        assert rows.settle(connection, "job-1", 2.0) == 1
        assert rows.settle(connection, "job-1", 3.0) == 0
    assert standing(rows, database, monthly) == Standing(100, 25, 0)
    assert rows.held_by("job-1")[0].settled_s == 2.0
    again = budget(rows, scope="org_1", amount=50, period="once")
    assert standing(rows, database, again) == Standing(50, 0, 0)  # what was used before it is not counted


def test_reports_add_up_to_the_same_by_any_dimension(database, rows):
    other = Whose("org_1", "proj_2", "user_2", None)
    with database.transaction() as connection:
        rows.use(connection, [
            use(5, model="router@1"), use(7, time_s=1_795_090_000.0, model="router@2"), use(11, other, unit="money:EUR"),
        ])  # fmt: skip
    everything = rows.report(["project", "user", "key", "model", "kind", "day", "month"], within="site")
    assert sum(row["amount_micro"] for row in everything) == 23
    by_day = rows.report(["day"], within="org_1", unit="tokens")
    assert by_day == [
        {"day": "2026-11-18", "unit": "tokens", "amount_micro": 5}, {"day": "2026-11-19", "unit": "tokens", "amount_micro": 7},
    ]  # fmt: skip
    assert [row["amount_micro"] for row in rows.report(["month"], within="proj_1")] == [12]
    assert [row["key"] for row in rows.report(["key"], within="abcdefgh")] == ["abcdefgh"]
    assert rows.report([], within="proj_2") == [{"unit": "money:EUR", "amount_micro": 11}]
    assert rows.report(["month"], within="site", since_s=1_795_090_001.0) == []


def test_use_is_never_changed(database, rows):
    with database.transaction() as connection:
        rows.use(connection, [use(5)])
    with pytest.raises(Exception, match="append-only"), database.engine.begin() as connection:
        connection.execute(usage.delete())
