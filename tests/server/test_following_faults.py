"""What a followed name does when something near it fails: the database, a load, the stable version itself, a copy that hangs. No network
but for guards, calls and vectors; the store is a stand-in that can be away."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import httpx
import pytest

from luthier.core.errors import StoreError
from luthier.deployment.evidence import Count
from luthier.deployment.rollout import begin, take
from luthier.deployment.spec import RolloutSpec
from luthier.server.arm import Arm
from luthier.server.following import Followed, Following
from luthier.server.keys import KeyRing, generate
from luthier.server.metrics import Metrics
from luthier.server.openai import create_app
from luthier.server.pulse import Pulse
from luthier.server.router import Again, Asker, Ending
from luthier.server.screen import GuardSpec
from luthier.server.serve import running
from luthier.server.served import ServedModel
from luthier.serving.engine import Cancelled, Message, Refused, Request
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

HI = Again(Request((Message("user", "hi"),)))


def model(ref, engine=None):
    made = engine or ScriptedEngine(default=Reply("bad word"), slots=2)
    made.load()
    return ServedModel("router", made, package_digest="d" * 64, release=ref)


class Source:
    """server.following.Source with one line that the test moves. `away`: the database is not there."""

    def __init__(self):
        self.at, self.away, self.torn, self.told, self.loads, self.engines = None, False, set(), [], [], {}
        self.models = []

    def current(self, name):
        self._there()
        return self.at

    def load(self, name, ref):
        self.loads.append(ref)
        self._there()
        if ref in self.torn:
            raise StoreError("the blobs are away.")
        self.models.append(model(ref, self.engines.get(ref)))
        return self.models[-1]

    def reject(self, at, why):
        self._there()
        self.at = self.do("reject")

    def observe(self, at, tally):
        self._there()
        self.told.append((at.id, at.state, tally.requests))

    def review(self, name):
        self._there()
        return self.at

    def _there(self):
        if self.away:
            raise StoreError("the database is away.")

    def start(self, candidate="router@2", **plan):
        stable = "router@1" if self.at is None else self.at.answers
        self.at = begin(
            "router", self.at, stable, candidate, RolloutSpec(**plan), by="a", reason="b", now_s=time.time()
        )

    def do(self, action):
        self.at = take(self.at, action, by="a", reason="b", now_s=time.time())
        return self.at


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def name(source):
    made = Followed("router", Arm("router@1", model("router@1")), source, grace_s=0.0, retry_s=0.1)
    yield made
    source.away = False
    made.stop()


def polled(name, condition, limit_s=8.0):
    until_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < until_s, "it did not happen in time"
        with suppress(StoreError):
            name.poll()
        time.sleep(0.01)
    return found


def held(name):
    """What was seen is too little to be told at once, so that the test can look at it."""
    name._told_s, name._told_requests = time.monotonic(), 10**6


def tried(name):
    return polled(name, lambda: name.table.candidate)


def test_a_load_that_a_blip_broke_is_tried_again(name, source):
    source.start(canary=[0.5, 1.0])
    name.poll()  # begins to load
    source.away = True
    polled(name, lambda: name._loading is not None and not name._loading.is_alive())
    source.away = False
    assert tried(name).ref == "router@2"
    source.do("promote")
    polled(name, lambda: name.table.stable.ref == "router@2")


def test_a_load_whose_rejection_could_not_be_recorded_is_tried_again(name, source, monkeypatch):
    load = source.load

    def gone(name, ref):
        source.away = True
        return load(name, ref)

    monkeypatch.setattr(source, "load", gone)
    monkeypatch.setattr("luthier.server.following.TRIES", 1)
    source.start(canary=[0.5, 1.0])
    polled(name, lambda: source.away)
    polled(name, lambda: not name._loading.is_alive())
    monkeypatch.setattr(source, "load", load)
    source.away = False
    assert tried(name).ref == "router@2" and source.at.state == "canary"


def test_blobs_that_stay_away_are_held_against_the_candidate_in_the_end(name, source):
    source.torn = {"router@2"}
    source.start(canary=[1.0])
    polled(name, lambda: source.at.state == "rejected")
    assert source.loads == ["router@2"] * 3


def test_the_version_before_is_loaded_until_it_answers_again(name, source):
    source.start(canary=[1.0])
    tried(name)
    source.do("promote")
    polled(name, lambda: [arm.model.release for arm in name.arms] == ["router@2"])
    source.torn = {"router@1"}
    source.do("roll_back")
    polled(name, lambda: source.loads.count("router@1") >= 2)
    assert name.table.stable.ref == "router@2"  # what answers goes on meanwhile
    source.torn = set()
    polled(name, lambda: name.table.stable.ref == "router@1")


def test_without_a_user_each_request_is_drawn(name, source):
    source.start(canary=[0.5, 1.0])
    tried(name)

    def drawn(asker):
        lease = name.take(asker)
        lease.end(None)  # what is not given back keeps the name from stopping
        return lease.headers["x-luthier-variant"]

    assert {drawn(Asker("one key")) for _ in range(60)} == {
        "stable",
        "candidate",
    }  # all on one side: once in 2**59
    assert len({drawn(Asker("one key", "ann")) for _ in range(20)}) == 1


class Failing(ScriptedEngine):
    def _answer(self, request, unwanted):
        if request.messages[-1].content == "hi":
            raise self.how
        yield from super()._answer(request, unwanted)


def failing(how):
    engine = Failing(default=Reply("ok"), slots=2)
    engine.how = how
    return engine


def asked(name, ending, count=1):
    for _ in range(count):
        name.take(Asker("k")).end(ending)


def shadowed(name, source, ending, count=1):
    source.start(shadow=60, canary=[1.0])
    arm = tried(name)
    held(name)
    asked(name, ending, count)
    polled(name, lambda: name._copies.empty() and arm.leases == 0)
    time.sleep(0.05)
    return arm


def test_what_the_stable_version_failed_on_is_copied_too(name, source):
    """Left out, a candidate as flaky as the stable version would be worse in each pair that is left."""
    source.engines["router@2"] = failing(RuntimeError("no"))
    shadowed(name, source, Ending(True, 0.01, again=HI), 3)
    polled(name, lambda: name._pairs.tally.counts.get("error_rate") == Count(same=3))


def test_what_the_candidate_refuses_to_be_asked_says_nothing_of_it(name, source):
    source.engines["router@2"] = failing(Refused("no", param="tools", code="unsupported_parameter"))
    shadowed(name, source, Ending(False, 0.01, sha256="x", again=HI), 3)
    assert name._pairs.tally.requests == 0


class Hanging(ScriptedEngine):
    def _answer(self, request, unwanted):
        if request.messages[-1].content != "hi":
            yield from super()._answer(request, unwanted)
            return
        while not unwanted():
            time.sleep(0.01)
        raise Cancelled


def test_a_copy_that_hangs_keeps_no_later_rollout_away(name, source):
    source.engines["router@2"] = Hanging(default=Reply("ok"), slots=2)
    source.start(shadow=60, canary=[1.0])
    arm = tried(name)
    asked(name, Ending(False, 0.01, sha256="x", again=HI))
    polled(name, lambda: arm.model.engine.active)
    source.do("roll_back")
    polled(name, lambda: name.table.candidate is None)
    source.start("router@3", canary=[1.0])
    assert tried(name).ref == "router@3" and arm.leases == 0
    assert not any(requests for _, _, requests in source.told)  # it was not let finish


def test_a_copy_that_takes_too_long_has_failed(source):
    name = Followed("router", Arm("router@1", model("router@1")), source, copy_s=0.2)
    source.engines["router@2"] = Hanging(default=Reply("ok"), slots=2)
    source.start(shadow=60, canary=[1.0])
    tried(name)
    held(name)
    asked(name, Ending(False, 0.01, sha256="x", again=HI))
    polled(name, lambda: name._pairs.tally.counts.get("error_rate") == Count(worse=1))
    name.stop()


def test_what_was_seen_counts_in_its_stage(name, source):
    """Also what was not told when the stage ended, and requests that end after it."""
    source.start(canary=[0.5, 1.0], each=0, least=1)
    tried(name)
    held(name)
    leases = [name.take(Asker("k", drawn=0.1)) for _ in range(7)]
    for lease in leases[:4]:
        lease.end(Ending(False, 0.01))
    name.poll()
    assert source.told == []
    first = source.do("advance")
    polled(name, lambda: name.table.rollout == first)
    for lease in leases[4:]:
        lease.end(Ending(False, 0.01))
    asked(name, Ending(False, 0.01), 5)
    stages = {}
    observe = source.observe
    source.observe = lambda at, tally: stages.__setitem__(at.stage, stages.get(at.stage, 0) + tally.requests)
    polled(name, lambda: not [key for key in name._untold if key[1] == 0])
    source.observe = observe
    assert sum(n for _, _, n in source.told) + stages.get(0, 0) == 7
    assert name._untold[first.id, 1][1].requests == 5


def test_without_the_database_every_engine_is_closed(source):
    names = {one: Followed(one, Arm(f"{one}@1", model(f"{one}@1")), source) for one in ("a", "b")}
    source.start(canary=[1.0])
    tried(names["a"])
    asked(names["a"], Ending(False, 0.01))
    arms = [arm for one in names.values() for arm in one.arms]
    with Following(names, poll_s=1000):
        source.away = True
    assert len(arms) >= 3 and not any(arm.model.engine.health().ready for arm in arms)


def test_every_version_in_memory_is_told_of(source):
    name = Followed("router", Arm("router@1", model("router@1")), source)
    router = Following({"router": name}, {"pinned": model("other@1")}, poll_s=1000)
    source.start(canary=[0.5, 1.0])
    tried(name).model.engine.close()
    text = Metrics(router).text().decode()
    assert 'luthier_ready{model="router",release="router@1"} 1.0' in text
    assert 'luthier_ready{model="router",release="router@2"} 0.0' in text
    told = [(one["name"], one["release"], one["ready"]) for one in Pulse(router).plain()["models"]]
    assert told == [("router", "router@1", True), ("router", "router@2", False), ("pinned", "other@1", True)]
    name.stop()


@pytest.fixture
def door(source):
    """Over HTTP, with a guard that refuses what both versions say."""
    name = Followed("router", Arm("router@1", model("router@1")), source)
    guard = GuardSpec.model_validate({"answered": [{"banned": {"words": ["bad"], "do": "refuse"}}]})
    text, key = generate()
    following = Following({"router": name}, poll_s=0.02)
    with following, running(create_app(following, KeyRing([key]), guard=guard)) as url:
        headers = {"authorization": f"Bearer {text}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as http:
            yield name, http


ASK = {"model": "router", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_a_copy_goes_through_the_guards(door, source):
    name, http = door
    source.start(shadow=60, canary=[1.0])
    until(lambda: name.table.candidate)
    held(name)
    assert http.post("/v1/chat/completions", json=ASK).json()["choices"][0]["message"]["refusal"]
    until(lambda: name._pairs.tally.compared == 1)
    tally = name._pairs.tally
    assert tally.agreed == 1 and tally.counts["refusals"] == Count(same=1)


def test_an_answer_that_failed_is_copied_over_http_too(door, source):
    name, http = door
    name.table.stable.model.engine.rules = (Rule("hi", Reply("x", fails=RuntimeError("no"))),)
    source.engines["router@2"] = failing(RuntimeError("no"))
    source.start(shadow=60, canary=[1.0])
    until(lambda: name.table.candidate)
    held(name)
    assert http.post("/v1/chat/completions", json=ASK).status_code == 500
    until(lambda: name._pairs.tally.counts.get("error_rate") == Count(same=1))


def test_calls_are_read_out_of_a_copy(source, door):
    name, http = door
    call = Reply('<tool_call>{"name": "look", "arguments": {}}</tool_call>')
    name.table.stable.model.engine.default = call
    source.engines["router@2"] = ScriptedEngine(default=call, slots=2)
    source.start(shadow=60, canary=[1.0])
    until(lambda: name.table.candidate)
    held(name)
    said = http.post("/v1/chat/completions", json=ASK | {"tools": [TOOL]}).json()["choices"][0]["message"]
    assert said["tool_calls"][0]["function"]["name"] == "look"
    until(lambda: name._pairs.tally.agreed == 1)
    source.engines["router@2"].default = Reply(
        '<tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>'
    )
    http.post("/v1/chat/completions", json=ASK | {"tools": [TOOL]})
    until(lambda: name._pairs.tally.compared == 2)
    assert name._pairs.tally.agreed == 1  # another call is another answer


def test_vectors_count(door, source):
    name, http = door
    source.start(canary=[1.0])
    engine = until(lambda: name.table.candidate).model.engine
    held(name)
    body = {"model": "router", "input": "hi"}
    assert http.post("/v1/embeddings", json=body).status_code == 200

    def broken(*_):
        raise RuntimeError("no")

    engine.embed = broken
    assert http.post("/v1/embeddings", json=body).status_code == 500

    def refused(*_):
        raise Refused("too long", param="input", code="context_length_exceeded")

    engine.embed = refused
    assert http.post("/v1/embeddings", json=body).status_code == 400
    until(lambda: name._pairs.tally.failed == 1)
    assert name._pairs.tally.requests == 2


def until(condition, limit_s=8.0):
    until_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < until_s, "it did not happen in time"
        threading.Event().wait(0.01)
    return found
