"""A question to a model and its answer, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.store.answers import key_of

BYTES_PER_TOKEN = 3
MESSAGE_TOKENS = 8


@dataclass(frozen=True)
class Question:
    """`about` is the record that it is asked for; `copy` tells questions apart that are otherwise the same."""

    about: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.7
    copy: int = 0

    def key(self, asker: Mapping[str, Any]) -> str:
        told = {"messages": [list(one) for one in self.messages], "max_tokens": self.max_tokens}
        return key_of({**asker, **told, "temperature": self.temperature, "copy": self.copy})

    @property
    def tokens_in(self) -> int:
        """About, from the bytes: few texts of any language need more tokens than that."""
        return sum(MESSAGE_TOKENS + tokens_of(content) for _, content in self.messages)


def tokens_of(text: str) -> int:
    """A bound that nearly every text keeps, for servers whose tokenizer is not here."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


@dataclass(frozen=True)
class Answer:
    """`text` is None where the model would not answer, and `why` says why not. `seconds`: from the request to the answer; None
    where it was not measured."""

    text: str | None
    why: str = ""
    finished: bool = True
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Answer:
        return cls(**told)


class Asker(Protocol):
    """Who answers. `identity` is what the answers follow from beside the questions."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def ask(self, questions: Sequence[tuple[str, Question]]) -> None:
        """Ask these (key, question), none of which has been answered, and keep the answers. Raises DataError; what was
        answered until then is kept."""
