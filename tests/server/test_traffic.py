"""What is kept of an exchange, who may judge it, and what keeps nobody from an answer."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from luthier.app.app import App
from luthier.app.retention import Retention
from luthier.server.keeping import Keeping
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

MODELS = frozenset({"chat", "models.read", "feedback"})
ASK = {"model": "router", "messages": [{"role": "user", "content": "I am jo@firm.com"}]}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    return App.open({"LUTHIER_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture(scope="module")
def door(open_door: Any, app: App) -> Any:
    return open_door(ScriptedEngine(), permissions=MODELS, traffic=Keeping(lambda _: app, 1.0))


def ask(door: Any, **more: Any) -> str:
    answer = door.http().post("/v1/chat/completions", json={**ASK, **more})
    assert answer.status_code == 200, answer.text
    return str(
        answer.json()["id"]
        if not more.get("stream")
        else answer.text.partition('"id":"')[2].partition('"')[0]
    )


def judge(door: Any, **told: Any) -> httpx.Response:
    return door.http().post("/v1/feedback", json=told)  # type: ignore[no-any-return]


@pytest.mark.parametrize("stream", [False, True])
def test_private_values_are_gone_before_it_is_kept(door, app, stream):
    found = app.traffic.show(ask(door, stream=stream))
    assert found.exchange.messages == [{"role": "user", "content": "I am [EMAIL_1]"}]
    assert found.exchange.masked >= 1
    assert (found.exchange.name, found.exchange.release) == ("router", "router@3")
    assert "jo@firm.com" not in repr(found)


NOW = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
}
CALLING = 'Let me look. <tool_call>{"name": "now", "arguments": {"zone": "jo@firm.com"}}</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
def test_functions_their_calls_and_answers_are_kept(open_door, app, stream):
    door = open_door(
        ScriptedEngine([Rule("look", Reply(CALLING))], Reply("It is late.")), permissions=MODELS, traffic=Keeping(lambda _: app, 1.0)
    )  # fmt: skip
    question = {"role": "user", "content": "look"}
    first = app.traffic.show(ask(door, messages=[question], tools=[NOW], store=True, stream=stream)).exchange
    [answer] = first.answers
    [call] = answer["tool_calls"]
    assert (answer["text"], call["function"]) == (
        "Let me look.",
        {"name": "now", "arguments": '{"zone":"[EMAIL_1]"}'},
    )
    assert first.tools == [NOW] and first.messages == [question]
    called = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    then = [
        {"role": "user", "content": "when?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "23:00"},
    ]
    again = ask(door, messages=then, tools=[NOW], tool_choice="none", stream=stream)
    second = app.traffic.show(again).exchange
    assert second.messages == [
        then[0],
        {**then[1], "content": ""},
        {"role": "tool", "content": "23:00", "tool_call_id": "c1"},
    ]
    assert second.tools == [NOW] and "tool_calls" not in second.answers[0]
    shown = app.traffic.show(ask(door, messages=[then[0]], tools=[NOW], tool_choice="none", stream=stream))
    assert shown.exchange.tools is None  # the model was shown none


def test_feedback_says_what_should_have_been_called(open_door, app):
    door = open_door(
        ScriptedEngine([Rule("look", Reply(CALLING))], Reply("It is late.")), permissions=MODELS, traffic=Keeping(lambda _: app, 1.0)
    )  # fmt: skip
    one = ask(door, messages=[{"role": "user", "content": "when?"}], tools=[NOW])
    better = {"type": "function", "function": {"name": "now", "arguments": '{"zone": "al@firm.com"}'}}
    assert judge(door, id=one, rating=-1, tool_calls=[better]).status_code == 200
    found = app.traffic.show(one)
    masked = {"type": "function", "function": {"name": "now", "arguments": '{"zone":"[EMAIL_1]"}'}}
    assert (found.rating, found.correction, found.calls) == (-1.0, None, [masked])
    for calls in (
        [{"function": {"name": "later", "arguments": "{}"}}],
        [{"function": {"name": "now", "arguments": "no"}}],
        [{"function": {"name": "now"}}],
        [{"function": {"name": "now", "arguments": '{"zone": 3}'}}],
        [{"function": {"name": "now", "arguments": '{"place": "x"}'}}],
        [{"function": {"name": "now", "arguments": "{}", "more": 1}}],
        [],
        "now",
    ):
        refused = judge(door, id=one, tool_calls=calls)
        assert refused.status_code == 400 and "tool_calls" in refused.json()["error"]["param"], calls
    told = judge(door, id=one, tool_calls=[{"function": {"name": "later", "arguments": "{}"}}]).json()[
        "error"
    ]["message"]
    assert "'later' is no function that was offered" in told
    inner = "{}"
    for _ in range(6):  # arguments within arguments, each a text that is JSON
        inner = '{"x": ' + "[" * 150 + '{"arguments": ' + json.dumps(inner) + "}" + "]" * 150 + "}"
    assert (
        judge(door, id=one, tool_calls=[{"function": {"name": "now", "arguments": inner}}]).status_code == 400
    )
    plain = ask(door)
    assert judge(door, id=plain, tool_calls=[better]).status_code == 400
    assert app.traffic.show(one).calls == [masked]
    free = {"type": "function", "function": {"name": "free"}}
    two = ask(door, messages=[{"role": "user", "content": "when?"}], tools=[free])
    assert (
        judge(
            door, id=two, tool_calls=[{"id": "c1", "function": {"name": "free", "arguments": inner}}]
        ).status_code
        == 200
    )


def test_who_says_store_false_is_not_kept(door, app):
    before = app.traffic.names()[0]["exchanges"] if app.traffic.names() else 0
    ask(door, store=False)
    assert (app.traffic.names()[0]["exchanges"] if app.traffic.names() else 0) == before


def test_a_share_of_nothing_keeps_what_clients_ask_to_keep(open_door, app):
    none = open_door(ScriptedEngine(), permissions=MODELS, traffic=Keeping(lambda _: app, 0.0))
    kept, left = ask(none, store=True), ask(none)
    assert app.traffic.show(kept).exchange.id == kept
    assert app.store.traffic.find([left]) == {}


def test_without_capture_storing_is_refused_and_feedback_finds_nothing(open_door):
    plain = open_door(ScriptedEngine(), permissions=MODELS)
    answer = plain.http().post("/v1/chat/completions", json={**ASK, "store": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "store")
    assert judge(plain, id=ask(plain), rating=1).json()["error"]["code"] == "exchange_not_found"


def test_feedback_is_kept_and_masked(door, app):
    one = ask(door)
    assert (
        judge(door, id=one, rating=-1, correction="write to al@firm.com", comment="wrong").status_code == 200
    )
    found = app.traffic.show(one)
    assert (found.rating, found.correction, found.comment) == (
        -1.0,
        "write to [EMAIL_2]",
        "wrong",
    )  # [EMAIL_1] is jo


def test_another_key_cannot_tell_whether_an_exchange_is_there(door, open_door, app):
    one = ask(door)
    other = open_door(ScriptedEngine(), permissions=MODELS, traffic=Keeping(lambda _: app, 1.0))
    theirs, nowhere = judge(other, id=one, rating=1), judge(other, id="chatcmpl-nowhere", rating=1)
    assert theirs.status_code == nowhere.status_code == 404
    assert theirs.json() == nowhere.json()
    assert app.traffic.show(one).rating is None


def test_a_key_without_the_permission_may_not_judge(open_door, app):
    weak = open_door(ScriptedEngine(), traffic=Keeping(lambda _: app, 1.0))
    assert judge(weak, id=ask(weak), rating=1).status_code == 403


@pytest.mark.parametrize(
    ("told", "param"),
    [
        ({}, "id"),
        ({"id": "x"}, "rating"),
        ({"id": "x", "rating": 2}, "rating"),
        ({"id": "x", "rating": True}, "rating"),
        ({"id": "x", "rating": "good"}, "rating"),
        ({"id": "x", "rating": 1, "choice": 8}, "choice"),
        ({"id": "x" * 129, "rating": 1}, "id"),
        ({"id": "x", "correction": ""}, "correction"),
        ({"id": "x", "rating": 1, "label": "a"}, "label"),
    ],
)
def test_feedback_that_cannot_be(door, told, param):
    answer = judge(door, **told)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_an_answer_that_is_not_there_cannot_be_judged(door):
    assert judge(door, id=ask(door), rating=1, choice=1).status_code == 404


def test_a_store_that_fails_does_not_take_the_answer(open_door, caplog):
    class Broken:
        def keep(self, *_: Any) -> None:
            raise OSError("disk full")

        def judge(self, *_: Any, **__: Any) -> bool:
            raise OSError("disk full")

    door = open_door(ScriptedEngine(), permissions=MODELS, traffic=Broken())
    ask(door)
    assert "could not be kept" in caplog.text
    assert judge(door, id="x", rating=1).json()["error"]["code"] == "internal_error"


def test_what_is_old_is_removed_while_serving(app, monkeypatch):
    capture = app.traffic.capture(1.0)
    facts: dict[str, Any] = {
        "name": "old", "release": None, "digest": "d" * 64, "key_id": "k", "user_sha256": None, "messages": [{"role": "user", "content": "q"}],
        "answers": [{"text": "a", "refusal": None}], "probability": None, "asked_to": False,
    }  # fmt: skip
    import time

    now = time.time()
    monkeypatch.setattr("luthier.app.traffic.time.time", lambda: now - 7200)
    assert capture.keep(id="chatcmpl-old", **facts)
    monkeypatch.undo()
    assert capture.keep(id="chatcmpl-new", **facts)
    until = time.monotonic() + 10
    with Retention(lambda: [("here", lambda: app)], 3600.0).running():
        while "chatcmpl-old" in app.store.traffic.find(["chatcmpl-old"]) and time.monotonic() < until:
            time.sleep(0.01)
    assert set(app.store.traffic.find(["chatcmpl-old", "chatcmpl-new"])) == {"chatcmpl-new"}
    removed = app.store.ledger.last(kind="traffic.removed")
    assert removed is not None and removed.data["exchanges"] >= 1


def test_many_clients_at_once_are_each_kept(door, app):
    before = {one["name"]: one["exchanges"] for one in app.traffic.names()}.get("router", 0)
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(ask(door))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = {one["name"]: one["exchanges"] for one in app.traffic.names()}["router"]
    assert after - before == 4 == len(set(ids))
