"""Rows with tools in training and in what a model is asked: rendered by its template, learnt by `sft` and by pairs, refused by others."""

import pytest

from luthier.core import plugin
from luthier.core.errors import DataError, ModelError
from luthier.data.records import RECORD
from luthier.evaluation import questions
from luthier.models import weights
from luthier.models.template import Template
from luthier.models.testing import CHAT_TEMPLATE, TOOL_TEMPLATE, tiny_model
from luthier.training.rows import encoded

RECORD_WITH_TOOLS = dict.fromkeys(RECORD.names) | {
    "id": "1",
    "origin": "t:1",
    "tools": '[{"type":"function","function":{"name":"f"}}]',
    "messages": [
        {"role": "user", "content": "q"},
        {"role": "call", "content": '{"name":"f","arguments":{"x":1}}'},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "done"},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tools"))


def template_of(folder, chat_template):
    tokenizer = weights.load_tokenizer(folder)
    tokenizer.chat_template = chat_template
    return Template(tokenizer, 1024)


def method(name):
    kind = plugin.load("method", name)
    return kind(kind.spec())


def test_sft_learns_the_call_and_the_answer(folder):
    template = template_of(folder, TOOL_TEMPLATE)
    line = encoded(RECORD_WITH_TOOLS, method("sft"), template)
    told = template.tokenizer.decode([i for i, on in zip(line.ids, line.supervised, strict=True) if on])
    assert told == '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><|im_end|>done<|im_end|>'


def test_a_template_without_tools_and_a_method_without_them_say_so(folder):
    with pytest.raises(ModelError, match=r"t:1: this model's chat template does not know tools"):
        encoded(RECORD_WITH_TOOLS, method("sft"), template_of(folder, CHAT_TEMPLATE))
    with pytest.raises(DataError, match=r"t:1: this row has tools, and the method learns no calls"):
        encoded(RECORD_WITH_TOOLS | {"rating": 1.0}, method("kto"), template_of(folder, TOOL_TEMPLATE))


def spoken(template, ids, supervised):
    return template.tokenizer.decode([i for i, on in zip(ids, supervised, strict=True) if on])


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "simpo"])
def test_pairs_compare_the_last_answers_after_the_same_calls(folder, name):
    template = template_of(folder, TOOL_TEMPLATE)
    one, other = method(name).encode(RECORD_WITH_TOOLS | {"rejected": "no idea"}, template).sequences
    assert spoken(template, one.ids, one.supervised) == "done<|im_end|>"
    assert spoken(template, other.ids, other.supervised) == "no idea<|im_end|>"
    begin = one.supervised.index(True)
    assert one.ids[:begin] == other.ids[:begin] and other.supervised.index(True) == begin
    prompt = template.tokenizer.decode(one.ids[:begin])
    assert '"name": "f"' in prompt and '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>' in prompt


def test_a_chosen_call_stands_against_a_rejected_text(folder):
    template = template_of(folder, TOOL_TEMPLATE)
    record = RECORD_WITH_TOOLS | {"messages": RECORD_WITH_TOOLS["messages"][:2], "rejected": "I guess 3."}
    one, other = method("dpo").encode(record, template).sequences
    assert spoken(template, one.ids, one.supervised) == (
        '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><|im_end|>'
    )
    assert spoken(template, other.ids, other.supervised) == "I guess 3.<|im_end|>"


def test_a_tiny_model_learns_from_pairs_with_tools(tmp_path, work_on, write, make_record):
    """The gap between the two answers grows, on rows whose every conversation has called a tool."""
    base = tiny_model(tmp_path / "base", chat_template=TOOL_TEMPLATE)
    rows = [
        make_record(n, tools=RECORD_WITH_TOOLS["tools"], rejected="no idea", messages=[
            {"role": "user", "content": f"q {n}"}, *RECORD_WITH_TOOLS["messages"][1:],
        ])
        for n in range(16)
    ]  # fmt: skip
    work = work_on(tmp_path / "work", base, write(tmp_path / "data", train=rows[:12], validation=rows[12:]))
    work.run(method="dpo", epochs=4, batch={"rows": 4, "micro_tokens": 2000})
    told = work.told("validation")
    assert told[-1]["margin"] > told[0]["margin"] and told[-1]["loss"] < told[0]["loss"]


@pytest.mark.parametrize("turns", [2, 4])
def test_a_question_with_tools_shows_them_and_compares_what_the_model_would_write(folder, turns):
    template = template_of(folder, TOOL_TEMPLATE)
    record = RECORD_WITH_TOOLS | {"messages": RECORD_WITH_TOOLS["messages"][:turns]}
    [asked] = questions.asked(template, [questions.question(record)], [], 10)
    assert '"name": "f"' in template.tokenizer.decode(asked.prompt_ids)
    call = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    assert asked.question.reference == (call if turns == 2 else "done")
    supervised = [i for i, on in zip(asked.encoded.ids, asked.encoded.supervised, strict=True) if on]
    assert template.decode(supervised) == asked.question.reference
