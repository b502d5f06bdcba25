"""Rows with tools in training and in what a model is asked: rendered by its template, learnt by `sft`, refused by others."""

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
        encoded(RECORD_WITH_TOOLS | {"rejected": "r"}, method("dpo"), template_of(folder, TOOL_TEMPLATE))


@pytest.mark.parametrize("turns", [2, 4])
def test_a_question_with_tools_shows_them_and_compares_what_the_model_would_write(folder, turns):
    template = template_of(folder, TOOL_TEMPLATE)
    record = RECORD_WITH_TOOLS | {"messages": RECORD_WITH_TOOLS["messages"][:turns]}
    [asked] = questions.asked(template, [questions._question(record)], [], 10)
    assert '"name": "f"' in template.tokenizer.decode(asked.prompt_ids)
    call = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    assert asked.question.reference == (call if turns == 2 else "done")
    supervised = [i for i, on in zip(asked.encoded.ids, asked.encoded.supervised, strict=True) if on]
    assert template.decode(supervised) == asked.question.reference
