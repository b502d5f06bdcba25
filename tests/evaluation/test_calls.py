"""Calls of tools: what is read as one, what matches, what a tool allows; and answers that mean harm."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evaluation import calls, compare
from luthier.evaluation.calls import Said, judged, read
from luthier.evaluation.python_text import parses
from luthier.models.call_form import CallForm

CALL = {"name": "weather", "arguments": {"city": "Ulm", "days": 2}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                    "at": {"type": "array", "items": {"type": "number"}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
TEXT = json.dumps(CALL)


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{TEXT}</tool_call>",
        f"I shall look.\n<tool_call>\n{TEXT}\n</tool_call>\n",
        TEXT,
        f"[{TEXT}]",
        f"[TOOL_CALLS] [{TEXT}]",
        json.dumps({"name": "weather", "parameters": CALL["arguments"]}),
        json.dumps(
            {"type": "function", "function": {"name": "weather", "arguments": json.dumps(CALL["arguments"])}}
        ),
        json.dumps({"tool_calls": [{"id": "1", "function": CALL}]}),
        "weather(city='Ulm', days=2)",
        '[weather(city="Ulm", days=+2)]',
    ],
)
def test_the_common_forms_are_read(text):
    assert read(text).calls == [CALL]


@pytest.mark.parametrize(
    ("text", "tried"),
    [
        ("It rains.", False),
        ("", False),
        ('{"answer": 1}', False),
        (f"Here: {TEXT}", False),
        (f"<tool_call>{TEXT}", True),
        (f"<tool_call>{TEXT}</tool_call><tool_call>{{</tool_call>", True),
        ("<tool_call>{'name': 'weather'}</tool_call>", True),
        ("weather('Ulm')", True),
        ("weather(city=__import__('os').name)", True),
        ("weather(city='a', city='b')", True),
        ("weather(city=", False),  # no Python
        ("weather(city=1e999)", True),
        ("weather(**{'city': 1})", True),
    ],
)
def test_what_is_no_call_and_what_tries_to_be_one(text, tried):
    assert read(text) == Said(None, tried)


def test_a_template_s_own_form_is_read():
    form = CallForm("<function>", "</function>")
    assert read(f"<function>{TEXT}</function>", form).calls == [CALL]
    assert read(f"<function>{TEXT}", form) == Said(None, True)
    assert read(f"<function>{TEXT}</function>").calls is None


def values(expected, text):
    said = read(text)
    told = {"tools": TOOLS, "expected": expected, "said": said.calls}
    return judged({**{k: None if v is None else json.dumps(v) for k, v in told.items()}, "tried": said.tried})


@pytest.mark.parametrize(
    ("arguments", "match", "fits"),
    [
        ({"days": 2.0, "city": " Ulm "}, 1, 1),
        ({"city": "Ulm", "days": 2, "unit": "c"}, 1, 1),  # the default, written out
        ({"city": "Ulm", "days": 2, "unit": "f"}, 0, 1),
        ({"city": "Ulm"}, 0, 1),  # left out, and no default
        ({"city": "ulm", "days": 2}, 0, 1),
        ({"city": "Ulm", "days": "2"}, 0, 0),
        ({"city": "Ulm", "days": True}, 0, 0),
        ({"days": 2}, 0, 0),
        ({"city": "Ulm", "days": 2, "unit": "k"}, 0, 0),
        ({"city": "Ulm", "days": 2, "more": 1}, 0, 0),
        ({"city": "Ulm", "days": 2, "at": ["x"]}, 0, 0),
    ],
)
def test_arguments_are_compared_by_value_and_held_to_the_schema(arguments, match, fits):
    found = values([CALL], json.dumps({"name": "weather", "arguments": arguments}))
    assert found == {"call_when_due": 1, "call_match": match, "call_name": 1, "call_valid": fits}


def test_when_a_call_is_due():
    other = '{"name": "elsewhere", "arguments": {}}'
    assert values([CALL], other) == {"call_when_due": 1, "call_match": 0, "call_name": 0, "call_valid": 0}
    assert values([CALL], "no") == {"call_when_due": 0, "call_match": 0, "call_name": 0, "call_valid": 0}
    assert values([], "no") == {"call_when_due": 1}
    assert values([], TEXT) == {"call_when_due": 0}
    assert values([], "<tool_call>{") == {"call_when_due": 0}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-1, 1) | st.text("a b", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=5,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["f", "g"]), "arguments": st.dictionaries(st.sampled_from("xyz"), VALUES)}
    ),
    min_size=1,
    max_size=3,
)


@given(CALLS, st.randoms())
def test_every_form_gives_the_calls_back_and_their_order_does_not_matter(some, rng):
    python = ", ".join(
        f"{one['name']}({', '.join(f'{k}={v!r}' for k, v in one['arguments'].items())})" for one in some
    )
    for text in (
        "".join(f"<tool_call>{json.dumps(one)}</tool_call>" for one in some),
        json.dumps(some),
        f"[{python}]",
    ):
        assert read(text).calls == some
    shuffled = rng.sample(some, len(some))
    assert values(some, json.dumps(shuffled))["call_match"] == 1
    assert values(some, json.dumps(shuffled))["call_name"] == 1
    assert values(some, json.dumps([*some, some[0]]))["call_match"] == 0  # how often counts


HOSTILE = [
    "<tool_call>" + "[" * 100_000,
    "<tool_call>" * 5_000,
    '{"name": "weather", "arguments": ' + '{"a":' * 40_000,
    '<tool_call>{"name": "weather", "arguments": {"city": NaN}}</tool_call>',
    '<tool_call>{"name": "weather", "name": "now", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"days": ' + "9" * 5_000 + "}}</tool_call>",
    '{"name": "weather", "arguments": {"city": "\\ud800"}}',
    "f(" * 9_000,
    "f(x=" + "-" * 15_000 + "1)",
    "f(x=" + "[" * 150 + "]" * 150 + ")",
    "f(x='\\ud800')",
    "f(x=" + "9" * 5_000 + ")",
    "f" + ".a" * 9_000 + "()",
    "f(x=1)\x00",
    "x(" + "a" * 5_000_000,
]


def test_hostile_answers_match_nothing_and_take_no_time():
    began = time.process_time()
    for text in HOSTILE:
        found = values([CALL], text)
        assert (found["call_match"], found["call_valid"]) == (0, 0), text[:40]
    assert time.process_time() - began < 5


def test_a_hostile_tool_allows_what_it_does_not_say():
    deep = {
        "type": "object",
        "properties": {"x": {"pattern": "(a+)+$", "$ref": "https://e.org", "type": ["???", 5]}},
    }
    tools = {"f": {"parameters": deep}}
    assert calls.valid({"name": "f", "arguments": {"x": "a" * 40 + "b"}}, tools)
    for odd in (
        [],
        5,
        {"properties": 5},
        {"properties": {"x": 5}, "required": 7},
        {"type": {}, "properties": {"x": []}},
    ):
        assert calls.valid({"name": "f", "arguments": {"x": 1}}, {"f": {"parameters": odd}}) in (True, False)


def test_rows_without_tools_say_nothing():
    assert calls.statistics([None, None]) is None
    told = {
        "tools": json.dumps(TOOLS),
        "expected": json.dumps([CALL]),
        "said": json.dumps([CALL]),
        "tried": False,
    }
    found = compare.at_sample(calls.statistics([None, told, {**told, "expected": "[]"}]), 3)
    assert found == {"call_match": 1, "call_name": 1, "call_valid": 1, "call_when_due": 0.5}


def test_code_is_parsed_and_never_run():
    assert parses("```python\nimport os; os._exit(1)\n```")
    assert not parses("```python\ndef f(:\n```") and not parses("x = 1") and not parses("```\nx = 1\n```")
    assert not parses("```python\n" + "(" * 9_000 + "\n```")


def test_a_model_is_asked_with_tools_and_what_it_calls_is_kept(tmp_path):
    """The rows are asked and scored as the suite does it, with an answer put in the model's mouth."""
    from luthier.evaluation import predictions, questions, tasks
    from luthier.models import weights
    from luthier.models.template import Template
    from luthier.models.testing import TOOL_TEMPLATE, tiny_model

    tokenizer = weights.load_tokenizer(tiny_model(tmp_path / "tiny"))
    tokenizer.chat_template = TOOL_TEMPLATE
    record = {
        "id": "1",
        "source": "s",
        "messages": [{"role": "user", "content": "q"}, {"role": "call", "content": json.dumps(CALL)}],
        "tools": json.dumps(TOOLS),
    }
    [asked] = questions.asked(Template(tokenizer, 4096), [questions.question(record)], [], 10)
    part = tasks.of({"kind": "chat", "labels": None})
    lines = [
        predictions.line(asked.question, name, tasks.Answer(text), part)
        for name, text in (("tuned", asked.question.reference), ("base", "I do not know."))
    ]
    found = {
        name: part.summarise(answers)["metrics"]
        for name, answers in predictions.by_system(predictions.table(lines)).items()
    }
    assert [found["tuned"][name] for name in calls.NAMES] == [1, 1, 1, 1]
    assert [found["base"][name] for name in calls.NAMES] == [0, 0, 0, 0]


def test_calls_that_cannot_be_read_are_told():
    from luthier.evaluation.predictions import SCHEMA, by_system, table
    from luthier.evaluation.questions import Question
    from luthier.evaluation.report import unread

    plain = dict.fromkeys(SCHEMA.names)
    mine = by_system(table([plain | {"id": "1", "model": "tuned", "reference": "r", "prediction": "p"}]))[
        "tuned"
    ]
    with_tools = Question("1", (), "r", tools=TOOLS)
    assert (
        "1 rows have tools, and this model's chat template writes calls in another way"
        in unread([with_tools], mine)[0]
    )
    assert unread([Question("1", (), "r")], mine) == []
