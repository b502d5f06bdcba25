"""What is said to served models, kept in a home and judged there: exchange.Traffic over App.

Whose key asked says in which home: one home where a server has one, a project's own where it has projects. What is kept of it, and how it
is made private first, is app/traffic's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from luthier.server.exchange import Exchange, Said
from luthier.server.keys import Key
from luthier.serving.engine import Call, Message

if TYPE_CHECKING:
    from luthier.app.app import App


class Keeping:
    """`home`: of a key; it may raise ApiError where that names none. `share`: 0 to 1, of those whose client does not say."""

    def __init__(self, home: Callable[[Key], App], share: float) -> None:
        self._home, self._share = home, share

    def keep(self, exchange: Exchange, said: Said, asked_to: bool, key: Key) -> None:
        self._home(key).traffic.capture(self._share).keep(
            id=exchange.id,
            name=exchange.model,
            release=exchange.release,
            digest=exchange.package_digest,
            key_id=exchange.key_id,
            user_sha256=exchange.user_sha256,
            messages=[_message(one) for one in said.messages],
            answers=[
                {"text": one.text, "refusal": one.refusal, **_with_calls(one.calls)} for one in said.answers
            ],
            tools=said.tools,
            probability=exchange.probability,
            asked_to=asked_to,
        )

    def judge(self, exchange_id: str, key: Key, **told: Any) -> bool:
        return self._home(key).traffic.judge(exchange_id, by=f"key {key.id}", key_id=key.id, **told)


def _message(one: Message) -> dict[str, Any]:
    """As OpenAI writes it."""
    answers = {} if one.answers is None else {"tool_call_id": one.answers}
    return {"role": one.role, "content": one.content, **_with_calls(one.calls), **answers}


def _with_calls(calls: Sequence[Call]) -> dict[str, Any]:
    if not calls:
        return {}
    told = [
        {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
        for one in calls
    ]
    return {"tool_calls": told}
