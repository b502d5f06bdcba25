"""The official client against a real server: what it sends is understood, what it receives it can read."""

from __future__ import annotations

import hashlib
import math

import openai
import pytest

from luthier.core.artifact import digest_of
from luthier.serving.engine import Message
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

SAY_HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def door(open_door):
    return open_door(ScriptedEngine([Rule("refund", Reply("billing"))], Reply("one two three")))


def ask(door, messages=SAY_HI, **options):
    return door.client().chat.completions.create(model="router", messages=messages, **options)


def test_chat(door):
    completion = ask(door)
    assert completion.object == "chat.completion"
    assert completion.model == "router"
    assert completion.system_fingerprint == "0123456789ab"
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content, choice.message.refusal) == (
        "assistant",
        "one two three",
        None,
    )
    assert (choice.finish_reason, choice.logprobs) == ("stop", None)
    # "hi" is one word, the answer three
    assert (
        completion.usage.prompt_tokens,
        completion.usage.completion_tokens,
        completion.usage.total_tokens,
    ) == (1, 3, 4)


def test_headers(door):
    raw = door.client().chat.completions.with_raw_response.create(model="router", messages=SAY_HI)
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-luthier-release"] == "router@3"
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_stream_has_the_same_text_and_proper_shapes(door):
    chunks = list(ask(door, stream=True, stream_options={"include_usage": True}))
    assert {c.id for c in chunks} == {chunks[0].id}
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 4 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 4
    assert all(c.usage is None for c in chunks[:-1])


def test_stream_without_usage_ends_with_the_finish(door):
    chunks = list(ask(door, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(c.usage is None for c in chunks)


def test_logprobs(door):
    completion = ask(door, logprobs=True, top_logprobs=2)
    content = completion.choices[0].logprobs.content
    assert [t.token for t in content] == ["one", " two", " three"]
    assert bytes(content[1].bytes).decode() == " two"
    assert content[0].logprob == pytest.approx(math.log(0.9))
    assert [t.token for t in content[0].top_logprobs] == ["one", "…"]
    streamed = [
        t
        for c in ask(door, logprobs=True, top_logprobs=2, stream=True)
        if (lp := c.choices[0].logprobs)
        for t in lp.content
    ]
    assert streamed == content


def test_max_tokens_by_both_names(door):
    for name in ("max_tokens", "max_completion_tokens"):
        choice = ask(door, **{name: 2}).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("one two", "length")


@pytest.mark.parametrize("stop", [" three", ["x", " three"]])
def test_stop(door, stop):
    choice = ask(door, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one two", "stop")


def test_what_the_engine_is_asked(door):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "user", "content": "again"},
    ]
    ask(
        door,
        messages,
        temperature=0.5,
        top_p=0.25,
        seed=-3,
        n=2,
        extra_body={"x_luthier": {"instruction": False}},
    )
    first, second = door.model.engine.requests
    assert first.messages == (
        Message("system", "be\nbrief"),
        Message("user", "q"),
        Message("assistant", "no"),
        Message("user", "again"),
    )
    assert (first.temperature, first.top_p, first.seed, first.instruct) == (0.5, 0.25, -3, False)
    assert second.seed not in (None, -3)
    assert second.messages == first.messages


def test_n_answers_share_one_prompt(door):
    completion = ask(door, n=3)
    assert [c.index for c in completion.choices] == [0, 1, 2]
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (1, 9)
    chunks = list(ask(door, n=2, stream=True))
    for index in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == "one two three"
        assert mine[-1].finish_reason == "stop"


def test_a_reply_can_be_sent_back_as_it_came(door):
    message = ask(door).choices[0].message
    ask(door, [*SAY_HI, message.model_dump(), {"role": "user", "content": "more"}])
    ask(door, [*SAY_HI, message, {"role": "user", "content": "more"}])
    assert door.model.engine.requests[-1].messages[1] == Message("assistant", "one two three")


def test_labels_from_the_request(door):
    labels = {"x_luthier": {"labels": ["billing", "login"], "abstain_below": 0.5}}
    completion = ask(door, [{"role": "user", "content": "a refund"}], logprobs=True, extra_body=labels)
    assert completion.choices[0].message.content == "billing"
    assert [t.token for t in completion.choices[0].logprobs.content] == ["billing"]
    assert door.exchanges[-1].probability == pytest.approx(0.9)


def test_abstaining_is_a_refusal(door):
    options = {"extra_body": {"x_luthier": {"labels": ["billing", "login"], "abstain_below": 0.95}}}
    messages = [{"role": "user", "content": "a refund"}]
    message = ask(door, messages, **options).choices[0].message
    assert message.content is None
    assert "0.95" in message.refusal
    chunks = list(ask(door, messages, stream=True, **options))
    assert "".join(c.choices[0].delta.refusal or "" for c in chunks) == message.refusal
    assert [e.finish for e in door.exchanges] == [("refused",), ("refused",)]


def test_models(door):
    (model,) = door.client().models.list().data
    assert (model.id, model.object, model.created, model.owned_by) == (
        "router",
        "model",
        1_700_000_000,
        "luthier",
    )
    assert door.client().models.retrieve("router") == model
    for missing in ("other", "ft:Qwen/Qwen2.5:org:s:1", "../router"):
        with pytest.raises(openai.NotFoundError) as caught:
            door.client().models.retrieve(missing)
        assert caught.value.code == "model_not_found"


def test_errors_become_the_clients_own_classes(door):
    with pytest.raises(openai.AuthenticationError) as caught:
        door.client(api_key="luthier_wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        door.client().chat.completions.create(model="gpt-4o", messages=SAY_HI)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        ask(door, logit_bias={"1": 1})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "logit_bias")
    with pytest.raises(openai.BadRequestError) as long:
        ask(door, max_tokens=5000)
    assert long.value.code == "context_length_exceeded"
    assert "1000 tokens" in long.value.message
    assert "5000" in long.value.message
    with pytest.raises(openai.BadRequestError):  # also when a stream was asked for: it has not begun
        ask(door, max_tokens=5000, stream=True)


def test_a_key_without_the_permission(open_door):
    door = open_door(ScriptedEngine(), permissions=frozenset({"models.read"}))
    assert door.client().models.list().data
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(door)
    assert caught.value.code == "insufficient_permissions"


def test_engine_failures(open_door):
    door = open_door(
        ScriptedEngine(
            [
                Rule("now", Reply("a b", fails=RuntimeError("secret path /x"))),
                Rule("later", Reply("a b", fails=RuntimeError("x"), fails_after=1)),
            ]
        )
    )
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            ask(door, [{"role": "user", "content": "now"}], stream=stream)
        assert "secret" not in caught.value.message
        assert caught.value.request_id in caught.value.message
    with pytest.raises(openai.InternalServerError):
        ask(door, [{"role": "user", "content": "later"}])
    assert door.exchanges == []  # nothing was said
    heard = []
    with pytest.raises(openai.APIError) as broken:
        for chunk in ask(door, [{"role": "user", "content": "later"}], stream=True):
            heard.append(chunk.choices[0].delta.content)
    assert "".join(h or "" for h in heard) == "a"
    assert broken.value.code == "internal_error"
    assert door.exchanges[0].finish == ("failed",)
    assert ask(door).choices[0].message.content == "scripted"  # and the engine goes on


def test_an_engine_that_is_not_ready(open_door):
    door = open_door(ScriptedEngine())
    assert door.http().get("/healthz").json() == {"status": "ok"}
    door.model.engine.close()
    assert door.http().get("/healthz").status_code == 503
    with pytest.raises(openai.InternalServerError) as caught:
        ask(door)
    assert caught.value.code == "engine_unavailable"


def test_the_record_of_an_exchange(door):
    completion = ask(door, user="u-17", seed=1)
    (exchange,) = door.exchanges
    assert exchange.id == completion.id
    assert exchange.request_id == completion._request_id
    assert (exchange.model, exchange.release, exchange.package_digest) == (
        "router",
        "router@3",
        "0123456789abcdef" * 4,
    )
    assert exchange.key_id == door.key_id
    assert exchange.user_sha256 == hashlib.sha256(b"u-17").hexdigest()
    assert exchange.prompt_sha256 == digest_of(SAY_HI)
    assert exchange.answers_sha256 == (hashlib.sha256(b"one two three").hexdigest(),)
    assert (exchange.prompt_tokens, exchange.completion_tokens, exchange.finish) == (1, 3, ("stop",))
    assert 0 <= exchange.first_token_s <= exchange.latency_s
    assert not exchange.streamed
    list(ask(door, stream=True))
    assert door.exchanges[1].streamed
    assert door.exchanges[1].answers_sha256 == exchange.answers_sha256


def test_an_answer_that_cannot_be_recorded_is_not_completed(open_door):
    def full(_):
        raise OSError("No space left on device")

    door = open_door(ScriptedEngine(), on_exchange=full)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(door)
    assert caught.value.code == "not_recorded"
    with pytest.raises(openai.APIError) as broken:
        list(ask(door, stream=True))
    assert broken.value.code == "not_recorded"
