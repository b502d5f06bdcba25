"""The audit trail on both databases: entered with the change or not at all, one after the other, never changed."""

import threading

import pytest
import sqlalchemy as sa

from luthier.core.event import Event
from luthier.store import Store
from luthier.store.audit import FIRST, Act
from luthier.store.rollouts import Line
from luthier.store.traffic import Exchange


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request, tmp_path):
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return Store.open(tmp_path / "home", database_url=url)


def act(subject="router@1", **more):
    return Act("local", "released", subject, **{"person": {"user": "ann"}, **more})


def test_entries_come_back_as_they_went_in(store):
    first = store.audit.append(act(data={"run": "run-1", "share": 0.1}))
    second = store.audit.append(act("router@2", outcome="denied", person=None))
    assert list(store.audit.read()) == [first, second]
    assert (first.seq, first.previous, second.seq, second.previous) == (1, FIRST, 2, first.sha256)
    assert [one.reckoned() for one in store.audit.read()] == [first.sha256, second.sha256]
    assert {n: dict(p.person) for n, p in store.audit.people([1, 2]).items()} == {1: {"user": "ann"}}
    assert store.audit.head() == second
    assert list(store.audit.read(subject="router@2")) == [second] and list(store.audit.read(after=1)) == [
        second
    ]


def test_writers_at_once_make_one_chain(store):
    def write(n):
        for k in range(5):
            store.audit.append(act(f"by {n}, {k}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    entries = list(store.audit.read())
    assert [one.seq for one in entries] == list(range(1, 21))
    assert [one.previous for one in entries] == [FIRST, *(one.sha256 for one in entries[:-1])]


def test_a_change_and_its_entry_are_one(store):
    line = Line("router", 1, "shadow", "start", "router@1", "router@2", {}, "ann", "why", 1.0)
    store.rollouts.append(line, Event("rollout", "router"), act())
    assert [one.subject for one in store.audit.read()] == ["router@1"]
    with pytest.raises(TypeError):  # the entry cannot be made, so the step is not taken
        store.rollouts.append(
            Line("router", 2, "canary", "advance", "router@1", "router@2", {}, "ann", "why", 1.0),
            Event("rollout", "router"),
            act(data={"share": float("nan")}),
        )
    assert store.rollouts.newest("router").step == 1 and store.audit.head().seq == 1
    assert len(list(store.ledger.read(kind="rollout"))) == 1


def test_what_changed_nothing_is_not_entered(store):
    exchange = Exchange("chat-1", "router", None, "d" * 64, "k", None, [], [], None, 0, 5.0)
    store.traffic.keep(exchange)
    assert store.traffic.remove(before_s=1.0, act=act("traffic")) == 0 and store.audit.head() is None
    assert store.traffic.remove(before_s=9.0, act=act("traffic")) == 1
    assert store.audit.head().data == {"exchanges": 1}


def test_nothing_is_changed_or_removed_through_the_database(store):
    store.audit.append(act())
    for statement in (
        "update audit set actor = 'x'",
        "delete from audit",
        "update audit_people set salt = ''",
    ):
        with (
            pytest.raises(Exception, match="append-only"),
            store.audit._database.engine.begin() as connection,
        ):
            connection.execute(sa.text(statement))
    assert store.audit.head().actor == "local"


def test_who_somebody_is_goes_and_an_entry_says_so(store):
    for _ in range(3):
        store.audit.append(act())
    gone = store.audit.erase([1, 3], Act("local", "audit.erased", "audit", {"because": "asked for"}))
    assert gone == 2 and set(store.audit.people([1, 2, 3, 4])) == {2}
    assert store.audit.head().data == {"because": "asked for", "seqs": [1, 3]}
    assert store.audit.erase([1], Act("local", "audit.erased", "audit")) == 0 and store.audit.head().seq == 4


@pytest.mark.parametrize("field", ["actor", "action", "subject"])
def test_what_is_too_long_is_no_entry(store, field):
    with pytest.raises(ValueError, match=f"{field} has more than"):
        store.audit.append(Act(**{"actor": "local", "action": "a", "subject": "s", field: "x" * 300}))
    assert store.audit.head() is None
