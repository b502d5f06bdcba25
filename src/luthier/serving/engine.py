"""The narrow seam between who asks and what answers, and the values that cross it.

An Engine holds one package in memory and answers requests about it. Not here: queues, names, authentication and
the wire format (the server's), and what the answer is worth (the evaluation's).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from luthier.core.errors import ModelError, SpecError
from luthier.models.grammar import Grammar

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Call:
    """One call of a function. `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `calls` only of an assistant; `answers`, only of a tool, is the id of the call that it answers."""

    role: Role
    content: str
    calls: tuple[Call, ...] = ()
    answers: str | None = None

    def plain(self) -> dict[str, Any]:
        """As chat templates read it: OpenAI's form, with arguments as objects."""
        told: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            told["tool_calls"] = [
                {
                    "id": one.id,
                    "type": "function",
                    "function": {"name": one.name, "arguments": json.loads(one.arguments)},
                }
                for one in self.calls
            ]
        if self.answers is not None:
            told["tool_call_id"] = self.answers
        return told


@dataclass(frozen=True)
class Request:
    """What is asked. `None` always means "as the engine's package says"."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    """Upper bound of the answer, in tokens, refused if the context has no room for it; None: the engine's own bound."""
    temperature: float | None = None
    """0 takes the likeliest; None: 1 for free text, 0 when the answer is one of some labels or goes through the package's steps, as
    it was measured."""
    top_p: float = 1.0
    """Only the likeliest tokens (or labels) that together hold this share are drawn from."""
    seed: int | None = None
    """The same request with the same seed gives the same answer on the same machine; None: a fresh draw."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    top_logprobs: int | None = None
    """Report log-probabilities with this many alternatives a token; None: report none."""
    constrain: tuple[str, ...] | Grammar | None = None
    """The answer must be one of these labels, or match this expression or schema, unless max_tokens cuts it. An empty tuple: free
    text, whatever the package holds answers to."""
    abstain_below: float | None = None
    """Decline to answer if no label is at least this probable, or the text less sure; 0: always answer."""
    instruct: bool = True
    """Put the package's instruction first, as in training, if the conversation has no system message."""
    prompt: str | tuple[int, ...] | None = None
    """Text or token ids that the answer goes on from, in place of messages: no template and no instruction. Only of an engine that
    is a `Continues` (abilities)."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions in OpenAI's form that the answer may call. Only of an engine that is a `CallsFunctions` (abilities)."""
    must_call: tuple[str, ...] = ()
    """The answer is one call of one of these functions; empty: it calls what it wants, or nothing."""
    cache_salt: str = ""
    """What an engine keeps of a prompt that it has read serves requests of the same salt alone: how soon an answer begins must not tell
    one tenant how another's prompt begins."""


@dataclass(frozen=True)
class Candidate:
    """A token (or, when the answer is one of some labels, a whole label) and its natural log-probability.

    `bytes` is None for a token that is only part of a character.
    """

    text: str
    bytes: bytes | None
    logprob: float


@dataclass(frozen=True)
class Token:
    """What was chosen at one position, and the likeliest alternatives there, likeliest first."""

    chosen: Candidate
    top: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens read and made, the one that ends the turn included."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Chunk:
    """A piece of the answer. Exactly one chunk, the last, has `finish`; `usage` counts up to this chunk."""

    text: str
    usage: Usage
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None
    probability: float | None = None
    """Of the label that is the answer (or would be, if `refusal` is set), among the labels; of a free text how sure it is, where that
    is known. Last chunk only."""
    refusal: str | None = None
    """Why there is no answer: it was not sure enough, or a step of the package refused it. Last chunk only; then no chunk has
    text."""
    calls: tuple[Call, ...] = ()
    """Functions that the answer calls, where whoever passes it on has read them (server/calls); the engine leaves them in `text`."""


@dataclass(frozen=True)
class Health:
    ready: bool
    detail: str


class Refused(SpecError):
    """The request asks for something that this engine cannot do. `param` names the field, `code` the reason."""

    def __init__(self, message: str, *, param: str | None, code: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.param = param
        self.code = code


class ContextLengthExceeded(Refused):
    def __init__(
        self, prompt_tokens: int, max_tokens: int | None, context_tokens: int, param: str = "messages"
    ) -> None:
        takes = "the messages take" if param == "messages" else f"the {param} takes"
        asked = "" if max_tokens is None else f" and {max_tokens} were asked for as answer"
        super().__init__(
            f"The context of this model is {context_tokens} tokens; {takes} {prompt_tokens}{asked}.",
            param=param,
            code="context_length_exceeded",
            remedy=f"Shorten the {param}, or lower max_tokens." if max_tokens else f"Shorten the {param}.",
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class Cancelled(Exception):
    """The answer was no longer wanted, and the engine stopped. Seen only by whoever said so."""


def always_wanted() -> bool:
    """The `unwanted` of an asker who never changes his mind."""
    return False


class Unavailable(ModelError):
    """The engine is not loaded, is closed, or has failed; another try later may succeed."""


class Engine(Protocol):
    """One package in memory.

    Errors       a request that cannot be served: Refused, before the first chunk. Not loaded or closed: Unavailable.
                 Anything else is a defect of the engine and may come at any chunk; the engine then serves the next.
    Threads      every method may be called from any thread. One answer is pulled by one thread from start to end.
                 More than `slots` answers at once are correct but wait for each other.
    Cancelling   close the generator: the slot is free when `close()` returns. An engine yields at least once a token,
                 with empty text if none is ready, so that this is prompt. For what takes long before the first
                 chunk (a long prompt, many labels) the engine asks `unwanted` now and then, from the pulling thread,
                 and raises Cancelled once it says True.
    """

    slots: int
    """How many answers can be under way at once."""

    def load(self) -> None:
        """Read the weights. Does nothing the second time. Raises ModelError."""

    def close(self) -> None:
        """Free the memory, after the answers under way. Does nothing the second time."""

    def health(self) -> Health:
        """Never blocks on an answer under way."""

    def generate(
        self, request: Request, unwanted: Callable[[], bool] = always_wanted
    ) -> Generator[Chunk, None, None]:
        """The answer, piece by piece."""

    def score(self, messages: tuple[Message, ...], labels: tuple[str, ...]) -> tuple[float, ...]:
        """Natural log-probabilities over `labels`, in their order; their exponentials sum to one."""
