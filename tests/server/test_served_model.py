"""A real model behind the door: served answers are the engine's answers, and a dropped stream stops real work."""

from __future__ import annotations

import json
import math

import jsonschema
import openai
import pytest

from luthier.outputs.spec import AnsweringSpec
from luthier.serving.engine import Message, Request
from luthier.serving.package import PackageFacts
from luthier.serving.transformers_engine import TransformersEngine

LABELS = ("nine", "eight", "delivery")
ASK = [{"role": "user", "content": "Please refund the second payment"}]
MESSAGES = (Message("user", ASK[0]["content"]),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=4096, layers=4, hidden=128)


@pytest.fixture(scope="module")
def chat(open_door, folder):
    return open_door(TransformersEngine(folder, longest_answer=4000))


@pytest.fixture(scope="module")
def router(open_door, folder):
    return open_door(
        TransformersEngine(folder, facts=PackageFacts("Route it.", labels=LABELS, constrain=True))
    )


def ask(door, messages=ASK, **options):
    return door.client().chat.completions.create(model="router", messages=messages, **options)


def test_served_is_the_engines_answer_whole_and_streamed(chat):
    options = {"max_tokens": 20, "temperature": 0.8, "seed": 11, "top_p": 0.9}
    expected = list(chat.model.engine.generate(Request(MESSAGES, **options, top_logprobs=2)))
    text = "".join(c.text for c in expected)
    whole = ask(chat, **options, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == text
    assert whole.choices[0].finish_reason == expected[-1].finish
    assert whole.usage.completion_tokens == expected[-1].usage.completion_tokens
    told = [t for c in expected for t in c.tokens]
    assert [t.token for t in whole.choices[0].logprobs.content] == [t.chosen.text for t in told]
    assert [t.logprob for t in whole.choices[0].logprobs.content] == pytest.approx(
        [t.chosen.logprob for t in told]
    )
    pieces = list(
        ask(
            chat,
            **options,
            logprobs=True,
            top_logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in pieces if c.choices) == text
    assert pieces[-1].usage == whole.usage
    assert [
        t for c in pieces if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content
    ] == whole.choices[0].logprobs.content


def test_n_draws_with_one_seed_differ_and_repeat(chat):
    texts = [[c.message.content for c in ask(chat, max_tokens=12, seed=3, n=3).choices] for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    assert texts[0][0] == ask(chat, max_tokens=12, seed=3).choices[0].message.content


def test_a_label_with_its_probability(router):
    completion = ask(router, logprobs=True, top_logprobs=3)
    label = completion.choices[0].message.content
    (entry,) = completion.choices[0].logprobs.content
    assert label in LABELS
    assert entry.token == label
    assert sum(math.exp(t.logprob) for t in entry.top_logprobs) == pytest.approx(1, abs=1e-5)
    assert router.exchanges[-1].probability == pytest.approx(math.exp(entry.logprob))
    assert ask(router).choices[0].message.content == label  # without a temperature: the likeliest, every time
    with pytest.raises(openai.BadRequestError) as caught:
        ask(router, max_tokens=1)
    assert caught.value.param == "max_tokens"


def test_context_length(chat):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(chat, [{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded"
    assert "4096 tokens" in caught.value.message


def test_a_dropped_stream_stops_the_model(chat):
    stream = ask(chat, stream=True, max_tokens=3500, temperature=1.5, seed=0)
    pieces = iter(stream)
    for _ in range(5):
        next(pieces)
    stream.close()
    assert ask(chat, max_tokens=1).choices[0].finish_reason  # one slot: this had to wait for it
    cut, _ = chat.exchanges[-2:]
    assert cut.finish == ("cancelled",) and cut.completion_tokens < 1000


@pytest.mark.model
def test_the_real_small_model_answers_sensibly(open_door, tmp_path):
    from importlib.metadata import distribution

    from luthier.models.gguf import convert
    from luthier.models.known import KNOWN

    known = KNOWN["smollm2-135m-instruct"]
    convert(distribution(known.distribution).locate_file(known.file), tmp_path)
    door = open_door(TransformersEngine(tmp_path))
    france = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    pieces = ask(door, france, temperature=0, max_tokens=30, stream=True)
    assert "Paris" in "".join(c.choices[0].delta.content or "" for c in pieces)
    late = [{"role": "user", "content": "Which queue? My parcel is late."}]
    labels = {"x_luthier": {"labels": ["billing", "login", "delivery", "refund"]}}
    assert ask(door, late, extra_body=labels).choices[0].message.content == "delivery"


SCHEMA = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["billing", "login"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["queue", "n"],
    "additionalProperties": False,
}


def formatted(schema):
    return {"type": "json_schema", "json_schema": {"name": "route", "schema": schema, "strict": True}}


@pytest.mark.parametrize("which", ["chat", "router"])
def test_a_response_format_is_held_to_whole_and_streamed(which, request):
    door = request.getfixturevalue(which)
    options = {"response_format": formatted(SCHEMA), "seed": 5, "temperature": 1.0}
    whole = ask(door, **options).choices[0]
    assert whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content), SCHEMA)
    pieces = [c.choices[0] for c in ask(door, **options, stream=True) if c.choices]
    assert "".join(c.delta.content or "" for c in pieces) == whole.message.content
    assert sum(bool(c.delta.content) for c in pieces) > 1
    cut = ask(door, response_format=formatted(SCHEMA), max_tokens=3, seed=1).choices[0]
    assert cut.finish_reason == "length" and cut.message.content.lstrip()[:1] in ("", "{")
    bare = ask(door, response_format={"type": "json_object"}, max_tokens=40, seed=1).choices[0]
    assert bare.finish_reason == "length" or isinstance(json.loads(bare.message.content), dict)


def test_an_expression_is_held_to(chat):
    told = ask(chat, extra_body={"x_luthier": {"regex": "[0-9]{4}"}}).choices[0].message.content
    assert len(told) == 4 and told.isdigit()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"response_format": formatted({"type": "objekt"})}, "Invalid type: objekt"),
        ({"response_format": formatted({"not": {}})}, "Unimplemented keys"),
        ({"response_format": formatted({"$ref": "https://example.com/x"})}, "not present"),
        ({"extra_body": {"x_luthier": {"regex": "a("}}}, "unclosed group"),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"x_luthier": {"regex": "a"}}},
            "give one",
        ),
    ],
)
def test_a_format_that_cannot_be_held_to_is_refused_in_openais_envelope(chat, options, told):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(chat, **options, stream=stream)
        assert told in caught.value.message and caught.value.param == "response_format"


def test_steps_of_the_package_come_before_what_is_streamed(open_door, folder):
    wish = AnsweringSpec.model_validate(
        {"constrain": {"regex": "nine|ten!"}, "answers": [{"banned": {"words": ["nine"]}}]}
    )
    door = open_door(TransformersEngine(folder, facts=PackageFacts(answering=wish)))
    whole = ask(door).choices[0].message
    pieces = [c.choices[0].delta for c in ask(door, stream=True) if c.choices]
    assert "".join(one.content or "" for one in pieces) == (whole.content or "")
    assert [one.refusal for one in pieces if one.refusal] == ([whole.refusal] if whole.refusal else [])
    assert (whole.content, whole.refusal) in (
        ("ten!", None),
        (None, "banned: the answer holds something that is banned."),
    )
