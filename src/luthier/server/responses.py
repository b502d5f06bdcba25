"""`POST /v1/responses`: the stateless part of OpenAI's newer protocol, in front of the same answering as chat.

Each request brings the whole conversation in `input`; nothing is kept under the response's id, so `previous_response_id`,
`conversation`, `background` and `store: true` are refused. Here is what a client may write; `response_events` is what it gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from luthier.server.errors import ApiError
from luthier.server.parts import Off, Wire, checked, joined, supported, text_schema
from luthier.server.tools import MOST_TOOLS, NAME, Tool
from luthier.server.wire import MOST_MESSAGES, ChatBody, LuthierOptions
from luthier.serving.engine import Message, Request

UNSUPPORTED: Off = {
    "background": (None, False),
    "context_management": (None, []),
    "conversation": (None,),
    "include": (None, []),
    "max_tool_calls": (None,),
    "metadata": (None, {}),
    "moderation": (None,),
    "prompt": (None,),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "reasoning": (None,),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "stream_options": (None,),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
}
PARTS = ("input_text", "output_text", "text")
_NAMES = {"messages": "input", "response_format": "text", "max_completion_tokens": "max_output_tokens"}
"""Fields of the chat body that have another name here."""


def _texts(value: Any) -> Any:
    """Parts of an answer that is sent back have fields of their own, which say nothing to a model."""
    if isinstance(value, list):
        told = [
            {k: v for k, v in one.items() if k not in ("annotations", "logprobs")}
            if isinstance(one, dict)
            else one
            for one in value
        ]
        return joined(told, PARTS)
    return value


class InputMessage(Wire):
    type: Literal["message"] = "message"
    """A turn of the conversation."""
    role: Literal["system", "developer", "user", "assistant"]
    """Who says it."""
    content: Annotated[
        str, BeforeValidator(_texts), WithJsonSchema({"anyOf": text_schema(PARTS)["anyOf"][:2]})
    ]
    """A text, or a list of text parts."""
    id: str | None = Field(default=None, max_length=128)
    """As an answer had it; says nothing here."""
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    """As an answer had it; says nothing here."""


class InputCall(Wire):
    type: Literal["function_call"]
    """What an earlier answer called."""
    call_id: str = Field(min_length=1, max_length=128)
    """As that answer had it."""
    name: str = Field(pattern=NAME)
    """The function."""
    arguments: str = Field(max_length=100_000)
    """A JSON object as text."""
    id: str | None = Field(default=None, max_length=128)
    """As an answer had it; says nothing here."""
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    """As an answer had it; says nothing here."""


class InputOutput(Wire):
    type: Literal["function_call_output"]
    """What a function answered."""
    call_id: str = Field(min_length=1, max_length=128)
    """Which call it answers."""
    output: str = Field(max_length=1_000_000)
    """What it answered."""
    id: str | None = Field(default=None, max_length=128)
    """Says nothing here."""
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    """Says nothing here."""


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"tagged-{kind}" if kind in ("function_call", "function_call_output") else "tagged-message"


Item = Annotated[
    Annotated[InputMessage, Tag("tagged-message")]
    | Annotated[InputCall, Tag("tagged-function_call")]
    | Annotated[InputOutput, Tag("tagged-function_call_output")],
    Discriminator(_kind),
]


class ResponseTool(Wire):
    type: Literal["function"]
    """Only functions."""
    name: str = Field(pattern=NAME)
    """What the model calls it by."""
    description: str | None = Field(default=None, max_length=20_000)
    """What it does; the model reads it."""
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object; the model reads it, and a demanded call is held to it."""
    strict: bool | None = None
    """true only where a call is demanded."""


class ResponseNamedChoice(Wire):
    type: Literal["function"]
    """Only functions."""
    name: str = Field(pattern=NAME)
    """Which one is to be called."""


class TextFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    """Free text, any JSON object, or JSON of a schema."""
    name: str | None = Field(default=None, min_length=1, max_length=64)
    """What the schema is called, in your terms."""
    description: str | None = Field(default=None, max_length=10_000)
    """What it is for; nothing is made of it."""
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """The JSON schema."""
    strict: bool | None = None
    """It is held to in any case."""

    @model_validator(mode="after")
    def _fits(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None and self.name is not None):
            raise PydanticCustomError(
                "text", "name and schema are given with the type json_schema, and with no other"
            )
        return self


class TextOptions(Wire):
    format: TextFormat | None = None
    """What the answer is held to."""
    verbosity: None = None
    """Not offered."""


class ResponseBody(Wire):
    model: str = Field(min_length=1, max_length=256)
    """A served name, as `GET /v1/models` lists them."""
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES)]
    )
    """The user's text, or the conversation so far."""
    instructions: str | None = None
    """A system message that goes first."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Upper bound of the answer in tokens."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest token; higher is more varied."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Draw only from the likeliest tokens that together hold this share."""
    stream: bool | None = None
    """Send the answer as it grows, as server-sent events."""
    text: TextOptions | None = None
    """What the answer is held to."""
    tools: Annotated[list[ResponseTool], Field(max_length=MOST_TOOLS)] | None = None
    """Functions that the answer may call."""
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedChoice | None = None
    """As in chat."""
    parallel_tool_calls: bool | None = None
    """false: only the first call is passed on."""
    user: str | None = Field(default=None, max_length=512)
    """Who asks, in your terms; recorded as a hash with the answer."""
    x_luthier: LuthierOptions = LuthierOptions()
    """Luthier's own options."""

    @cached_property
    def chat(self) -> ChatBody:
        """The same request in chat's terms. Raises ApiError 400."""
        try:
            return checked(ChatBody, self._chat())
        except ApiError as error:
            head, dot, rest = (error.param or "").partition("[" if "[" in (error.param or "") else ".")
            param = _NAMES.get(head, head) + dot + rest
            raise ApiError(error.status, error.code, error.message, param=param or None) from None

    def _chat(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "model": self.model,
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stream": self.stream,
            "parallel_tool_calls": self.parallel_tool_calls,
            "user": self.user,
            "x_luthier": self.x_luthier,
        }
        if self.tools:
            told["tools"] = [
                {"type": "function", "function": one.model_dump(exclude={"type"})} for one in self.tools
            ]
        choice = self.tool_choice
        if isinstance(choice, ResponseNamedChoice):
            told["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        else:
            told["tool_choice"] = choice
        wish = self.text.format if self.text else None
        if wish is not None:
            schema = {"name": wish.name, "schema": wish.schema_, "strict": wish.strict}
            told["response_format"] = {"type": wish.type}
            if wish.type == "json_schema":
                told["response_format"]["json_schema"] = schema
        return told

    def _messages(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        if self.instructions is not None:
            told.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*told, {"role": "user", "content": self.input}]
        for one in self.input:
            if isinstance(one, InputMessage):
                told.append({"role": one.role, "content": one.content})
            elif isinstance(one, InputOutput):
                told.append({"role": "tool", "tool_call_id": one.call_id, "content": one.output})
            else:
                function = {"name": one.name, "arguments": one.arguments}
                call = {"id": one.call_id, "type": "function", "function": function}
                if told and told[-1].get("role") == "assistant":
                    told[-1].setdefault("tool_calls", []).append(call)
                else:
                    told.append({"role": "assistant", "content": None, "tool_calls": [call]})
        return told

    # What Answering asks of a body.

    @property
    def count(self) -> int:
        return 1

    @property
    def of_a_prompt(self) -> int:
        return 1

    @property
    def store(self) -> None:
        """The server decides; `store` here would mean that the response can be fetched again."""
        return None

    @property
    def offered(self) -> tuple[Tool, ...]:
        return self.chat.offered

    @property
    def prompt_sha256(self) -> str:
        return self.chat.prompt_sha256

    @property
    def kept(self) -> tuple[Sequence[Message], Sequence[Mapping[str, Any]]]:
        return self.chat.kept

    def request(self, index: int) -> Request:
        return self.chat.request(index)


def parse_response(value: dict[str, Any]) -> ResponseBody:
    """The checked body. Raises ApiError 400 that names the field."""
    if value.get("previous_response_id") is not None:
        message = "This server keeps no responses; send the whole conversation in `input` and leave previous_response_id out."
        raise ApiError(400, "unsupported_parameter", message, param="previous_response_id")
    value = {k: v for k, v in value.items() if k != "previous_response_id"}
    body = checked(ResponseBody, supported(value, UNSUPPORTED))
    _ = body.chat
    return body
