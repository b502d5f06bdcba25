"""Answers in OpenAI's shapes, made of chunks: `chat.completion` whole, `chat.completion.chunk` piece by piece.

For a model constrained to labels the unit is the label: `logprobs.content` has one entry, the label as a whole, its
log-probability among the labels, and as top_logprobs the likeliest labels. An abstention is a `refusal`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.serving.engine import Candidate, Chunk, Token, Usage


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


@dataclass(frozen=True)
class Frame:
    """What every message about one request repeats."""

    id: str
    created_s: int
    model: str
    fingerprint: str
    with_logprobs: bool
    with_usage: bool = False

    def completion(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": {
                        "role": "assistant",
                        "content": None if choice.refusal else choice.text,
                        "refusal": choice.refusal,
                    },
                    "logprobs": self._logprobs(choice.tokens),
                    "finish_reason": choice.last.finish if choice.last else None,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": _usage(total(choices)),
        }

    def opening(self, index: int) -> dict[str, Any]:
        return self._piece(index, {"role": "assistant", "content": ""}, None, None)

    def piece(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        """None, one or two messages: what was said, and that it ended."""
        pieces = []
        if chunk.text or chunk.tokens:
            pieces.append(self._piece(index, {"content": chunk.text}, self._logprobs(chunk.tokens), None))
        if chunk.refusal:
            pieces.append(self._piece(index, {"refusal": chunk.refusal}, None, None))
        if chunk.finish is not None:
            pieces.append(self._piece(index, {}, None, chunk.finish))
        return pieces

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(total(choices))}

    def _piece(self, index: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self.with_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        content = [{**_candidate(t.chosen), "top_logprobs": [_candidate(c) for c in t.top]} for t in tokens]
        return {"content": content, "refusal": None}


def total(choices: Sequence[Choice]) -> Usage:
    """The prompt once, every answer's tokens."""
    usages = [choice.last.usage for choice in choices if choice.last]
    return Usage(
        max((usage.prompt_tokens for usage in usages), default=0),
        sum(usage.completion_tokens for usage in usages),
    )


def server_sent(message: dict[str, Any]) -> bytes:
    """One server-sent event. ASCII only: some clients break lines at U+2028."""
    return b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0  # OpenAI's word for "very unlikely"; JSON has no -Infinity


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "token": candidate.text,
        "logprob": max(candidate.logprob, _LEAST_LOGPROB),
        "bytes": None if candidate.bytes is None else list(candidate.bytes),
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
