"""Traffic is kept, judged, read as it stood, and taken out, on both databases."""

import pytest

from luthier.store import Store
from luthier.store.traffic import Exchange, Judgement


@pytest.fixture(params=["sqlite", "postgresql"])
def traffic(request, tmp_path):
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return Store.open(tmp_path / "home", database_url=url).traffic


def exchange(n, name="router", time_s=None, user=None):
    return Exchange(
        id=f"chatcmpl-{n}", name=name, release=f"{name}@1", digest="d" * 64, key_id="k", user_sha256=user,
        messages=[{"role": "user", "content": f"question {n}"}], answers=[{"text": f"answer {n}", "refusal": None}],
        probability=0.5, masked=0, time_s=float(n if time_s is None else time_s),
    )  # fmt: skip


def judgement(n, rating=None, correction=None, comment=None, choice=0):
    return Judgement(f"chatcmpl-{n}", choice, rating, correction, comment, "me", 1.0)


def test_an_exchange_comes_back_as_it_was_and_only_once(traffic):
    traffic.keep(exchange(1))
    traffic.keep(exchange(1, name="other"))  # the first stays
    [found] = traffic.read()
    assert (found.exchange.name, found.exchange.messages, found.rating) == (
        "router",
        [{"role": "user", "content": "question 1"}],
        None,
    )


def test_the_newest_that_says_something_counts(traffic):
    traffic.keep(exchange(1))
    traffic.judge([judgement(1, rating=1.0, comment="fine")])
    traffic.judge([judgement(1, correction="better"), judgement(1, rating=-1.0)])
    [found] = traffic.read("router")
    assert (found.rating, found.correction, found.comment) == (-1.0, "better", "fine")


def test_only_what_was_said_of_the_answer_judged_last_counts(traffic):
    traffic.keep(exchange(1))
    traffic.judge([judgement(1, rating=1.0, choice=0), judgement(1, correction="b", choice=1)])
    [found] = traffic.read()
    assert (found.choice, found.rating, found.correction) == (1, None, "b")


def test_a_reader_sees_what_there_was_when_it_began(traffic):
    for n in range(3):
        traffic.keep(exchange(n))
    traffic.judge([judgement(0, rating=1.0)])
    through = traffic.through()
    traffic.keep(exchange(3))
    traffic.judge([judgement(0, rating=-1.0)])
    then = list(traffic.read(through=through))
    assert [one.exchange.id for one in then] == ["chatcmpl-0", "chatcmpl-1", "chatcmpl-2"]
    assert then[0].rating == 1.0
    assert len(list(traffic.read())) == 4


def test_many_pages_in_order_and_by_time(traffic, monkeypatch):
    monkeypatch.setattr("luthier.store.traffic.PAGE_ROWS", 4)
    for n in range(11):
        traffic.keep(exchange(n))
    assert [one.exchange.time_s for one in traffic.read()] == list(range(11))
    assert [one.exchange.time_s for one in traffic.read(since_s=3, until_s=7)] == [3, 4, 5, 6]


def test_what_is_removed_is_gone_with_what_was_said_of_it(traffic):
    for n in range(4):
        traffic.keep(exchange(n, user="u" if n == 3 else None))
        traffic.judge([judgement(n, rating=1.0)])
    assert traffic.remove(before_s=1.0) == 1
    assert traffic.remove(ids=["chatcmpl-2", "chatcmpl-nowhere"]) == 1
    assert traffic.remove(user_sha256="u") == 1
    assert [one.exchange.id for one in traffic.read()] == ["chatcmpl-1"]
    traffic.keep(exchange(2))  # as if it came again: nothing of the old judgement is left
    assert [one.rating for one in traffic.read()] == [1.0, None]


def test_counts(traffic):
    for n in range(3):
        traffic.keep(exchange(n, name="a" if n else "b"))
    traffic.judge([judgement(1, rating=1.0), judgement(1, comment="x")])
    assert [(one["name"], one["exchanges"], one["judged"], one["last_s"]) for one in traffic.counts()] == [
        ("a", 2, 1, 2.0),
        ("b", 1, 0, 0.0),
    ]


def test_exchanges_are_judged_for_the_first_time_once(traffic):
    for n in range(4):
        traffic.keep(exchange(n, name="router" if n < 3 else "other"))
    traffic.judge([judgement(2, rating=1.0), judgement(0, rating=-1.0), judgement(3, rating=1.0)])
    first = traffic.through().judgements
    traffic.judge([judgement(2, correction="b"), judgement(1, rating=1.0)])
    last = traffic.through().judgements
    told = lambda after, upto: [  # noqa: E731
        (one.exchange.id, one.rating, one.correction) for one in traffic.first_judged("router", after, upto)
    ]
    assert told(0, first) == [("chatcmpl-2", 1.0, None), ("chatcmpl-0", -1.0, None)]
    assert told(first, last) == [("chatcmpl-1", 1.0, None)], "who was judged before is not counted again"
    assert told(0, last)[0] == ("chatcmpl-2", 1.0, "b") and told(last, last) == []
