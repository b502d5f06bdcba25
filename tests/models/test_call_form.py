"""How templates write calls, found by rendering one."""

import pytest

from luthier.core.errors import ModelError
from luthier.models import weights
from luthier.models.call_form import CallForm, call_form
from luthier.models.template import Template
from luthier.models.testing import CHAT_TEMPLATE, TOOL_TEMPLATE, tiny_model

LLAMA = (
    TOOL_TEMPLATE.replace("<tool_call>", "")
    .replace("</tool_call>", "")
    .replace("'arguments'", "'parameters'")
)
MISTRAL = TOOL_TEMPLATE.replace("'<tool_call>'", "'[TOOL_CALLS] ['").replace("'</tool_call>'", "']'")
XML = TOOL_TEMPLATE.replace(
    "{'name': call.function.name, 'arguments': call.function.arguments} | tojson",
    "'<function=' + call.function.name + '>' + (call.function.arguments.x | string)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("forms"))


@pytest.mark.parametrize(
    ("written", "form"),
    [
        (TOOL_TEMPLATE, CallForm("<tool_call>", "</tool_call>")),
        (LLAMA, CallForm(arguments="parameters")),
        (MISTRAL, CallForm("[TOOL_CALLS]", listed=True)),
        (XML, None),
    ],
)
def test_what_stands_around_a_call(folder, written, form):
    tokenizer = weights.load_tokenizer(folder)
    tokenizer.chat_template = written
    assert call_form(Template(tokenizer, 1024)) == form


def test_a_template_without_tools_says_so(folder):
    tokenizer = weights.load_tokenizer(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    with pytest.raises(ModelError, match="does not know tools"):
        call_form(Template(tokenizer, 1024))
