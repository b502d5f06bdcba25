"""How a model's own template writes a call of a tool into an answer: what stands before the call's JSON, and after it.

    <tool_call>{"name": ..., "arguments": ...}</tool_call>        Qwen, Hermes
    [TOOL_CALLS][{"name": ..., "arguments": ...}]                 Mistral; control tokens are no part of an answer's text
    {"name": ..., "parameters": ...}                              Llama 3

It is found by rendering one call and looking. Not here: reading what a model said (evaluation/calls).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    from .template import Template

_NAME, _VALUE = "probe_name", "probe_value"


@dataclass(frozen=True)
class CallForm:
    """Opening and closing may be empty: the JSON then stands alone. The JSON is a call, or, where it is `listed`, a list of calls;
    `arguments` is the key under which a call has them."""

    opening: str = ""
    closing: str = ""
    arguments: str = "arguments"
    listed: bool = False


def call_form(template: Template) -> CallForm | None:
    """None where the template writes calls in another way than as JSON with their names. Raises ModelError where it knows no
    tools."""
    template.need_tools()
    told = _rendered(template)
    decoder = json.JSONDecoder()
    at = -1
    while told is not None and (at := told.find("{", at + 1)) >= 0:
        try:
            value, end = decoder.raw_decode(told, at)
        except ValueError:
            continue
        if _NAME in (written := json.dumps(value)) and _VALUE in written:
            opening, closing = told[:at].strip(), told[end:].strip()
            key = next((k for k, inner in value.items() if _VALUE in json.dumps(inner)), "arguments")
            if opening.endswith("[") and closing.startswith("]"):
                return CallForm(opening[:-1].strip(), closing[1:].strip(), key, listed=True)
            return CallForm(opening, closing, key)
    return None


def _rendered(template: Template) -> str | None:
    """The answer that is one call, as text; None where the template cannot write it."""
    asked = [{"role": "user", "content": "probe"}]
    function = {"name": _NAME, "description": "probe", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "probe0001", "type": "function", "function": {"name": _NAME, "arguments": {"x": _VALUE}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        whole = template.encode([*asked, answer], [{"type": "function", "function": function}])
    except ModelError:
        return None
    return template.decode([token for token, told in zip(whole.ids, whole.supervised, strict=True) if told])
