"""Answers of `POST /v1/responses`: the object `response`, whole or as the typed events that it grows by.

created, in_progress ─▶ output_item.added, content_part.added ─▶ output_text.delta, ... ─▶ the three `done`
                     ─▶ for each call: output_item.added, function_call_arguments.delta, .done, output_item.done
                     ─▶ completed | incomplete (cut at max_output_tokens) | failed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.server.answer import Choice, server_sent, total
from luthier.server.errors import ApiError
from luthier.server.responses import ResponseBody
from luthier.serving.engine import Call, Chunk


@dataclass
class ResponseShape:
    """`answer.Shape`, of one choice."""

    id: str
    created_s: int
    body: ResponseBody
    _sent: int = 0
    _kind: str | None = None
    """Of the content part that is open: output_text or refusal."""
    _said: str = ""
    _output: list[dict[str, Any]] = field(default_factory=list)

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        (choice,) = choices
        output = []
        if choice.refusal or choice.text or not choice.calls:
            kind = "refusal" if choice.refusal else "output_text"
            output.append(self._message(_part(kind, choice.refusal or choice.text), _status(choice.last)))
        output += [_call(one) for one in choice.calls]
        return self._response(_status(choice.last), output, choices)

    def piece(self, index: int, chunk: Chunk, is_first: bool) -> bytes:
        told = b""
        if is_first:
            response = self._response("in_progress", [], ())
            told += self._event("response.created", response=response)
            told += self._event("response.in_progress", response=response)
        text = chunk.refusal or chunk.text
        if text:
            told += self._delta("refusal" if chunk.refusal else "output_text", text)
        if chunk.finish is not None:
            if self._kind is None and not chunk.calls:
                told += self._open("output_text")
            told += self._close(_status(chunk))
            told += b"".join(map(self._called, chunk.calls))
        return told

    def end(self, choices: Sequence[Choice]) -> bytes:
        status = _status(choices[0].last)
        response = self._response(status, self._output, choices)
        return self._event(f"response.{status}", response=response)

    def broken(self, error: ApiError, choices: Sequence[Choice]) -> bytes:
        response = self._response("failed", self._output, choices)
        response["error"] = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=response)

    def _delta(self, kind: str, text: str) -> bytes:
        told = b"" if self._kind else self._open(kind)
        self._said += text
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return told + self._event(f"response.{kind}.delta", **self._place(), delta=text, **more)

    def _open(self, kind: str) -> bytes:
        self._kind = kind
        item = {**self._message(None, "in_progress"), "content": []}
        return self._event("response.output_item.added", output_index=0, item=item) + self._event(
            "response.content_part.added", **self._place(), part=_part(kind, "")
        )

    def _close(self, status: str) -> bytes:
        if self._kind is None:
            return b""
        kind, part = self._kind, _part(self._kind, self._said)
        said = {"text": self._said, "logprobs": []} if kind == "output_text" else {"refusal": self._said}
        item = self._message(part, status)
        self._output.append(item)
        return (
            self._event(f"response.{kind}.done", **self._place(), **said)
            + self._event("response.content_part.done", **self._place(), part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _called(self, call: Call) -> bytes:
        item, place = _call(call), len(self._output)
        self._output.append(item)
        of = {"item_id": item["id"], "output_index": place}
        begun = {**item, "arguments": "", "status": "in_progress"}
        done = "response.function_call_arguments.done"
        return (
            self._event("response.output_item.added", output_index=place, item=begun)
            + self._event("response.function_call_arguments.delta", **of, delta=call.arguments)
            + self._event(done, **of, name=call.name, arguments=call.arguments)
            + self._event("response.output_item.done", output_index=place, item=item)
        )

    def _event(self, kind: str, **told: Any) -> bytes:
        message = {"type": kind, "sequence_number": self._sent, **told}
        self._sent += 1
        return server_sent(message, kind)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    @property
    def _message_id(self) -> str:
        return f"msg_{self.id.removeprefix('resp_')}"

    def _message(self, part: dict[str, Any] | None, status: str) -> dict[str, Any]:
        content = [] if part is None else [part]
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _response(
        self, status: str, output: list[dict[str, Any]], choices: Sequence[Choice]
    ) -> dict[str, Any]:
        body = self.body
        wish = body.text.format if body.text and body.text.format else None
        choice = body.tool_choice
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "model": body.model,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {
                "format": wish.model_dump(by_alias=True, exclude_none=True) if wish else {"type": "text"}
            },
            "tool_choice": "auto"
            if choice is None
            else choice
            if isinstance(choice, str)
            else choice.model_dump(),
            "tools": [{"strict": False, **one.model_dump(exclude_none=True)} for one in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": _usage(choices) if status in ("completed", "incomplete") else None,
            "user": body.user,
        }


def _usage(choices: Sequence[Choice]) -> dict[str, Any]:
    usage = total(choices, 1)
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(call: Call) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id.removeprefix('call_')}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def _status(chunk: Chunk | None) -> str:
    return "incomplete" if chunk is not None and chunk.finish == "length" else "completed"
