"""The record of one answered request: enough to go from an answer back to the package that gave it, and no content. And the door
behind which content is kept, where somebody switched that on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.core.artifact import digest_of
from luthier.server.keys import Key
from luthier.serving.engine import Call, Message


@dataclass(frozen=True)
class Exchange:
    """`finish` holds one word an answer: stop, length, refused, tool_calls, or cancelled when the client left midway.

    A hash proves what was asked and said to whoever has the text; of a short text it does not keep the secret.
    """

    id: str  # chatcmpl-..., also in the client's response
    request_id: str
    model: str
    package_digest: str
    release: str | None
    key_id: str
    user_sha256: str | None
    prompt_sha256: str
    answers_sha256: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    finish: tuple[str, ...]
    probability: float | None  # of the first answer's label, if it is one
    first_token_s: float | None
    latency_s: float  # from the whole request read to the whole answer made
    streamed: bool
    cost: tuple[float, str] | None = (
        None  # what holding a slot for it cost, and the currency; None: no price is known
    )
    guarded: tuple[str, ...] = ()  # which guards found something


OnExchange = Callable[[Exchange], None]


@dataclass(frozen=True)
class Answered:
    """One answer: a text, which may be empty before calls, or a refusal."""

    text: str | None
    refusal: str | None = None
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Said:
    """What was said in one exchange: the messages as they were sent, each answer, and the functions that had a part in it, as OpenAI
    writes them."""

    messages: Sequence[Message]
    answers: Sequence[Answered]
    tools: Sequence[Mapping[str, Any]] = ()


class Traffic(Protocol):
    """Keeps what is asked and answered. Both are called in a thread and may raise; what goes wrong in `keep` is logged and does
    not take the answer from the client."""

    def keep(self, exchange: Exchange, said: Said, asked_to: bool, key: Key) -> None:
        """Or leave it, as it samples; `asked_to`: the client wishes it kept (`store: true`); `key`: whose it is."""

    def judge(
        self,
        exchange_id: str,
        key: Key,
        *,
        choice: int,
        rating: float | None,
        correction: str | None,
        comment: str | None,
        calls: Sequence[Mapping[str, Any]] | None,
    ) -> bool:
        """Whether there is such an exchange of that key, with such an answer. Raises DataError for a call of a function that was not
        offered."""


def hash_prompt(messages: Sequence[Message]) -> str:
    """SHA-256 of the canonical form of the messages as they were sent (before an instruction is put in)."""
    return digest_of([message.plain() for message in messages])


def hash_answer(text: str, calls: Sequence[Call]) -> str:
    """Of a text: its bytes. With calls: SHA-256 of the canonical form of {text, calls: [{name, arguments}]}, arguments as the JSON text that
    was sent; the ids of calls, which are drawn, are left out."""
    if not calls:
        return hash_text(text)
    return digest_of(
        {"text": text, "calls": [{"name": one.name, "arguments": one.arguments} for one in calls]}
    )


def hash_text(text: str) -> str:
    """SHA-256 of the UTF-8 bytes, as `sha256sum` gives it."""
    return hashlib.sha256(text.encode()).hexdigest()
