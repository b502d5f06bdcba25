"""`POST /v1/completions`: text that goes on from a text, without a conversation.

No template and no instruction stand before the prompt, and the answer is free text, whatever the package holds answers to; its
steps (postprocess.answers) stay. `echo`, `suffix` and `best_of` are refused. Control tokens written in a prompt are characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.core.artifact import digest_of
from luthier.server.answer import DONE, Choice, logprob_of, server_sent, total, usage_plain
from luthier.server.errors import ApiError
from luthier.server.parts import MOST_CHOICES, Off, Stops, Wire, checked, supported
from luthier.server.tools import Tool
from luthier.server.wire import StreamOptions, seed_of
from luthier.serving.engine import Chunk, Request, Token

MOST_PROMPTS = 64
USUAL_TOKENS = 16
UNSUPPORTED: Off = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0, 0.0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0, 0.0),
    "suffix": (None, ""),
}

Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Several = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)]
SeveralIds = Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
Prompt = Annotated[str, Field(min_length=1)] | Several | Ids | SeveralIds


def prompts_of(written: Any) -> tuple[str | tuple[int, ...], ...]:
    """Each prompt of a `Prompt`."""
    if isinstance(written, str):
        return (written,)
    if isinstance(written[0], int):
        return (tuple(written),)
    return tuple(one if isinstance(one, str) else tuple(one) for one in written)


class CompletionBody(Wire):
    model: str = Field(min_length=1, max_length=256)
    """A served name, as `GET /v1/models` lists them."""
    prompt: Prompt
    """A text, token ids, or a list of either."""
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Upper bound of the answer in tokens; left out, 16, as OpenAI has it."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest token; left out, 1."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Draw only from the likeliest tokens that together hold this share."""
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    """How many answers to each prompt."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """Same request, same seed, same answer."""
    stop: Stops = None
    """Up to four texts; the answer ends before the first of them."""
    stream: bool | None = None
    """Send the answer as it grows, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with stream."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Report the log-probability of every token, with this many alternatives."""
    user: str | None = Field(default=None, max_length=512)
    """Who asks, in your terms; recorded as a hash with the answer."""

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionBody:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options is given without stream: true")
        if self.count > MOST_PROMPTS:
            raise PydanticCustomError("n", "more than {most} answers are asked for", {"most": MOST_PROMPTS})
        return self

    @property
    def store(self) -> None:
        """Nothing of plain completions is kept."""
        return None

    @property
    def parallel_tool_calls(self) -> None:
        return None

    @property
    def count(self) -> int:
        return len(prompts_of(self.prompt)) * self.of_a_prompt

    @property
    def of_a_prompt(self) -> int:
        return self.n or 1

    @property
    def offered(self) -> tuple[Tool, ...]:
        return ()

    @property
    def prompt_sha256(self) -> str:
        return digest_of({"prompt": self.prompt})

    @property
    def kept(self) -> None:
        return None

    def request(self, index: int) -> Request:
        return Request(
            messages=(),
            prompt=prompts_of(self.prompt)[index // self.of_a_prompt],
            max_tokens=self.max_tokens or USUAL_TOKENS,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed_of(self.seed, index),
            stop=tuple(self.stop or ()),
            top_logprobs=self.logprobs,
            constrain=(),
            instruct=False,
        )


def parse_completion(value: dict[str, Any]) -> CompletionBody:
    """The checked body. Raises ApiError 400 that names the field."""
    return checked(CompletionBody, supported(value, UNSUPPORTED))


@dataclass
class CompletionShape:
    """`answer.Shape`: the object `text_completion`, whole or in pieces."""

    id: str
    created_s: int
    model: str
    fingerprint: str
    of_a_prompt: int
    with_logprobs: bool
    with_usage: bool = False
    _offsets: dict[int, int] = field(default_factory=dict)
    """How many characters of a choice have been told, for text_offset."""

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        told = [
            self._choice(index, one.refusal or one.text, one.tokens, one.last.finish if one.last else None)
            for index, one in enumerate(choices)
        ]
        return {**self._head(), "choices": told, "usage": usage_plain(total(choices, self.of_a_prompt))}

    def piece(self, index: int, chunk: Chunk, is_first: bool) -> bytes:
        text = chunk.refusal or chunk.text
        if not text and not chunk.tokens and chunk.finish is None:
            return b""
        usage = {"usage": None} if self.with_usage else {}
        choice = self._choice(index, text, chunk.tokens, chunk.finish)
        return server_sent({**self._head(), "choices": [choice], **usage})

    def end(self, choices: Sequence[Choice]) -> bytes:
        if not self.with_usage:
            return DONE
        return (
            server_sent(
                {**self._head(), "choices": [], "usage": usage_plain(total(choices, self.of_a_prompt))}
            )
            + DONE
        )

    def broken(self, error: ApiError, choices: Sequence[Choice]) -> bytes:
        return server_sent(error.envelope)

    def _head(self) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created_s}
        return {**head, "model": self.model, "system_fingerprint": self.fingerprint}

    def _choice(self, index: int, text: str, tokens: Sequence[Token], finish: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(index, tokens) if self.with_logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.chosen.text)
        return {
            "tokens": [token.chosen.text for token in tokens],
            "token_logprobs": [logprob_of(token.chosen) for token in tokens],
            "top_logprobs": [{c.text: logprob_of(c) for c in token.top} for token in tokens],
            "text_offset": offsets,
        }
