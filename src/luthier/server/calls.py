"""Calls of functions, read out of an answer while it grows.

    "Let me see. <tool_call>{...}</tool_call>"      ──▶  text "Let me see.", then one chunk with the calls

Text goes on as it comes until it could be the beginning of a call; from there on it is held until the end, and read as the
evaluation reads it (evaluation/calls), so that what is served is what was measured. What is then no call of a function that was
offered is text after all. Not here: running anything.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import replace

from luthier.evaluation.calls import COMMON, read
from luthier.models.call_form import CallForm
from luthier.serving.engine import Call, Chunk, Token


class CallReader:
    """Of one answer. `one`: at most the first call is passed on (parallel_tool_calls: false)."""

    def __init__(self, form: CallForm | None, names: Collection[str], *, one: bool) -> None:
        self._form = form
        self._names = tuple(names)
        self._one = one
        forms = (*([form] if form else []), *COMMON)
        self._openings = tuple({one.opening for one in forms if one.opening})
        self._said = ""  # everything so far
        self._gone = 0  # how much of it has been passed on
        self._tokens: list[Token] = []

    def take(self, chunk: Chunk) -> Chunk:
        """The chunk with what of the text may be shown by now; the last one with the rest, or with the calls."""
        self._said += chunk.text
        self._tokens += chunk.tokens
        if chunk.finish is not None:
            return self._ended(chunk)
        until = self._safe()
        text, self._gone = self._said[self._gone : until], max(until, self._gone)
        return replace(chunk, text=text, tokens=self._passed() if text else ())

    def _ended(self, chunk: Chunk) -> Chunk:
        rest = self._said[self._gone :]
        found = None if chunk.refusal or chunk.finish == "length" else read(self._said, self._form).calls
        if not found or not all(call["name"] in self._names for call in found):
            return replace(chunk, text=rest, tokens=self._passed())
        starts = [at for one in self._openings if (at := self._said.find(one)) >= 0]
        before = self._said[self._gone : min(starts)] if starts else ""
        kept = found[:1] if self._one else found
        calls = tuple(
            Call(
                f"call_{secrets.token_hex(12)}",
                call["name"],
                json.dumps(call["arguments"], ensure_ascii=False),
            )
            for call in kept
        )
        return replace(chunk, text=before.rstrip(), tokens=self._passed(), calls=calls)

    def _safe(self) -> int:
        """How far the text cannot be part of a call."""
        lead = len(self._said) - len(self._said.lstrip())
        told = self._said[lead:]
        if not told or told[0] in "[{(" or any(_begins(told, name) for name in self._names):
            return lead if self._gone else 0  # the whole answer may be a call
        starts = [at for one in self._openings if (at := _beginning(self._said, one)) is not None]
        return len(
            self._said[: min(starts, default=len(self._said))].rstrip()
        )  # blanks before a call go with it

    def _passed(self) -> tuple[Token, ...]:
        tokens, self._tokens = tuple(self._tokens), []
        return tokens


def _begins(text: str, name: str) -> bool:
    """Whether it begins with a call in Python's syntax, or may yet."""
    return name.startswith(text) or (text.startswith(name) and text[len(name) :].lstrip()[:1] in ("", "("))


def _beginning(text: str, opening: str) -> int | None:
    """Where the opening stands, or where the end of the text may turn into it."""
    if (at := text.find(opening)) >= 0:
        return at
    longest = min(len(opening) - 1, len(text))
    return next((len(text) - n for n in range(longest, 0, -1) if text.endswith(opening[:n])), None)


async def with_calls(chunks: AsyncGenerator[Chunk, None], reader: CallReader) -> AsyncGenerator[Chunk, None]:
    """The chunks as `reader` passes them on."""
    async with aclosing(chunks):
        async for chunk in chunks:
            yield reader.take(chunk)
