"""A conversation that remembers: what `luthier chat` holds. No terminal, no files; a caller prints what it yields."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

from luthier.serving.engine import Chunk, Engine, Message, Request, Usage


@dataclass(frozen=True)
class Answer:
    """How the last answer came about."""

    text: str
    usage: Usage
    seconds: float
    probability: float | None = None
    refusal: str | None = None


class Conversation:
    """Asks `engine` with everything said so far.

    `settings` is a Request whose messages are replaced: temperature, seed, max_tokens and the like. With
    `remember=False` every question stands alone, as a model trained to label single messages expects.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str | None = None,
        settings: Request = Request(()),  # noqa: B008  frozen
        remember: bool = True,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._remember = remember
        self._start = (Message("system", system),) if system else ()
        self._turns: tuple[Message, ...] = ()
        self.last: Answer | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        return self._start + self._turns

    def reset(self) -> None:
        """Forget what was said, keep the system message."""
        self._turns = ()
        self.last = None

    def say(self, text: str) -> Generator[str, None, None]:
        """The answer, piece by piece. Raises what the engine raises.

        The question and the answer are remembered only together, when the answer is whole: after an error, or when
        the caller closes the generator, the conversation is as it was before.
        """
        question = Message("user", text)
        started_s = time.monotonic()
        pieces: list[str] = []
        last: Chunk | None = None
        with closing(
            self._engine.generate(replace(self._settings, messages=(*self.messages, question)))
        ) as chunks:
            for chunk in chunks:
                if chunk.text:
                    pieces.append(chunk.text)
                    yield chunk.text
                last = chunk
        if last is None or last.finish is None:
            raise RuntimeError(f"{type(self._engine).__name__} ended without a last chunk")
        answer = "".join(pieces)
        self.last = Answer(answer, last.usage, time.monotonic() - started_s, last.probability, last.refusal)
        if self._remember and last.refusal is None:
            self._turns = (*self._turns, question, Message("assistant", answer))
