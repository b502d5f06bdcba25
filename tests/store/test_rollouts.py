"""Lines of rollouts on both databases: kept with their event or not at all, one of two gets the step, nothing is changed later."""

import threading

import pytest
import sqlalchemy as sa

from luthier.core.errors import Conflict
from luthier.core.event import Event
from luthier.store import Store
from luthier.store.rollouts import Line
from luthier.store.traffic import Exchange, Judgement


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request, tmp_path):
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return Store.open(tmp_path / "home", database_url=url)


def line(step, by="ann", name="router"):
    return Line(name, step, "shadow", "start", "router@1", "router@2", {"stage": 0}, by, "new data", 10.0)


def event(step):
    return Event("rollout", "router", {"step": step})


def test_lines_come_back_in_order(store):
    assert store.rollouts.newest("router") is None and store.rollouts.names() == []
    for step in (1, 2):
        store.rollouts.append(line(step), event(step))
    assert store.rollouts.newest("router") == line(2)
    assert store.rollouts.history("router") == [line(1), line(2)] and store.rollouts.names() == ["router"]
    assert [e.data["step"] for e in store.ledger.read(kind="rollout")] == [1, 2]


def test_of_two_at_once_one_gets_the_step(store):
    store.rollouts.append(line(1), event(1))
    done, together = [], threading.Barrier(4)

    def try_it(by):
        together.wait()
        try:
            store.rollouts.append(line(2, by), event(2))
            done.append(by)
        except Conflict as error:
            assert "a moment before you" in error.message and "status router" in error.remedy

    threads = [threading.Thread(target=try_it, args=(f"p{i}",)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(done) == 1 and store.rollouts.newest("router").by == done[0]
    # who came too late left no event either
    assert [e.data["step"] for e in store.ledger.read(kind="rollout")] == [1, 2]


def test_an_event_that_cannot_be_kept_keeps_no_line(store):
    with pytest.raises(TypeError):
        store.rollouts.append(line(1), Event("rollout", "router", {"share": float("nan")}))
    assert store.rollouts.newest("router") is None


@pytest.mark.parametrize("verb", ["UPDATE rollouts SET state = 'promoted'", "DELETE FROM rollouts"])
def test_nothing_is_changed_later(store, verb):
    store.rollouts.append(line(1), event(1))
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        store.rollouts._database.engine.begin() as raw,
    ):
        raw.execute(sa.text(verb))


def test_the_first_judgement_of_an_exchange_counts(store):
    for i, release in enumerate(["router@1", "router@1", "router@2", "router@2"]):
        store.traffic.keep(
            Exchange(f"x{i}", "router", release, "d", "k", None, [], [{"text": "a", "refusal": None}], None, 0, 100.0)
        )  # fmt: skip
    say = lambda x, rating=None, correction=None, comment=None: Judgement(  # noqa: E731
        x, 0, rating, correction, comment, "ann", 101.0
    )
    store.traffic.judge(
        [say("x3", 1.0), say("x1", comment="hm"), say("x0", -1.0), say("x1", correction="b"), say("x3", -1.0), say("x2", 0.0)]
    )  # fmt: skip
    assert store.traffic.bad("router", "router@1", 0) == [True, True]
    assert store.traffic.bad("router", "router@2", 0) == [False, False]
    assert store.traffic.bad("router", "router@2", 100.5) == []
