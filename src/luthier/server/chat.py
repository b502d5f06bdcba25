"""Answers in the shapes of OpenAI's chat: `chat.completion` whole, `chat.completion.chunk` piece by piece.

For a model constrained to labels the unit is the label: `logprobs.content` has one entry, the label as a whole, its
log-probability among the labels, and as top_logprobs the likeliest labels. An abstention is a `refusal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.server.answer import DONE, Choice, candidate_plain, server_sent, total, usage_plain
from luthier.server.errors import ApiError
from luthier.serving.engine import Call, Chunk, Token


@dataclass(frozen=True)
class ChatShape:
    """`answer.Shape`; what every message about one request repeats."""

    id: str
    created_s: int
    model: str
    fingerprint: str
    with_logprobs: bool
    with_usage: bool = False

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": self._message(choice),
                    "logprobs": self._logprobs(choice.tokens),
                    "finish_reason": _finish(choice.last) if choice.last else None,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": usage_plain(total(choices, len(choices))),
        }

    def piece(self, index: int, chunk: Chunk, is_first: bool) -> bytes:
        told = [self._piece(index, {"role": "assistant", "content": ""})] if is_first else []
        if chunk.text or chunk.tokens:
            told.append(self._piece(index, {"content": chunk.text}, self._logprobs(chunk.tokens)))
        if chunk.refusal:
            told.append(self._piece(index, {"refusal": chunk.refusal}))
        for place, call in enumerate(chunk.calls):
            opened = {"index": place, **_call(replace(call, arguments=""))}
            said = {"index": place, "function": {"arguments": call.arguments}}
            told += [self._piece(index, {"tool_calls": [opened]}), self._piece(index, {"tool_calls": [said]})]
        if chunk.finish is not None:
            told.append(self._piece(index, {}, finish=_finish(chunk)))
        return b"".join(map(server_sent, told))

    def end(self, choices: Sequence[Choice]) -> bytes:
        if not self.with_usage:
            return DONE
        usage = usage_plain(total(choices, len(choices)))
        return server_sent({**self._head("chat.completion.chunk"), "choices": [], "usage": usage}) + DONE

    def broken(self, error: ApiError, choices: Sequence[Choice]) -> bytes:
        return server_sent(error.envelope)

    def _message(self, choice: Choice) -> dict[str, Any]:
        nothing = choice.refusal or (choice.calls and not choice.text)
        calls = {"tool_calls": [_call(one) for one in choice.calls]} if choice.calls else {}
        return {
            "role": "assistant",
            "content": None if nothing else choice.text,
            "refusal": choice.refusal,
            **calls,
        }

    def _piece(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
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
        content = [
            {**candidate_plain(t.chosen), "top_logprobs": [candidate_plain(c) for c in t.top]} for t in tokens
        ]
        return {"content": content, "refusal": None}


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _finish(chunk: Chunk) -> str | None:
    return "tool_calls" if chunk.calls else chunk.finish
