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
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from luthier.core.spec import Spec
from luthier.models.grammar import Grammar
from luthier.server.errors import ApiError
from luthier.serving import engine

MOST_MESSAGES = 2048
MOST_CHOICES = 8
MOST_LABELS = 500

# OpenAI's fields that are not honoured here, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "parallel_tool_calls": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "reasoning_effort": (None, "none"),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
UNSUPPORTED_IN_MESSAGE: Mapping[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "tool_call_id": (None,),
    "tool_calls": (None, []),
}


def _text(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    parts = []
    for i, part in enumerate(value):
        if not isinstance(part, dict) or set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError(
                "content_part", "part {i} is not {{'type': 'text', 'text': '...'}}", {"i": i}
            )
        parts.append(part["text"])
    if not parts:
        raise PydanticCustomError("content_part", "it is an empty list")
    return "\n".join(parts)


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Wire(Spec):
    """A part of a request body: nothing is converted, so "5" is not 5."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant"]
    """Who says it; `developer` means `system`."""
    content: Annotated[str | None, BeforeValidator(_text)] = None
    """A text, or a list of text parts; may be null only in an assistant's message that has a refusal."""
    refusal: str | None = None
    """What an assistant said instead of an answer."""

    @model_validator(mode="after")
    def _something_said(self) -> ChatMessage:
        if self.refusal is not None and self.role != "assistant":
            raise PydanticCustomError("refusal", "only an assistant's message has a refusal")
        if self.content is None and self.refusal is None:
            raise PydanticCustomError("content", "the content is missing")
        return self


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
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=400)]], Field(max_length=4)] | None,
        BeforeValidator(_stops),
    ] = None
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
        ours = self.x_luthier.labels is not None or self.x_luthier.regex is not None
        if ours and self.response_format is not None and self.response_format.type != "text":
            raise PydanticCustomError(
                "response_format", "response_format and x_luthier both say what the answer may be; give one"
            )
        return self

    @property
    def count(self) -> int:
        return self.n or 1

    def request(self, index: int) -> engine.Request:
        """What the engine is asked for the `index`-th answer."""
        return engine.Request(
            messages=tuple(_message(m) for m in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=_seed(self.seed, index),
            stop=tuple(self.stop or ()),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            constrain=_constrain(self),
            abstain_below=self.x_luthier.abstain_below,
            instruct=self.x_luthier.instruction,
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
    comment: str | None = Field(default=None, min_length=1, max_length=10_000)
    """Anything else."""

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.rating is None and self.correction is None and self.comment is None:
            raise PydanticCustomError("rating", "give a rating, a correction or a comment")
        return self


def _constrain(body: ChatBody) -> tuple[str, ...] | Grammar | None:
    ours = body.x_luthier
    if ours.labels is not None:
        return tuple(ours.labels)
    if ours.regex is not None:
        return Grammar("regex", ours.regex)
    return None if body.response_format is None else body.response_format.grammar


def _message(message: ChatMessage) -> engine.Message:
    role: engine.Role = "system" if message.role == "developer" else message.role
    return engine.Message(role, (message.content if message.content is not None else message.refusal) or "")


def _seed(seed: int | None, index: int) -> int | None:
    """The client's own seed for the first answer; for the others one derived from it, so that they differ."""
    if seed is None or index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:7], "big")


def parse(value: dict[str, Any]) -> ChatBody:
    """The checked body. Raises ApiError 400 that names the field."""
    body = _supported(value, UNSUPPORTED, "")
    messages = body.get("messages")
    if isinstance(messages, list):
        body["messages"] = [
            _supported(m, UNSUPPORTED_IN_MESSAGE, f"messages[{i}].") if isinstance(m, dict) else m
            for i, m in enumerate(messages[: MOST_MESSAGES + 1])
        ]
    try:
        return ChatBody.model_validate(body)
    except ValidationError as error:
        raise _told(error.errors(include_url=False)[0]) from None


def _supported(value: dict[str, Any], table: Mapping[str, tuple[Any, ...]], where: str) -> dict[str, Any]:
    kept = {}
    for name, given in value.items():
        if name not in table:
            kept[name] = given
        elif not any(
            given == off and isinstance(given, bool) == isinstance(off, bool) for off in table[name]
        ):
            raise ApiError(
                400,
                "unsupported_parameter",
                f"{where}{name} is not supported by this server; leave it out. Nothing is accepted and ignored here.",
                param=f"{where}{name}",
            )
    return kept


def parse_feedback(value: dict[str, Any]) -> FeedbackBody:
    """The checked body. Raises ApiError 400 that names the field."""
    try:
        return FeedbackBody.model_validate(value)
    except ValidationError as error:
        raise _told(error.errors(include_url=False)[0], FeedbackBody) from None


_CODES = {"missing": "missing_required_parameter", "unknown_key": "unknown_parameter"}


def _told(fault: Any, body: type[Wire] = ChatBody) -> ApiError:
    path = list(fault["loc"])
    kind = fault["type"]
    if kind == "unknown_key":
        path.append(fault["ctx"]["key"][:100])
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
    if not path and kind in body.model_fields:  # a disagreement between fields is named after one of them
        param = kind
    said = "this field is needed and is not there" if kind == "missing" else fault["msg"]
    message = f"{param}: {said}." if param else f"{said}."
    return ApiError(400, _CODES.get(kind, "invalid_value"), message[:400], param=param or None)
