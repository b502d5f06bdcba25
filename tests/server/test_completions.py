"""`/v1/completions` and `/v1/embeddings` through the official client."""

from __future__ import annotations

import math

import openai
import pytest

from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine


@pytest.fixture(scope="module")
def door(open_door):
    return open_door(ScriptedEngine([Rule("b", Reply("from b"))], Reply("one two three")))


def ask(door, prompt="Once upon", **options):
    return door.client().completions.create(model="router", prompt=prompt, **options)


def test_a_text_goes_on(door):
    told = ask(door, seed=7, temperature=0)
    assert (told.object, told.model, told.choices[0].text, told.choices[0].finish_reason) == (
        "text_completion", "router", "one two three", "stop",
    )  # fmt: skip
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (2, 3)
    request = door.model.engine.requests[-1]
    assert (request.prompt, request.messages, request.max_tokens, request.seed) == ("Once upon", (), 16, 7)
    assert (request.constrain, request.instruct) == ((), False)  # plain text, whatever the package says
    exchange = door.exchanges[-1]
    assert (exchange.id, exchange.prompt_tokens, exchange.finish) == (told.id, 2, ("stop",))


def test_stream(door):
    chunks = list(ask(door, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "one two three"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 3


def test_prompts_times_n(door):
    told = ask(door, ["a a", "b"], n=2)
    assert [c.text for c in told.choices] == ["one two three"] * 2 + ["from b"] * 2
    assert [c.index for c in told.choices] == [0, 1, 2, 3]
    # each prompt once (2 + 1 words), every answer (3 + 3 + 2 + 2)
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (3, 10)


def test_token_ids(door):
    ask(door, [1, 2, 3])
    assert door.model.engine.requests[-1].prompt == (1, 2, 3)
    assert ask(door, [[1, 2], [3]]).usage.prompt_tokens == 3


def test_logprobs(door):
    logprobs = ask(door, logprobs=2).choices[0].logprobs
    assert logprobs.tokens == ["one", " two", " three"]
    assert logprobs.text_offset == [0, 3, 7]
    assert logprobs.token_logprobs[0] == pytest.approx(math.log(0.9))
    assert set(logprobs.top_logprobs[0]) == {"one", "…"}
    streamed = [c.choices[0].logprobs for c in ask(door, logprobs=2, stream=True)]
    assert [at for one in streamed if one for at in one.text_offset] == [0, 3, 7]


def test_stop_and_length(door):
    assert ask(door, stop=" three").choices[0].text == "one two"
    assert ask(door, max_tokens=1).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt[0]", "invalid_value"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": ["x"] * 65}, "prompt", "invalid_value"),
        ({"prompt": ["x"] * 9, "n": 8}, "n", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"store": True}, "store", "unknown_parameter"),
    ],
)
def test_what_is_refused_is_named(door, more, param, code):
    response = door.http().post("/v1/completions", json={"model": "router", "prompt": "x", **more})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code), error
    assert error["param"].startswith(param.partition("[")[0])


def test_vectors(door):
    client = door.client()  # asks for base64 by itself
    told = client.embeddings.create(model="router", input=["one two", "three"])
    assert [len(one.embedding) for one in told.data] == [4, 4]
    assert sum(x * x for x in told.data[0].embedding) == pytest.approx(1, abs=1e-6)
    assert told.usage.prompt_tokens == 3
    plain = client.embeddings.create(model="router", input="one two", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(told.data[0].embedding, abs=1e-6)
    assert door.exchanges[-1].finish == ("embedded",)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="router", input="x", dimensions=2)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "dimensions")
