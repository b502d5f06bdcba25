"""Hostile bodies: each gets a 4xx in the envelope, never a 5xx, and the server answers the next request."""

from __future__ import annotations

import json
import time

import pytest

from luthier.serving.scripted_engine import Reply, ScriptedEngine

HI = {"model": "router", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def door(open_door):
    return open_door(ScriptedEngine(), limits={"body_timeout_s": 0.4}, serve={"head_timeout_s": 0.4})


def post(door, content, **headers):
    response = door.http().post(
        "/v1/chat/completions", content=content, headers={"content-type": "application/json", **headers}
    )
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return response.status_code, error


def refused(door, **fields):
    return post(door, json.dumps({**HI, **fields}))


def alive(door):
    return door.http().post("/v1/chat/completions", json=HI).status_code == 200


BROKEN = {
    "empty": b"",
    "not json": b"{'model': 1}",
    "cut": json.dumps(HI).encode()[:-3],
    "trailing": json.dumps(HI).encode() + b"{}",
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "depth 100k of lists": b"[" * 100_000,
    "depth 100k of objects": b'{"a":' * 100_000,
    "closed depth 50k": b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "depth 40": b'{"x":' + b"[" * 40 + b"]" * 40 + b"}",
    "NaN": b'{"temperature": NaN}',
    "-Infinity": b'{"temperature": -Infinity}',
    "1e999": b'{"temperature": 1e999}',
    "5000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "21 digits": b'{"seed": ' + b"9" * 21 + b"}",
    "the same key twice": b'{"model": "router", "model": "other"}',
    "the same key twice inside": b'{"messages": [{"role": "user", "role": "system"}]}',
    "lone surrogate": b'{"model": "\\ud800"}',
    "lone surrogate as key": b'{"\\udfff": 1}',
    "not utf-8": b'{"model": "\xff"}',
    "utf-16": json.dumps(HI).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(HI).encode(),
    "NUL": b"\x00",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_broken_json(door, body):
    status, error = post(door, body)
    assert (status, error["code"]) == (400, "invalid_json")
    assert alive(door)


WRONG = {
    "model": [(None, "invalid_value"), (1, "invalid_value"), ("", "invalid_value"), ("x" * 300, "invalid_value")],
    "messages": [([], "invalid_value"), ("hi", "invalid_value"), ([1], "invalid_value"), ([HI["messages"][0]] * 3000, "invalid_value")],
    "max_tokens": [(0, "invalid_value"), (-1, "invalid_value"), ("5", "invalid_value"), (1.5, "invalid_value"), (10**9, "invalid_value"), (True, "invalid_value")],
    "temperature": [(-0.1, "invalid_value"), (2.1, "invalid_value"), ("1", "invalid_value")],
    "top_p": [(1.1, "invalid_value"), (-1, "invalid_value")],
    "n": [(0, "invalid_value"), (9, "invalid_value"), (10**6, "invalid_value")],
    "seed": [(2**63, "invalid_value"), (0.5, "invalid_value")],
    "stop": [([], None), (["a"] * 5, "invalid_value"), ("", "invalid_value"), ([""], "invalid_value"), ([1], "invalid_value"), ("x" * 500, "invalid_value")],
    "stream": [("yes", "invalid_value"), (1, "invalid_value")],
    "stream_options": [({"include_usage": True}, "invalid_value"), ({"x": 1}, "unknown_parameter")],
    "top_logprobs": [(3, "invalid_value"), (21, "invalid_value")],
    "x_luthier": [({"labels": ["a"]}, "invalid_value"), ({"labels": ["a", "a"]}, "invalid_value"), ({"abstain_below": 2}, "invalid_value"), ({"lables": []}, "unknown_parameter")],
    "max_completion_tokens": [(0, "invalid_value")],
    "temprature": [(1, "unknown_parameter")],
    "chat_template_kwargs": [({"tokenize": True}, "unknown_parameter")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "code"), [(f, v, c) for f, cases in WRONG.items() for v, c in cases if c]
)
def test_values_out_of_bounds_name_the_field(door, field, value, code):
    status, error = refused(door, **{field: value})
    assert (status, error["code"]) == (400, code)
    assert error["param"].startswith(field)
    assert len(error["message"]) < 500


UNSUPPORTED = {
    "functions": [{}], "function_call": "auto",
    "logit_bias": {"50256": -100}, "presence_penalty": 0.1, "frequency_penalty": -2,
    "modalities": ["text", "audio"], "audio": {}, "prediction": {}, "reasoning_effort": "low", "verbosity": "low", "service_tier": "flex",
    "store": True, "metadata": {"a": "b"}, "web_search_options": {}, "prompt_cache_key": "k", "safety_identifier": "s", "moderation": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"type": "json"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format"),
        ({"type": "text", "json_schema": {"name": "x", "schema": {}}}, "response_format"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x", "shema": {}}}, "response_format.json_schema.shema"),
    ],
)  # fmt: skip
def test_a_response_format_that_is_none(door, value, param):
    status, error = refused(door, response_format=value)
    assert (status, error["param"]) == (400, param)


def test_an_engine_without_grammars_says_so(door):
    status, error = refused(door, response_format={"type": "json_object"})
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", "response_format")


@pytest.mark.parametrize(("field", "value"), UNSUPPORTED.items())
def test_fields_that_are_not_honoured_are_refused_by_name(door, field, value):
    status, error = refused(door, **{field: value})
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", field)


def test_values_that_ask_for_nothing_are_fine(door):
    neutral = {
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": 0,
        "frequency_penalty": 0.0, "modalities": ["text"], "service_tier": "auto", "store": False, "metadata": None, "stop": [],
        "n": None, "temperature": None, "stream": None, "max_tokens": None, "logprobs": False, "user": None,
    }  # fmt: skip
    assert door.http().post("/v1/chat/completions", json={**HI, **neutral}).status_code == 200
    assert refused(door, store=0)[0] == 400  # 0 equals False in Python and means nothing here


MESSAGES = {
    "tool role": ({"role": "tool", "content": "x"}, "messages[0]"),
    "no role": ({"content": "x"}, "messages[0].role"),
    "no content": ({"role": "user"}, "messages[0]"),
    "image": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]},
        "messages[0].content",
    ),
    "no parts": ({"role": "user", "content": []}, "messages[0].content"),
    "refusing user": ({"role": "user", "content": "x", "refusal": "y"}, "messages[0]"),
    "name": ({"role": "user", "content": "x", "name": "bob"}, "messages[0].name"),
    "tool call": ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls[0].id"),
    "unknown": ({"role": "user", "content": "x", "weight": 1}, "messages[0].weight"),
    "number": ({"role": "user", "content": 5}, "messages[0].content"),
}


@pytest.mark.parametrize(("message", "param"), MESSAGES.values(), ids=MESSAGES.keys())
def test_wrong_messages(door, message, param):
    status, error = refused(door, messages=[message])
    assert (status, error["param"]) == (400, param)


def test_max_tokens_given_twice(door):
    assert refused(door, max_tokens=1, max_completion_tokens=2)[1]["param"] == "max_tokens"
    assert (
        door.http()
        .post("/v1/chat/completions", json={**HI, "max_tokens": 1, "max_completion_tokens": 1})
        .status_code
        == 200
    )


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "multipart/form-data"],
)
def test_other_media_types(door, content_type):
    status, error = post(door, json.dumps(HI), **{"content-type": content_type})
    assert (status, error["code"]) == (415, "unsupported_media_type")
    assert post(door, b"\x1f\x8b", **{"content-encoding": "gzip"})[0] == 415


def test_charset_is_fine(door):
    response = door.http().post(
        "/v1/chat/completions",
        content=json.dumps(HI),
        headers={"content-type": "application/JSON; charset=utf-8"},
    )
    assert response.status_code == 200


def test_too_large(door):
    assert post(door, b" " * 1_000_001)[0] == 413
    assert post(door, b" " * 8_000_000)[0] == 413
    assert post(door, iter([b" " * 600_000, b" " * 600_000]))[0] == 413  # chunked: no length is declared
    assert alive(door)


def test_a_body_that_does_not_arrive(door):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {door.key}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    started_s = time.monotonic()
    received = door.raw(head.encode() + b'{"model"')
    assert received.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in received
    assert 0.3 < time.monotonic() - started_s < 3


def test_a_head_that_does_not_arrive(door):
    for start in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"):
        started_s = time.monotonic()
        assert door.raw(start) == b""
        assert time.monotonic() - started_s < 3


def test_dripping_does_not_help(door):
    with door.connect() as connection:
        started_s = time.monotonic()
        try:
            for byte in b"GET /healthz HTTP/1.1\r\nx-" + b"a" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - started_s < 3


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\nhost: x\r\n\r\n",
                                     b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                                     b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"])  # fmt: skip
def test_what_is_not_http(door, garbage):
    received = door.raw(garbage)
    if received:  # part of a request: closed at the deadline without a word
        assert received.startswith(b"HTTP/1.1 400")
        assert b'"invalid_http"' in received
    assert alive(door)


def test_many_idle_connections(open_door):
    door = open_door(ScriptedEngine())
    idle = [door.connect() for _ in range(300)]
    try:
        started_s = time.monotonic()
        assert alive(door)
        assert time.monotonic() - started_s < 2
    finally:
        for connection in idle:
            connection.close()


def test_markup_and_control_characters_stay_text(open_door):
    nasty = "<script>alert(1)</script>\u2028\x1b[31m\r\n\r\ndata: [DONE]\r\n\r\n\U0001f600"
    door = open_door(ScriptedEngine(default=Reply(nasty)))
    response = door.http().post("/v1/chat/completions", json=HI)
    assert response.json()["choices"][0]["message"]["content"] == nasty
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    stream = door.client().chat.completions.create(**HI, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == nasty
    text = door.http().post("/v1/chat/completions", json={**HI, "stream": True})
    assert text.headers["content-type"].startswith("text/event-stream")
    assert all(line.startswith("data: ") for line in text.text.splitlines() if line)


DEEP = {"a": 1}
for _ in range(40):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize("path", ["completions", "responses", "embeddings"])
@pytest.mark.parametrize(
    "more",
    [
        {"x": DEEP}, {"model": "../../etc/passwd"}, {"model": "router\x00"}, {"user": "u" * 513}, {"user": 5}, {"stream": "yes"},
        {"prompt": None, "input": None}, {"prompt": [[]], "input": [[]]}, {"prompt": {"a": 1}, "input": {"a": 1}},
        {"prompt": [1, "x"], "input": [1, "x"]}, {"n": 10**6}, {"max_tokens": -1, "max_output_tokens": -1},
    ],
)  # fmt: skip
def test_the_other_doors_refuse_the_same(door, path, more):
    known = {"completions": "prompt", "responses": "input", "embeddings": "input"}[path]
    body = {"model": "router", known: "x", **more}
    response = door.http().post(f"/v1/{path}", json=body)
    assert 400 <= response.status_code < 500, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert door.http().post(f"/v1/{path}", json={"model": "router", known: "x"}).status_code == 200


def test_a_tools_schema_cannot_hurt(door):
    def ask(parameters, **more):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        body = {"model": "router", "messages": [{"role": "user", "content": "x"}], "tools": [tool], **more}
        return door.http().post("/v1/chat/completions", json=body).status_code

    assert ask(DEEP) == 400
    assert (
        ask({"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}) == 200
    )  # only shown to the model
    assert ask("x" * 10) == 400
    for arguments in (
        "{",
        "[]",
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": "\\ud800"}',
        "[" * 50_000,
    ):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        told = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "y"}]  # fmt: skip
        answer = door.http().post("/v1/chat/completions", json={"model": "router", "messages": told})
        assert answer.status_code == 400, arguments[:20]
