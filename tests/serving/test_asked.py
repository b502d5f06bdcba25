"""Plain text, tools and vectors on a tiny model: what the engine shows it, and what it holds its answers to."""

from __future__ import annotations

import json
import math

import pytest

from luthier.evaluation.calls import read
from luthier.models.testing import TOOL_TEMPLATE, tiny_model
from luthier.models.weights import load_tokenizer
from luthier.serving.abilities import CallsFunctions, Continues, Embeds
from luthier.serving.engine import Call, ContextLengthExceeded, Message, Refused, Request
from luthier.serving.package import PackageFacts
from luthier.serving.transformers_engine import TransformersEngine

SCHEMA = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}  # fmt: skip
TOOLS = tuple({"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g"))
ASK = (Message("user", "hi"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("asked") / "model", context=900)


@pytest.fixture(scope="module")
def engine(folder):
    made = TransformersEngine(folder)
    made.load()
    yield made
    made.close()


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("caller") / "model", context=900)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(folder)
    made = TransformersEngine(folder)
    made.load()
    yield made
    made.close()


def said(engine, **asked):
    chunks = list(
        engine.generate(Request(**{"messages": ASK, "temperature": 0.0, "max_tokens": 100, **asked}))
    )
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage


def test_what_it_is_able_to(engine):
    assert isinstance(engine, Continues) and isinstance(engine, Embeds) and isinstance(engine, CallsFunctions)
    assert engine.continues_text


def test_plain_text_has_no_template_before_it(engine, folder):
    text, usage = said(engine, messages=(), prompt="one two three", constrain=(), max_tokens=5)
    ids = load_tokenizer(folder)("one two three")["input_ids"]
    assert usage.prompt_tokens == len(ids)
    assert said(engine, messages=(), prompt=tuple(ids), constrain=(), max_tokens=5)[0] == text
    # a control token that is written out is more than one token
    assert said(engine, messages=(), prompt="<|im_end|>", constrain=(), max_tokens=1)[1].prompt_tokens > 1


@pytest.mark.parametrize("prompt", [(10**6,), (-1,), ()])
def test_ids_that_are_no_tokens(engine, prompt):
    with pytest.raises(Refused) as refused:
        said(engine, messages=(), prompt=prompt, constrain=())
    assert refused.value.param == "prompt"


def test_a_prompt_longer_than_the_context(engine):
    with pytest.raises(ContextLengthExceeded, match="the prompt takes") as refused:
        said(engine, messages=(), prompt="one " * 1200, constrain=())
    assert refused.value.param == "prompt"


@pytest.mark.parametrize("names", [("f",), ("g",), ("f", "g")])
def test_a_demanded_call_is_one(caller, names):
    pytest.importorskip("llguidance")
    text, _ = said(caller, tools=TOOLS, must_call=names)
    (call,) = read(text, caller.call_form()).calls
    assert call["name"] in names
    assert set(call["arguments"]) == {"x"} and isinstance(call["arguments"]["x"], bool)


def test_tools_are_shown_and_answers_go_back(caller):
    plain, shown = said(caller, max_tokens=1)[1], said(caller, tools=TOOLS, max_tokens=1)[1]
    assert shown.prompt_tokens > plain.prompt_tokens
    told = (
        *ASK,
        Message("assistant", "", (Call("1", "f", json.dumps({"x": True})),)),
        Message("tool", "yes", answers="1"),
    )
    assert said(caller, messages=told, tools=TOOLS, max_tokens=1)[1].prompt_tokens > shown.prompt_tokens


def test_what_cannot_call_says_so(engine, caller, folder):
    with pytest.raises(Refused, match="does not know tools") as refused:
        engine.call_form()
    assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")
    router = TransformersEngine(folder, facts=PackageFacts(labels=("a", "b"), constrain=True))
    router.load()
    for must_call in ((), ("f",)):
        with pytest.raises(Refused, match="labels, a grammar or a vote"):
            said(router, tools=TOOLS, must_call=must_call)
    pytest.importorskip("llguidance")
    refers = {"type": "function", "function": {"name": "r", "parameters": {"$ref": "#/x"}}}
    with pytest.raises(Refused, match="refer to other places"):
        said(caller, tools=(refers,), must_call=("r",))


def test_vectors_do_not_depend_on_what_they_are_asked_with(engine):
    alone = engine.embed(["one two"]).of[0]
    beside = engine.embed(["refund the second payment", "one two", "x"])
    assert beside.of[1] == pytest.approx(alone, abs=1e-5)
    assert math.hypot(*alone) == pytest.approx(1, abs=1e-5)
    assert beside.of[0] != pytest.approx(alone, abs=1e-2)
    assert beside.tokens > 3
    with pytest.raises(ContextLengthExceeded, match="the input takes"):
        engine.embed(["one " * 1200])
