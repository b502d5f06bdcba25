"""A served name follows its rollout: over real HTTP, with engines that answer with their version and a real store of rollouts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from luthier.app.app import App
from luthier.core.errors import ModelError
from luthier.server.arm import Arm, smoke
from luthier.server.following import Followed, Following
from luthier.server.keys import KeyRing, generate
from luthier.server.openai import create_app
from luthier.server.serve import running
from luthier.server.served import ServedModel
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

SLOW = Rule("slow", Reply("slow", first_delay_s=0.6))


def until(condition, limit_s=10.0):
    started_s = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - started_s < limit_s, "it did not happen in time"
        time.sleep(0.01)
    return found


class Engine(ScriptedEngine):
    """Says its version; remembers whether it was closed with an answer under way."""

    def __init__(self, version, **options):
        reply = Reply(version)
        rules = [Rule("slow", Reply(version, first_delay_s=0.6)), *options.pop("rules", [])]
        super().__init__(rules, options.pop("default", reply), slots=4, **options)
        self.closed = self.torn = 0

    def close(self):
        self.closed += 1
        self.torn += self.active
        super().close()


class Versions:
    """server.following.Source: rollouts of a real App, engines of this test."""

    def __init__(self, app):
        self.app, self.made, self.special, self.held = app, {}, {}, threading.Event()
        self.held.set()
        verbs = app.rollouts
        self.current, self.reject, self.observe, self.review = (
            verbs.current,
            verbs.reject,
            verbs.observe,
            verbs.review,
        )

    def load(self, name, ref):
        self.held.wait(10)
        engine = self.special.get(ref, Engine)(ref)
        engine.load()
        self.made.setdefault(ref, []).append(engine)
        return ServedModel(name, engine, package_digest="d" * 64, release=ref, waiting=200)


class Door:
    def __init__(self, app, source, followed, url, key):
        self.app, self.source, self.followed, self.verbs = app, source, followed, app.rollouts
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20, trust_env=False
        )

    def ask(self, text="hi", user=None, **headers):
        body = {"model": "router", "messages": [{"role": "user", "content": text}]} | (
            {"user": user} if user else {}
        )
        got = self.http.post("/v1/chat/completions", json=body, headers=headers)
        assert got.status_code == 200, got.text
        said = got.json()["choices"][0]["message"]["content"]
        assert said == got.headers["x-luthier-release"]  # never mixed up
        return said

    def start(self, ref="router@2", **plan):
        plan = {"canary": ["50%", "100%"], "each": 3600, "least": 1_000_000, **plan}
        return self.verbs.start(ref, by="ann", reason="test", plan=plan)

    def do(self, verb):
        return getattr(self.verbs, verb)("router", by="ann", reason="test")

    def tried(self, ref="router@2"):
        return until(lambda: (c := self.followed.table.candidate) is not None and c.ref == ref)

    def answers(self, ref):
        return until(lambda: self.followed.table.stable.ref == ref)

    def state(self, state):
        return until(lambda: (at := self.verbs.current("router")).state == state and at)


@pytest.fixture
def open_name(tmp_path):
    with ExitStack() as stack:

        def open_it(grace_s=600.0, special=None):
            app = App.open({"LUTHIER_HOME": str(tmp_path / "home")})
            for n in (1, 2, 3, 4):
                with app.store.working(str(n) * 64) as (out, _):
                    (out / "r.json").write_text(str(n))
                    made = app.store.commit("release", str(n) * 64, {"n": n}, 1, {}, out, {})
                app.store.catalog.name("router", made.digest)
            source = Versions(app)
            source.special = special or {}
            followed = Followed(
                "router", Arm("router@1", source.load("router", "router@1")), source, grace_s=grace_s
            )
            router = stack.enter_context(Following({"router": followed}, {}, poll_s=0.02))
            text, key = generate()
            url = stack.enter_context(running(create_app(router, KeyRing([key]))))
            door = Door(app, source, followed, url, text)
            stack.enter_context(door.http)
            return door

        yield open_it


def test_without_a_rollout_it_answers_as_it_began(open_name):
    door = open_name()
    assert {door.ask(user=str(i)) for i in range(5)} == {"router@1"}
    assert door.http.get("/v1/models").json()["data"][0]["id"] == "router"
    assert "x-luthier-variant" not in door.http.get("/v1/models/router").headers


def test_a_canary_then_a_promotion_then_back_without_loading(open_name):
    door = open_name()
    door.start()
    door.tried()
    first = {str(i): door.ask(user=str(i)) for i in range(60)}
    assert 15 < Counter(first.values())["router@2"] < 45  # 30 of 60 at 50 %
    assert {u: door.ask(user=u) for u in first} == first  # sticky
    door.do("promote")
    door.answers("router@2")
    assert {door.ask(user=u) for u in first} == {"router@2"}
    door.do("roll_back")
    door.answers("router@1")
    assert {door.ask(user=u) for u in first} == {"router@1"}
    assert len(door.source.made["router@1"]) == 1 and len(door.source.made["router@2"]) == 1


def test_the_candidate_loads_while_the_old_version_answers(open_name):
    door = open_name()
    door.source.held.clear()
    door.start(canary=["100%"])
    until(lambda: door.followed._loading is not None)
    assert door.ask() == "router@1"
    door.source.held.set()
    door.tried()
    assert door.ask() == "router@2"


def broken_load(ref):
    raise ModelError("the weights are torn.")


class Mute(Engine):
    def _answer(self, request, unwanted):
        raise RuntimeError("secret path /srv/x")
        yield


@pytest.mark.parametrize(("make", "said"), [(broken_load, "the weights are torn"), (Mute, "RuntimeError")])
def test_a_broken_candidate_is_rejected_and_nobody_sees_it(open_name, make, said):
    door = open_name(special={"router@2": make})
    door.start(canary=["100%"])
    at = door.state("rejected")
    assert said in at.reason and "/srv" not in at.reason and at.by == "the rule"
    assert {door.ask(user=str(i)) for i in range(10)} == {"router@1"}
    door.start("router@3", canary=["100%"])  # and the next one may be tried
    door.tried("router@3")
    assert door.ask() == "router@3"


def test_a_broken_version_that_was_promoted_unseen_is_taken_back(open_name):
    door = open_name(special={"router@2": broken_load})
    door.source.held.clear()
    door.start()
    door.do("promote")
    door.source.held.set()
    door.state("rolled_back")
    assert door.ask() == "router@1"


class Failing(Engine):
    """Well until it is asked in earnest."""

    def _answer(self, request, unwanted):
        if request.messages[-1].content == "hi":
            raise RuntimeError("no")
        yield from super()._answer(request, unwanted)


def test_the_rule_takes_a_failing_candidate_back_while_it_is_served(open_name):
    door = open_name(special={"router@2": Failing})
    door.start()
    door.tried()
    body = {"model": "router", "messages": [{"role": "user", "content": "hi"}]}
    codes = Counter()
    for i in range(400):
        codes[door.http.post("/v1/chat/completions", json=body | {"user": str(i)}).status_code] += 1
        if not door.verbs.current("router").under_way:
            break
    at = door.state("rolled_back")
    assert "error_rate" in at.reason and at.by == "the rule"
    # 15 pairs that are all worse make 80 of 1 (test_rule); some more arrive between two looks
    assert 10 <= codes[500] <= 80
    door.answers("router@1")
    assert {door.ask(user=str(i)) for i in range(20)} == {"router@1"}


def test_the_rule_goes_on_by_itself(open_name):
    door = open_name()
    door.start(canary=["50%", "100%"], each=0, least=5)
    door.tried()
    for i in range(200):
        door.ask(user=str(i))
        if door.verbs.current("router").state == "promoted":
            break
    assert [h.action for h in door.verbs.history("router")] == ["start", "advance", "advance"]
    door.answers("router@2")


def test_shadow_answers_go_to_nobody_and_are_compared(open_name):
    door = open_name()
    door.start(shadow="1 h")
    door.tried()
    assert {door.ask(user=str(i)) for i in range(12)} == {"router@1"}
    status = until(lambda: (s := door.verbs.status("router")).tally.compared >= 5 and s)
    assert status.tally.agreed == 0  # they say their versions
    assert status.tally.counts["error_rate"].worse == 0
    assert len(door.source.made["router@2"][0].requests) > 5


class Hanging(Engine):
    def __init__(self, ref):
        super().__init__(ref, rules=[Rule("hi", Reply(ref, first_delay_s=5))])


def test_a_hanging_shadow_slows_nobody_and_copies_are_left_out(open_name):
    door = open_name(special={"router@2": Hanging})
    door.start(shadow="1 h")
    door.tried()
    began_s = time.monotonic()
    assert {door.ask(user=str(i)) for i in range(40)} == {"router@1"}
    assert time.monotonic() - began_s < 4  # one of 40 answers of the candidate takes longer
    assert door.followed._pairs.tally.dropped >= 20
    door.do("roll_back")


def test_ab_by_header(open_name):
    door = open_name()
    door.verbs.start("router@2", by="ann", reason="test", plan={"ab": "50%"})
    door.tried()
    assert door.ask(**{"x-luthier-variant": "candidate"}) == "router@2"
    assert door.ask(**{"x-luthier-variant": "stable"}) == "router@1"
    body = {"model": "router", "messages": [{"role": "user", "content": "hi"}]}
    wrong = door.http.post("/v1/chat/completions", json=body, headers={"x-luthier-variant": "blue"})
    assert wrong.status_code == 400 and "'stable' or 'candidate'" in wrong.text
    right = door.http.post("/v1/chat/completions", json=body, headers={"x-luthier-variant": "candidate"})
    assert right.headers["x-luthier-variant"] == "candidate"


def test_an_engine_is_closed_after_its_last_answer_and_at_most_two_are_there(open_name):
    door = open_name(grace_s=0.0)
    with ThreadPoolExecutor(4) as threads:
        door.start(canary=["100%"])
        door.tried()
        door.do("promote")
        door.answers("router@2")
        slow = threads.submit(door.ask, "slow")
        until(lambda: door.source.made["router@2"][0].active)
        door.start("router@3", canary=["100%"])
        door.tried("router@3")
        door.do("promote")
        door.answers("router@3")  # router@2 is out, and still answering
        until(lambda: "router@2" not in door.followed._pool)
        assert not slow.done() and door.source.made["router@2"][0].closed == 0
        assert slow.result() == "router@2"
    until(lambda: door.source.made["router@2"][0].closed)
    assert all(engine.torn == 0 for made in door.source.made.values() for engine in made)
    assert len(door.followed._pool) <= 2


def test_a_third_version_waits_until_one_has_left(open_name):
    door = open_name(grace_s=600.0)
    door.start(canary=["100%"])
    door.tried()
    door.do("roll_back")  # router@2 stays for its grace
    until(lambda: door.followed.table.candidate is None)
    door.start("router@3", canary=["100%"])
    door.tried("router@3")
    assert set(door.followed._pool) == {"router@1", "router@3"}
    assert door.source.made["router@2"][0].closed == 1


def test_a_database_that_is_away_for_a_while_ends_nothing(open_name, monkeypatch):
    door = open_name()
    current, away = door.source.current, threading.Event()

    def flaky(name):
        if away.is_set():
            raise ModelError("the database is away.")
        return current(name)

    door.source.current = flaky
    away.set()
    time.sleep(0.1)
    assert door.ask() == "router@1"
    away.clear()
    door.start(canary=["100%"])
    door.tried()


def test_what_could_not_be_told_is_told_later(open_name):
    door = open_name()
    observe, failed = door.source.observe, []

    def flaky(at, tally):
        if len(failed) < 3:
            failed.append(tally)
            raise ModelError("the database is away.")
        observe(at, tally)

    door.source.observe = flaky
    door.start()
    door.tried()
    said = Counter(door.ask(user=str(i)) for i in range(40))
    # what is less than a tenth of it waits for more, at most 30 s
    tally = until(lambda: (t := door.verbs.status("router").tally).requests >= 0.8 * said["router@2"] and t)
    assert tally.requests <= said["router@2"] and tally.stable <= said["router@1"]
    assert tally.requests > sum(one.requests for one in failed[:1])
    assert len(failed) == 3


def test_hot_swaps_and_rollbacks_under_load_lose_nothing(open_name):
    """30 promotions and rollbacks while four clients ask without a pause: every answer is 200 and of one version. The large one of
    this is benchmarks/rollout.py."""
    door = open_name()
    done, failed, halt = Counter(), [], threading.Event()

    def client(number):
        while not halt.is_set():
            try:
                done[door.ask(user=f"{number}")] += 1
            except Exception as error:
                failed.append(error)

    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(client, n) for n in range(4)]
        for _ in range(15):
            door.start(canary=["100%"])
            door.tried()
            door.do("promote")
            door.answers("router@2")
            door.do("roll_back")
            door.answers("router@1")
        halt.set()
        [w.result() for w in work]
    assert failed == [] and done["router@1"] > 10 and done["router@2"] > 10
    assert all(e.torn == 0 for made in door.source.made.values() for e in made)


def test_a_model_that_says_nothing_in_time_does_not_pass(open_name):
    engine = ScriptedEngine([], Reply("late", first_delay_s=5))
    engine.load()
    model = ServedModel("x", engine, package_digest="d")
    with pytest.raises(Exception, match=r"within 0\.05 s"):
        smoke(model, 0.05)
    fine = ScriptedEngine(labels=("a", "b"), default=Reply("a"))
    fine.load()
    smoke(ServedModel("x", fine, package_digest="d"))


def test_every_lease_is_given_back(open_name):
    """Refused, unknown, hung up, answered: afterwards nobody holds the engine."""
    door = open_name()
    good = {"model": "router", "messages": [{"role": "user", "content": "hi"}]}
    for body in (
        good,
        good | {"stream": True},
        good | {"max_tokens": 10_000},
        good | {"n": 2},
        good | {"model": "nobody"},
    ):
        door.http.post("/v1/chat/completions", json=body)
    with pytest.raises(httpx.ReadTimeout):
        body = {"model": "router", "messages": [{"role": "user", "content": "slow"}]}
        door.http.post("/v1/chat/completions", json=body, timeout=0.1)
    until(lambda: door.followed.table.stable.leases == 0)
