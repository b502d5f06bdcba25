"""What a client may write to `POST /v1/chat/completions`, checked and bounded, and what it means for an engine.

Nothing is accepted and ignored: a field of OpenAI's that this server cannot honour is refused by name unless it holds
the value that means "off"; any other unknown field is refused too. What is Luthier's own lives under `x_luthier`.

Differences worth knowing: the role `developer` means `system`; text parts are joined by line breaks; with `n` and a
seed, the k-th answer is drawn with a seed derived from both; `temperature` left out means 1, or 0 (the likeliest
label) for a model that answers with one of its labels, or through the steps of its package; `response_format` is enforced while
the answer is written, `strict` or not, and only a finish "length" can leave it unfinished.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.models.grammar import Grammar
from luthier.server.exchange import hash_prompt
from luthier.server.parts import MOST_CHOICES, Off, Stops, Text, Wire, checked, supported
from luthier.server.tools import BetterCall, Tool, ToolCall, ToolChoice, Tools, check_choice, must_call
from luthier.serving import engine

MOST_MESSAGES = 2048
MOST_LABELS = 500

UNSUPPORTED: Off = {
    "audio": (None,),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "reasoning_effort": (None, "none"),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "verbosity": (None,),
    "web_search_options": (None,),
}
UNSUPPORTED_IN_MESSAGE: Off = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
}


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who says it; `developer` means `system`."""
    content: Text = None
    """A text, or a list of text parts; may be null only in an assistant's message that has a refusal or calls."""
    refusal: str | None = None
    """What an assistant said instead of an answer."""
    tool_calls: list[ToolCall] | None = Field(default=None, max_length=128)
    """What an assistant called."""
    tool_call_id: str | None = Field(default=None, min_length=1, max_length=128)
    """Which call a tool's message answers."""

    @model_validator(mode="after")
    def _something_said(self) -> ChatMessage:
        if self.refusal is not None and self.role != "assistant":
            raise PydanticCustomError("refusal", "only an assistant's message has a refusal")
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool_calls", "only an assistant's message has calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise PydanticCustomError("tool_call_id", "a tool's message has a tool_call_id, and no other has")
        if self.content is None and self.refusal is None and not self.tool_calls:
            raise PydanticCustomError("content", "the content is missing")
        return self

    def message(self) -> engine.Message:
        role: engine.Role = "system" if self.role == "developer" else self.role
        text = (self.content if self.content is not None else self.refusal) or ""
        return engine.Message(role, text, tuple(c.call() for c in self.tool_calls or ()), self.tool_call_id)


class StreamOptions(Wire):
    include_usage: bool | None = None
    """Send one more chunk at the end, with the token counts."""
    include_obfuscation: Literal[False] | None = None
    """Random padding of chunks is not offered."""


class NamedSchema(Wire):
    name: str = Field(min_length=1, max_length=64)
    """What it is called, in your terms."""
    description: str | None = Field(default=None, max_length=10_000)
    """What it is for; nothing is made of it."""
    schema_: dict[str, Any] = Field(default={}, alias="schema")
    """The JSON schema; without it any JSON."""
    strict: bool | None = None
    """It is held to in any case."""


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    """Free text, any JSON object, or JSON of a schema."""
    json_schema: NamedSchema | None = None
    """Only with the type json_schema."""

    @model_validator(mode="after")
    def _schema_fits(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "json_schema", "json_schema is given with the type json_schema, and with no other"
            )
        return self

    @property
    def grammar(self) -> Grammar | None:
        if self.type == "text":
            return None
        return Grammar.of_schema({"type": "object"} if self.json_schema is None else self.json_schema.schema_)


class LuthierOptions(Wire):
    """What OpenAI's protocol has no field for."""

    labels: list[Annotated[str, Field(min_length=1, max_length=400)]] | None = Field(
        default=None, min_length=2, max_length=MOST_LABELS
    )
    """Answer with one of these labels, whatever the package says."""
    regex: str | None = Field(default=None, min_length=1, max_length=10_000)
    """Answer with a text that this regular expression (Rust's) matches whole."""
    abstain_below: float | None = Field(default=None, ge=0, le=1)
    """Refuse to answer if no label is at least this probable, or the text less sure."""
    instruction: bool = True
    """Put the package's instruction in front of a conversation without a system message."""

    @model_validator(mode="after")
    def _labels_differ(self) -> LuthierOptions:
        labels = self.labels or []
        if len(set(labels)) != len(labels):
            raise PydanticCustomError("labels", "a label stands twice in labels")
        if self.labels is not None and self.regex is not None:
            raise PydanticCustomError("labels", "labels and regex both say what the answer may be; give one")
        return self


class ChatBody(Wire):
    model: str = Field(min_length=1, max_length=256)
    """A served name, as `GET /v1/models` lists them."""
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    """The conversation so far."""
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Upper bound of the answer in tokens (the older name)."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Upper bound of the answer in tokens."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest token; higher is more varied."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Draw only from the likeliest tokens that together hold this share."""
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    """How many answers."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """Same request, same seed, same answer."""
    stop: Stops = None
    """Up to four texts; the answer ends before the first of them."""
    stream: bool | None = None
    """Send the answer as it grows, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with stream."""
    logprobs: bool | None = None
    """Report the log-probability of every token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """And this many alternatives for each; only with logprobs."""
    response_format: ResponseFormat | None = None
    """What the answer is held to: free text, a JSON object, or JSON of a schema."""
    tools: Tools | None = None
    """Functions that the answer may call, where the model knows tools."""
    tool_choice: ToolChoice | None = None
    """`auto` leaves it to the model, `required` demands a call, a function's name a call of it; `none` shows no tools."""
    parallel_tool_calls: bool | None = None
    """false: only the first call is passed on."""
    user: str | None = Field(default=None, max_length=512)
    """Who asks, in your terms; recorded as a hash with the answer."""
    store: bool | None = None
    """false: do not keep what is said here, whatever the server keeps; true: keep it, which a server that keeps nothing refuses."""
    x_luthier: LuthierOptions = LuthierOptions()
    """Luthier's own options."""

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs is given without logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options is given without stream: true")
        if (
            None not in (self.max_tokens, self.max_completion_tokens)
            and self.max_tokens != self.max_completion_tokens
        ):
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ; give one")
        check_choice(self.tools, self.tool_choice)
        if self.parallel_tool_calls is not None and not self.tools:
            raise PydanticCustomError("parallel_tool_calls", "parallel_tool_calls is given without tools")
        _check_tool_messages(self.messages)
        ours = self.x_luthier.labels is not None or self.x_luthier.regex is not None
        if ours and self.response_format is not None and self.response_format.type != "text":
            raise PydanticCustomError(
                "response_format", "response_format and x_luthier both say what the answer may be; give one"
            )
        held = ours or (self.response_format is not None and self.response_format.type != "text")
        if self.offered and held:
            raise PydanticCustomError(
                "tools", "an answer that is held to labels or a format cannot call tools"
            )
        return self

    @property
    def count(self) -> int:
        return self.n or 1

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is shown."""
        return () if self.tool_choice == "none" else tuple(self.tools or ())

    @property
    def of_a_prompt(self) -> int:
        return self.count

    @property
    def prompt_sha256(self) -> str:
        return hash_prompt(self.request(0).messages)

    @property
    def kept(self) -> tuple[Sequence[engine.Message], Sequence[Mapping[str, Any]]]:
        called = any(one.tool_calls for one in self.messages)
        tools = tuple(self.tools or ()) if called else self.offered  # a call needs its function beside it
        return self.request(0).messages, [one.plain() for one in tools]

    def request(self, index: int) -> engine.Request:
        """What the engine is asked for the `index`-th answer."""
        return engine.Request(
            messages=tuple(m.message() for m in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed_of(self.seed, index),
            stop=tuple(self.stop or ()),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            constrain=_constrain(self),
            abstain_below=self.x_luthier.abstain_below,
            instruct=self.x_luthier.instruction,
            tools=tuple(tool.plain() for tool in self.offered),
            must_call=must_call(list(self.offered), self.tool_choice),
        )


class FeedbackBody(Wire):
    id: str = Field(min_length=1, max_length=128)
    """Of the answer, as its response had it: chatcmpl-..."""
    choice: int = Field(default=0, ge=0, lt=MOST_CHOICES)
    """Which answer, where `n` asked for several."""
    rating: float | None = Field(default=None, ge=-1, le=1)
    """How good it was: 1 good, -1 bad."""
    correction: str | None = Field(default=None, min_length=1, max_length=100_000)
    """What should have been said."""
    tool_calls: list[BetterCall] | None = Field(default=None, min_length=1, max_length=128)
    """What should have been called, of the functions that were offered."""
    comment: str | None = Field(default=None, min_length=1, max_length=10_000)
    """Anything else."""

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.rating is None and not (self.correction or self.tool_calls) and self.comment is None:
            raise PydanticCustomError("rating", "give a rating, a correction, tool_calls or a comment")
        return self


def _constrain(body: ChatBody) -> tuple[str, ...] | Grammar | None:
    ours = body.x_luthier
    if ours.labels is not None:
        return tuple(ours.labels)
    if ours.regex is not None:
        return Grammar("regex", ours.regex)
    return None if body.response_format is None else body.response_format.grammar


def _check_tool_messages(messages: list[ChatMessage]) -> None:
    """A tool answers a call that was made before and has no answer yet. Raises PydanticCustomError."""
    waiting: set[str] = set()
    for n, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in waiting:
            raise PydanticCustomError(
                "messages", "message {n} answers no call that waits for an answer", {"n": n}
            )
        if message.role == "tool":
            waiting.discard(str(message.tool_call_id))
        elif waiting:
            raise PydanticCustomError("messages", "message {n} comes before all calls are answered", {"n": n})
        waiting |= {call.id for call in message.tool_calls or ()}
    if waiting:
        raise PydanticCustomError("messages", "the last call is not answered")


def seed_of(seed: int | None, index: int) -> int | None:
    """The client's own seed for the first answer; for the others one derived from it, so that they differ."""
    if seed is None or index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:7], "big")


def parse(value: dict[str, Any]) -> ChatBody:
    """The checked body. Raises ApiError 400 that names the field."""
    body = supported(value, UNSUPPORTED)
    messages = body.get("messages")
    if isinstance(messages, list):
        body["messages"] = [
            supported(m, UNSUPPORTED_IN_MESSAGE, f"messages[{i}].") if isinstance(m, dict) else m
            for i, m in enumerate(messages[: MOST_MESSAGES + 1])
        ]
    return checked(ChatBody, body)


def parse_feedback(value: dict[str, Any]) -> FeedbackBody:
    """The checked body. Raises ApiError 400 that names the field."""
    return checked(FeedbackBody, value)
