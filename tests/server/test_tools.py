"""Calls of functions: what a client may write, how calls are read out of a growing answer, what the official client receives."""

from __future__ import annotations

import json

import openai
import pytest

from luthier.core.artifact import digest_of
from luthier.models.call_form import CallForm
from luthier.server.calls import CallReader
from luthier.serving.engine import Call, Chunk, Message, Usage
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

FORM = CallForm("<tool_call>", "</tool_call>")
TOOL = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}  # fmt: skip
CALLING = 'Let me look. <tool_call>{"name": "now", "arguments": {"zone": "Rome"}}</tool_call>'
RULES = [
    Rule("two", Reply('<tool_call>{"name": "now", "arguments": {}}</tool_call><tool_call>{"name": "now", "arguments": {"zone": "x"}}</tool_call>')),
    Rule("other", Reply('<tool_call>{"name": "delete_all", "arguments": {}}</tool_call>')),
    Rule("python", Reply('now(zone="Rome")')),
    Rule("call", Reply(CALLING)),
]  # fmt: skip


@pytest.fixture(scope="module")
def door(open_door):
    return open_door(ScriptedEngine(RULES, Reply("a < b and nothing to call")))


def ask(door, text, **options):
    return door.client().chat.completions.create(
        model="router", messages=[{"role": "user", "content": text}], tools=[TOOL], **options
    )


def streamed(door, text, **options):
    """(content, calls as {place: [name, arguments]}, finish) put together as a client does."""
    content, calls, finish = "", {}, None
    for chunk in ask(door, text, stream=True, **options):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        for one in choice.delta.tool_calls or []:
            call = calls.setdefault(one.index, ["", ""])
            call[0] += one.function.name or ""
            call[1] += one.function.arguments or ""
        finish = choice.finish_reason or finish
    return content, calls, finish


def test_a_call_whole_and_streamed(door):
    (choice,) = ask(door, "call").choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "now", {"zone": "Rome"})  # fmt: skip
    assert call.id.startswith("call_")
    assert streamed(door, "call") == ("Let me look.", {0: ["now", '{"zone": "Rome"}']}, "tool_calls")
    assert door.exchanges[-1].finish == ("tool_calls",)


def test_the_record_of_calls_is_of_the_calls(door):
    for text in ("call", "python", "call"):
        ask(door, text)
        streamed(door, text)
    said = [one.answers_sha256 for one in door.exchanges[-6:]]
    assert (
        said[0] == said[1] == said[4] == said[5] != said[2] == said[3]
    )  # whole or streamed, whatever the ids
    arguments = json.dumps({"zone": "Rome"})
    form = {"text": "Let me look.", "calls": [{"name": "now", "arguments": arguments}]}
    assert said[0] == (digest_of(form),)


def test_several_calls_and_the_first_alone(door):
    message = ask(door, "two").choices[0].message
    assert message.content is None
    assert [json.loads(one.function.arguments) for one in message.tool_calls] == [{}, {"zone": "x"}]
    assert len({one.id for one in message.tool_calls}) == 2
    assert len(ask(door, "two", parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_pythons_way_is_read_the_same_whole_and_streamed(door):
    assert ask(door, "python").choices[0].message.tool_calls[0].function.name == "now"
    assert streamed(door, "python") == ("", {0: ["now", '{"zone": "Rome"}']}, "tool_calls")


def test_what_calls_nothing_or_nothing_that_is_offered_is_text(door):
    assert ask(door, "hello").choices[0].message.content == "a < b and nothing to call"
    assert streamed(door, "hello") == ("a < b and nothing to call", {}, "stop")
    assert "delete_all" in ask(door, "other").choices[0].message.content
    assert ask(door, "other").choices[0].finish_reason == "stop"


def test_what_the_engine_is_shown(door):
    ask(door, "hello")
    assert [t["function"]["name"] for t in door.model.engine.requests[-1].tools] == ["now"]
    ask(door, "hello", tool_choice="none")
    assert door.model.engine.requests[-1].tools == ()
    for choice in ("required", {"type": "function", "function": {"name": "now"}}):
        ask(door, "call", tool_choice=choice)
        assert door.model.engine.requests[-1].must_call == ("now",)


def test_an_answer_of_a_tool_goes_back(door):
    message = ask(door, "call").choices[0].message
    call = message.tool_calls[0]
    told = [
        {"role": "user", "content": "call"},
        message,
        {"role": "tool", "tool_call_id": call.id, "content": "noon"},
    ]
    door.client().chat.completions.create(model="router", messages=told, tools=[TOOL])
    seen = door.model.engine.requests[-1].messages
    assert seen[1] == Message("assistant", "Let me look.", (Call(call.id, "now", '{"zone": "Rome"}'),))
    assert seen[2] == Message("tool", "noon", answers=call.id)
    assert seen[1].plain()["tool_calls"][0]["function"]["arguments"] == {"zone": "Rome"}


ASKED = {"role": "user", "content": "x"}
CALLED = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": True}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "tools"),
        ({"messages": [ASKED, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}, "messages"),
        ({"messages": [ASKED, CALLED]}, "messages"),
        ({"messages": [ASKED, CALLED, ASKED]}, "messages"),
        ({"messages": [ASKED, {"role": "tool", "content": "x"}]}, "messages[1]"),
        ({"messages": [ASKED, {**CALLED, "role": "user", "content": "x"}]}, "messages[1]"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{**CALLED["tool_calls"][0], "function": {"name": "now", "arguments": "[1]"}}]}]},
         "messages[1].tool_calls[0].function.arguments"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(door, body, param):
    response = door.http().post("/v1/chat/completions", json={"model": "router", "messages": [ASKED], **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_an_engine_that_knows_no_tools(open_door):
    class Plain(ScriptedEngine):
        call_form = None

    del Plain.call_form
    engine = ScriptedEngine()

    class Narrow:
        """Only what every engine has."""

        slots = 1

        def __getattr__(self, name):
            if name in ("call_form", "embed", "continues_text"):
                raise AttributeError(name)
            return getattr(engine, name)

    door = open_door(Narrow())
    with pytest.raises(openai.BadRequestError) as refused:
        ask(door, "hello")
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools")
    for path, body in (("embeddings", {"input": "x"}), ("completions", {"prompt": "x"})):
        error = door.http().post(f"/v1/{path}", json={"model": "router", **body}).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_model", "model")


def read_in_pieces(text, size, form=FORM):
    reader = CallReader(form, ["now"], one=False)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    told = [reader.take(Chunk(piece, Usage(1, n))) for n, piece in enumerate(pieces)]
    return [*told, reader.take(Chunk("", Usage(1, len(pieces)), finish="stop"))]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALLING, "Let me look.", 1),
        ('{"name": "now", "arguments": {}}', "", 1),
        ('[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]', "", 2),
        ("[1, 2] is a list.", "[1, 2] is a list.", 0),
        ("now and then", "now and then", 0),
        ("now(", "now(", 0),
        ("An opening <tool_call> alone", "An opening <tool_call> alone", 0),
        ("  spaces  around  ", "  spaces  around  ", 0),
        ("a <tool", "a <tool", 0),
        ("", "", 0),
    ],
)  # fmt: skip
def test_reading_does_not_depend_on_how_the_text_is_cut(text, content, calls, size):
    told = read_in_pieces(text, size)
    assert "".join(chunk.text for chunk in told) == content
    assert len(told[-1].calls) == calls
    assert not any(chunk.calls for chunk in told[:-1])


def test_plain_text_is_not_held_back():
    told = read_in_pieces("one two three", 4)
    assert "".join(chunk.text for chunk in told[:-1]) == "one two three"
