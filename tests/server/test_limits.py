"""Rates, deadlines and overload against a real server."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest

from luthier.core.errors import SpecError
from luthier.server.errors import ApiError
from luthier.server.keys import generate
from luthier.server.rates import Rate, Rates
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine


def body(text="hi", **more):
    return {"model": "router", "messages": [{"role": "user", "content": text}], **more}


def test_a_bucket_fills_evenly():
    now = [0.0]
    rates = Rates(Rate.parse("2/min"), lambda: now[0])
    assert rates.take("a")["x-ratelimit-remaining-requests"] == "1"
    assert rates.take("a")["x-ratelimit-reset-requests"] == "60s"
    with pytest.raises(ApiError) as caught:
        rates.take("a")
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert caught.value.headers["retry-after"] == "30"
    rates.take("b")  # another key has a bucket of its own
    now[0] = 30.0
    assert rates.take("a")["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("text", ["", "60", "0/min", "-1/s", "60/day", "6e1/s", "1/s/s", "1.5/min"])
def test_rates_that_cannot_be(text):
    with pytest.raises(SpecError):
        Rate.parse(text)


def test_a_key_over_its_rate(open_door):
    door = open_door(ScriptedEngine(), limits={"rate": Rate.parse("2/h")})
    raw = door.client().chat.completions.with_raw_response.create(**body())
    assert raw.headers["x-ratelimit-limit-requests"] == "2"
    assert raw.headers["x-ratelimit-remaining-requests"] == "1"
    assert door.http().get("/v1/models").status_code == 200  # only what answers counts
    door.client().chat.completions.create(**body())
    with pytest.raises(openai.RateLimitError) as caught:
        door.client().chat.completions.create(**body())
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) > 60
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def free(door):
    until_s = time.monotonic() + 5
    while door.model.engine.active or door.model.admission.inside:
        assert time.monotonic() < until_s, "the slot is still held"
        time.sleep(0.01)


SLOW = [Rule("late", Reply("x", first_delay_s=30)), Rule("long", Reply("w " * 2000, token_delay_s=0.02))]


def test_a_deadline_frees_the_slot(open_door):
    door = open_door(ScriptedEngine(SLOW), limits={"answer_s": 0.4})
    for text, stream in (("late", False), ("long", False), ("late", True)):
        response = door.http().post("/v1/chat/completions", json=body(text, stream=stream))
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (
            504,
            "timeout_error",
            "deadline_exceeded",
        )
        assert response.headers["x-should-retry"] == "false"
        free(door)
    lines = (
        door.http().post("/v1/chat/completions", json=body("long", stream=True)).text.strip().split("\n\n")
    )
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    free(door)
    assert door.exchanges[-1].finish == ("failed",)
    assert door.http().post("/v1/chat/completions", json=body("quick")).status_code == 200


def test_a_request_may_ask_for_less_and_not_for_more(open_door):
    door = open_door(ScriptedEngine(SLOW), limits={"answer_s": 1.2})
    for asked, most_s in (("1", 1.0), ("60", 1.2)):
        started_s = time.monotonic()
        response = door.http().post(
            "/v1/chat/completions", json=body("late"), headers={"x-luthier-deadline-s": asked}
        )
        assert response.status_code == 504
        assert f"within {most_s:g} s" in response.json()["error"]["message"]
        assert time.monotonic() - started_s < most_s + 5
        free(door)
    for wrong in ("soon", "0", "0.5", "-1", "nan", "inf", "1e9"):
        response = door.http().post(
            "/v1/chat/completions", json=body(), headers={"x-luthier-deadline-s": wrong}
        )
        assert (response.status_code, response.json()["error"]["param"]) == (400, "x-luthier-deadline-s"), (
            wrong
        )


def test_a_deadline_counts_the_time_in_the_queue(open_door):
    door = open_door(ScriptedEngine(SLOW), limits={"answer_s": 0.6})
    with ThreadPoolExecutor() as pool:
        sent = [pool.submit(door.http().post, "/v1/chat/completions", json=body("late")) for _ in range(2)]
        assert [one.result().status_code for one in sent] == [504, 504]
    free(door)


def test_overload_gives_answers_and_429_and_nothing_else(open_door):
    door = open_door(ScriptedEngine(default=Reply("a b c", token_delay_s=0.002), slots=2), waiting=4)
    clients = 30  # five times what the server takes

    def flood(_):
        with door.http() as client:
            return [client.post("/v1/chat/completions", json=body(stream=n % 2 == 0)) for n in range(8)]

    process = psutil.Process()
    before_bytes = process.memory_info().rss
    with ThreadPoolExecutor(clients) as pool:
        responses = [one for some in pool.map(flood, range(clients)) for one in some]
    codes = Counter(one.status_code for one in responses)
    assert set(codes) == {200, 429}
    assert all(1 <= int(one.headers["retry-after"]) <= 60 for one in responses if one.status_code == 429)
    assert len(door.exchanges) == codes[200]
    assert process.memory_info().rss - before_bytes < 100 << 20
    free(door)


def test_a_flood_of_one_key_does_not_starve_another(open_door):
    from luthier.server.keys import KeyRing
    from luthier.server.openai import create_app
    from luthier.server.serve import running
    from luthier.server.served import ServedModel

    engine = ScriptedEngine(default=Reply("a", first_delay_s=0.2))
    engine.load()
    (loud, loud_key), (quiet, quiet_key) = generate(), generate()
    model = ServedModel("router", engine, package_digest="0" * 64, waiting=4)
    stop = []

    def post(url, key):
        return httpx.post(
            f"{url}/v1/chat/completions", json=body(), headers={"authorization": f"Bearer {key}"}, timeout=20, trust_env=False
        ).status_code  # fmt: skip

    def flood(url):
        codes = []
        while not stop:
            codes.append(post(url, loud))
        return codes

    with (
        running(create_app({"router": model}, KeyRing([loud_key, quiet_key]))) as url,
        ThreadPoolExecutor() as pool,
    ):
        floods = [pool.submit(flood, url) for _ in range(8)]
        until_s = time.monotonic() + 20
        while model.admission.waiting < 4 and time.monotonic() < until_s:
            time.sleep(0.01)
        answered = [post(url, quiet) for _ in range(5)]
        stop.append(True)
        told = Counter(code for one in floods for code in one.result())
    assert answered == [200] * 5
    assert told[429] > 0 and told[200] > 0
