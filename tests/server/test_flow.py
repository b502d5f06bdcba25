"""Queues, hang-ups and draining: who waits, who is turned away, and when the engine is free again."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

LONG = " ".join(f"w{i}" for i in range(2000))
SLOW_STREAM = Reply(LONG, token_delay_s=0.02)  # 40 s if nobody stops it
RULES = [
    Rule("stream", SLOW_STREAM),
    Rule("short", Reply("a b c d e", token_delay_s=0.1)),
]


def body(text, **options):
    return {"model": "router", "messages": [{"role": "user", "content": text}], **options}


def until(condition, limit_s=5.0):
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < limit_s, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - started_s


@pytest.fixture
def door(open_door):
    return open_door(ScriptedEngine(RULES), waiting=2)


def free_and_well(door):
    engine = door.model.engine
    assert engine.active == 0
    assert until(lambda: door.model.admission.inside == 0) < 5  # given back just after the engine is
    started_s = time.monotonic()
    assert door.http().post("/v1/chat/completions", json=body("hello")).status_code == 200
    assert time.monotonic() - started_s < 1


def test_a_client_that_drops_a_stream_frees_the_engine_within_a_second(door):
    with (
        door.http() as client,
        client.stream("POST", "/v1/chat/completions", json=body("stream", stream=True)) as response,
    ):
        lines = response.iter_lines()
        heard = [next(lines) for _ in range(6)]
        assert door.model.engine.active == 1
    assert until(lambda: door.model.engine.active == 0) < 1
    until(lambda: door.exchanges)
    assert door.model.engine.abandoned == 1
    assert heard[0].startswith("data: ")
    (exchange,) = door.exchanges  # what was said is recorded, though not to its end
    assert exchange.finish == ("cancelled",)
    assert exchange.streamed
    assert exchange.prompt_tokens == 1
    assert 2 <= exchange.completion_tokens < 100
    free_and_well(door)


def test_the_official_client_closing_a_stream(door):
    stream = door.client().chat.completions.create(**body("stream"), stream=True)
    next(iter(stream))
    stream.close()
    assert until(lambda: door.model.engine.active == 0) < 1
    free_and_well(door)


def test_a_client_that_gives_up_waiting_for_a_whole_answer(door):
    with pytest.raises(openai.APITimeoutError):
        door.client(timeout=0.2).chat.completions.create(**body("stream"))
    assert until(lambda: door.model.engine.active == 0) < 1
    until(lambda: door.model.admission.inside == 0)
    assert door.exchanges == []  # nothing was said
    free_and_well(door)


def test_a_client_that_leaves_before_the_first_token(open_door):
    door = open_door(ScriptedEngine([Rule("prompt", Reply("x", first_delay_s=30))]))
    for stream in (False, True):
        with pytest.raises(openai.APITimeoutError):
            door.client(timeout=0.2).chat.completions.create(**body("prompt"), stream=stream)
        assert until(lambda: door.model.engine.active == 0) < 1
        until(lambda: door.model.admission.inside == 0)
    assert door.exchanges == []
    free_and_well(door)


def test_a_client_that_leaves_the_queue(open_door):
    gate = threading.Event()
    door = open_door(ScriptedEngine([Rule(lambda _: gate.wait(60), Reply("through"))]))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(door.http().post, "/v1/chat/completions", json=body("first"))
        until(lambda: door.model.admission.inside == 1)
        with pytest.raises(openai.APITimeoutError):
            door.client(timeout=0.5).chat.completions.create(**body("never asked"))
        until(lambda: door.model.admission.inside == 1)
        gate.set()
        assert first.result().status_code == 200
    assert [r.messages[0].content for r in door.model.engine.requests] == ["first"]
    free_and_well(door)


def test_a_full_queue_is_429_with_retry_after(open_door):
    gate = threading.Event()
    gated = Rule(lambda request: request.messages[-1].content == "gated" and gate.wait(20), Reply("through"))
    door = open_door(ScriptedEngine([gated]), waiting=2)
    with ThreadPoolExecutor() as pool:  # one slot, two may wait
        taken = [pool.submit(door.http().post, "/v1/chat/completions", json=body("gated")) for _ in range(3)]
        until(lambda: door.model.admission.inside == 3)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                door.client().chat.completions.create(**body("hello"), stream=stream)
            assert caught.value.code == "queue_full"
            assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert door.http().get("/healthz").status_code == 200
        # the official client waits and tries again by itself
        patient = pool.submit(door.client(max_retries=3).chat.completions.create, **body("hello"))
        time.sleep(0.2)
        gate.set()
        assert [t.result().status_code for t in taken] == [200] * 3
        assert patient.result().choices[0].message.content == "scripted"
    free_and_well(door)


def test_a_slow_reader_does_not_hold_the_engine(open_door):
    door = open_door(ScriptedEngine(default=Reply("word " * 20_000), context_tokens=10**6))
    request = json.dumps(body("hello", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {door.key}\r\ncontent-type: application/json\r\ncontent-length: {len(request)}\r\n\r\n"
    with door.connect() as connection:
        connection.sendall(head.encode() + request)
        until(lambda: door.model.engine.requests)
        until(
            lambda: door.model.engine.active == 0, limit_s=10
        )  # about 4 MB wait for a client that reads nothing
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_requests_at_once_get_their_own_answers(open_door):
    rules = [Rule(f"<{i}>", Reply(f"answer number {i}", token_delay_s=0.002)) for i in range(12)]
    door = open_door(ScriptedEngine(rules, slots=3), waiting=20)

    def ask(i):
        client = door.client()
        if i % 2:
            return client.chat.completions.create(**body(f"<{i}>")).choices[0].message.content
        return "".join(
            c.choices[0].delta.content or ""
            for c in client.chat.completions.create(**body(f"<{i}>"), stream=True)
        )

    most = 0
    stop = threading.Event()

    def watch():
        nonlocal most
        while not stop.is_set():
            most = max(most, door.model.engine.active)
            time.sleep(0.001)

    with ThreadPoolExecutor(13) as pool:
        pool.submit(watch)
        assert list(pool.map(ask, range(12))) == [f"answer number {i}" for i in range(12)]
        stop.set()
    assert 1 < most <= 3
    assert len(door.exchanges) == 12
    assert len({e.id for e in door.exchanges}) == 12


def test_replacing_the_engine_behind_a_name(open_door):
    from luthier.server.keys import KeyRing, generate
    from luthier.server.openai import create_app
    from luthier.server.serve import running
    from luthier.server.served import ServedModel

    def served(digit):
        engine = ScriptedEngine(default=Reply(f"version {digit}"))
        engine.load()
        return ServedModel("router", engine, package_digest=digit * 64)

    text, key = generate()
    models = {"router": served("1")}
    with running(create_app(models, KeyRing([key]))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=text)
        before = client.chat.completions.create(**body("hello"))
        models["router"] = served("2")
        after = client.chat.completions.create(**body("hello"))
    assert (before.choices[0].message.content, before.system_fingerprint) == ("version 1", "1" * 12)
    assert (after.choices[0].message.content, after.system_fingerprint) == ("version 2", "2" * 12)
