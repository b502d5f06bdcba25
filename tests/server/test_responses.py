"""`/v1/responses` through the official client: whole, streamed, held to a schema, with tools, and what it does not keep."""

from __future__ import annotations

import json

import openai
import pytest

from luthier.serving.engine import Message
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

TOOL = {"type": "function", "name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}  # fmt: skip
RULES = [
    Rule("call", Reply('<tool_call>{"name": "now", "arguments": {}}</tool_call>')),
    Rule("break", Reply("a b", fails=RuntimeError("secret"), fails_after=1)),
]


@pytest.fixture(scope="module")
def door(open_door):
    return open_door(ScriptedEngine(RULES, Reply("one two three")))


def ask(door, said="hi", **options):
    return door.client().responses.create(model="router", input=said, **options)


def test_whole(door):
    told = ask(door, instructions="Be brief.", store=False)
    assert (told.object, told.status, told.output_text) == ("response", "completed", "one two three")
    assert (told.usage.input_tokens, told.usage.output_tokens, told.usage.total_tokens) == (3, 3, 6)
    assert told.id.startswith("resp_") and told.output[0].role == "assistant"
    assert door.model.engine.requests[-1].messages == (Message("system", "Be brief."), Message("user", "hi"))
    assert door.exchanges[-1].id == told.id


def test_a_conversation_goes_back_as_it_came(door):
    first = ask(door)
    ask(
        door,
        [
            {"role": "user", "content": "hi"},
            *first.output,
            {"role": "user", "content": [{"type": "input_text", "text": "more"}]},
        ],
    )
    assert door.model.engine.requests[-1].messages == (
        Message("user", "hi"), Message("assistant", "one two three"), Message("user", "more"),
    )  # fmt: skip


def test_the_events_of_a_stream(door):
    events = list(ask(door, stream=True))
    assert [e.type for e in events] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "one two three"
    assert events[-1].response.output_text == "one two three"
    assert events[-1].response.usage.output_tokens == 3
    with door.client().responses.stream(model="router", input="hi") as stream:  # the client's own accumulator
        assert stream.get_final_response().output_text == "one two three"


def test_cut_off(door):
    told = ask(door, max_output_tokens=1)
    assert (told.status, told.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert list(ask(door, max_output_tokens=1, stream=True))[-1].type == "response.incomplete"


def test_tools_there_and_back(door):
    told = ask(door, "call", tools=[TOOL])
    (call,) = told.output
    assert (call.type, call.name, call.arguments) == ("function_call", "now", "{}")
    events = list(ask(door, "call", tools=[TOOL], stream=True))
    assert [e.type for e in events][2:] == [
        "response.output_item.added", "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    ask(door, [{"role": "user", "content": "x"}, call, answer], tools=[TOOL])
    assert [m.role for m in door.model.engine.requests[-1].messages] == ["user", "assistant", "tool"]
    ask(door, "call", tools=[TOOL], tool_choice={"type": "function", "name": "now"})
    assert door.model.engine.requests[-1].must_call == ("now",)


def test_a_refusal(door):
    labels = {"x_luthier": {"labels": ["one two three", "b"], "abstain_below": 0.95}}
    part = ask(door, extra_body=labels).output[0].content[0]
    assert part.type == "refusal" and "0.95" in part.refusal
    assert "response.refusal.done" in [e.type for e in ask(door, extra_body=labels, stream=True)]


def test_a_stream_that_breaks_says_so(door):
    events = list(ask(door, "break", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert "secret" not in events[-1].response.error.message
    assert door.exchanges[-1].finish == ("failed",)


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(door, more, param, code):
    response = door.http().post("/v1/responses", json={"model": "router", "input": "x", **more})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param), error


def test_a_format_reaches_the_engine_as_a_grammar(door):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with pytest.raises(
        openai.BadRequestError
    ) as refused:  # the scripted engine holds to nothing, and says so
        ask(door, text={"format": {"type": "json_schema", "name": "x", "schema": schema}})
    assert refused.value.param == "response_format"
    assert json.loads(door.model.engine.requests[-1].constrain.written) == schema
