"""What every answer is made of, whatever dialect it is told in: choices that grow chunk by chunk, and the parts that dialects share.

A `Shape` tells one request's answer in one dialect: chat (`chat`), completions (`completions`), responses (`responses`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from luthier.server.errors import ApiError
from luthier.serving.engine import Call, Candidate, Chunk, Token, Usage


@dataclass
class Choice:
    """One answer as it grows."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    last: Chunk | None = None
    """The newest chunk; the answer is whole once it has a finish."""

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            self.texts.append(chunk.text)
        self.tokens.extend(chunk.tokens)
        self.last = chunk

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def refusal(self) -> str | None:
        return self.last.refusal if self.last else None

    @property
    def calls(self) -> tuple[Call, ...]:
        return self.last.calls if self.last else ()


class Shape(Protocol):
    """One request's answer in one dialect. Methods that give bytes give server-sent events, perhaps none."""

    @property
    def id(self) -> str: ...

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    def piece(self, index: int, chunk: Chunk, is_first: bool) -> bytes:
        """The next chunk of the `index`-th choice."""

    def end(self, choices: Sequence[Choice]) -> bytes:
        """After the last chunk."""

    def broken(self, error: ApiError, choices: Sequence[Choice]) -> bytes:
        """In place of the end."""


def total(choices: Sequence[Choice], of_a_prompt: int) -> Usage:
    """Each prompt once, every answer's tokens. `of_a_prompt`: how many choices in a row answer the same prompt."""
    usages = [choice.last.usage if choice.last else Usage(0, 0) for choice in choices]
    groups = (usages[at : at + of_a_prompt] for at in range(0, len(usages), of_a_prompt))
    return Usage(
        sum(max(usage.prompt_tokens for usage in group) for group in groups),
        sum(usage.completion_tokens for usage in usages),
    )


def server_sent(message: dict[str, Any], event: str | None = None) -> bytes:
    """One server-sent event. ASCII only: some clients break lines at U+2028."""
    named = b"" if event is None else b"event: " + event.encode() + b"\n"
    return named + b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0  # OpenAI's word for "very unlikely"; JSON has no -Infinity


def logprob_of(candidate: Candidate) -> float:
    return max(candidate.logprob, _LEAST_LOGPROB)


def candidate_plain(candidate: Candidate) -> dict[str, Any]:
    return {
        "token": candidate.text,
        "logprob": logprob_of(candidate),
        "bytes": None if candidate.bytes is None else list(candidate.bytes),
    }


def usage_plain(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
