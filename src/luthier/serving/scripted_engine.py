"""The fake engine: answers by rule, with the delays and failures a test asks for. Public: plug-ins need it too.

It keeps the whole contract of `serving.engine.Engine` (stop, max_tokens, labels, cancelling) and no model. A token is
a word with the space before it.

>>> from luthier.serving.engine import Message, Request
>>> engine = ScriptedEngine([Rule("refund", Reply("billing"))], default=Reply("support"))
>>> engine.load()
>>> [c.text for c in engine.generate(Request((Message("user", "I want a refund"),)))]
['billing', '']
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from luthier.models.call_form import CallForm
from luthier.serving.abilities import Vectors
from luthier.serving.engine import (
    Cancelled,
    Candidate,
    Chunk,
    ContextLengthExceeded,
    Finish,
    Health,
    Message,
    Refused,
    Request,
    Token,
    Unavailable,
    Usage,
    always_wanted,
)
from luthier.serving.labels import answer, refuse_cutting

LIKELY = 0.9  # of the scripted label; the others share the rest


@dataclass(frozen=True)
class Reply:
    """What to answer and how. `fails` is raised after `fails_after` tokens, or at the end."""

    text: str
    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    fails: Exception | None = None
    fails_after: int = 0


@dataclass(frozen=True)
class Rule:
    """`reply` is given if the last message contains `when` (or if `when(request)` says so)."""

    when: str | Callable[[Request], bool]
    reply: Reply

    def applies(self, request: Request) -> bool:
        if callable(self.when):
            return self.when(request)
        return self.when in _last(request)


class ScriptedEngine:
    """The first rule that applies answers, else `default`.

    `requests` lists every request seen; `active` counts the answers under way; `abandoned` those closed early.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        default: Reply = Reply("scripted"),
        *,
        slots: int = 1,
        context_tokens: int = 1000,
        labels: tuple[str, ...] = (),
        abstain_below: float = 0.0,
        form: CallForm | None = CallForm("<tool_call>", "</tool_call>"),  # noqa: B008  frozen
    ) -> None:
        self.slots = slots
        self.continues_text = True
        self.rules = tuple(rules)
        self.default = default
        self.context_tokens = context_tokens
        self.labels = labels
        self.abstain_below = abstain_below
        self.form = form
        self.requests: list[Request] = []
        self.active = 0
        self.abandoned = 0
        self._ready = False
        self._count = threading.Lock()
        self._slots = threading.Semaphore(slots)

    def load(self) -> None:
        self._ready = True

    def close(self) -> None:
        self._ready = False

    def health(self) -> Health:
        return Health(self._ready, "ready" if self._ready else "not loaded")

    def generate(
        self, request: Request, unwanted: Callable[[], bool] = always_wanted
    ) -> Generator[Chunk, None, None]:
        with self._slots:
            with self._count:
                self.requests.append(request)
                self.active += 1
            try:
                yield from self._answer(request, unwanted)
            except (GeneratorExit, Cancelled):
                self.abandoned += 1
                raise
            finally:
                with self._count:
                    self.active -= 1

    def call_form(self) -> CallForm | None:
        return self.form

    def embed(
        self, texts: Sequence[str | tuple[int, ...]], unwanted: Callable[[], bool] = always_wanted
    ) -> Vectors:
        """Of length 1; how many of a text's words have which length, modulo four, is all that they say."""
        self._must_be_ready()
        found = []
        for text in texts:
            words = _words(text) if isinstance(text, str) else [str(one) for one in text]
            counts = [1e-9 + sum(len(word) % 4 == place for word in words) for place in range(4)]
            length = math.hypot(*counts)
            found.append(tuple(count / length for count in counts))
        return Vectors(tuple(found), sum(_count(t) if isinstance(t, str) else len(t) for t in texts))

    def score(self, messages: tuple[Message, ...], labels: tuple[str, ...]) -> tuple[float, ...]:
        self._must_be_ready()
        reply = self._reply(Request(messages)).text
        if reply not in labels or len(labels) == 1:
            return tuple(-math.log(len(labels)) for _ in labels)
        rest = (1 - LIKELY) / (len(labels) - 1)
        return tuple(math.log(LIKELY if label == reply else rest) for label in labels)

    def _reply(self, request: Request) -> Reply:
        return next((rule.reply for rule in self.rules if rule.applies(request)), self.default)

    def _must_be_ready(self) -> None:
        if not self._ready:
            raise Unavailable("The scripted engine is not loaded.", remedy="Call load() first.")

    def _answer(self, request: Request, unwanted: Callable[[], bool]) -> Generator[Chunk, None, None]:
        self._must_be_ready()
        reply = self._reply(request)
        prompt_tokens = _prompt_tokens(request)
        if prompt_tokens + (request.max_tokens or 1) > self.context_tokens:
            raise ContextLengthExceeded(prompt_tokens, request.max_tokens, self.context_tokens)
        _wait(reply.first_delay_s, unwanted)
        labels = self.labels if request.constrain is None else request.constrain
        if not isinstance(labels, tuple):
            raise Refused(
                "The scripted engine says what its script has, and holds it to no grammar.",
                param="response_format",
                code="unsupported_parameter",
            )
        if labels:
            if reply.fails is not None:
                raise reply.fails
            yield self._label(request, labels, prompt_tokens)
            return
        yield from self._words(request, reply, prompt_tokens)

    @staticmethod
    def _words(request: Request, reply: Reply, prompt_tokens: int) -> Generator[Chunk, None, None]:
        text = reply.text
        finish: Finish = "stop"
        for stop in request.stop:
            text = text.partition(stop)[0]
        words = _words(text)
        if request.max_tokens is not None and len(words) > request.max_tokens:
            words, finish = words[: request.max_tokens], "length"
        for count, word in enumerate(words):
            if reply.fails is not None and count == reply.fails_after:
                raise reply.fails
            tokens = (_token(word, request.top_logprobs),) if request.top_logprobs is not None else ()
            yield Chunk(word, Usage(prompt_tokens, count + 1), tokens)
            time.sleep(reply.token_delay_s)
        if reply.fails is not None:
            raise reply.fails
        yield Chunk("", Usage(prompt_tokens, len(words)), finish=finish)

    def _label(self, request: Request, labels: tuple[str, ...], prompt_tokens: int) -> Chunk:
        refuse_cutting(request, labels, _count)
        bar = self.abstain_below if request.abstain_below is None else request.abstain_below
        return answer(request, labels, self.score(request.messages, labels), bar, prompt_tokens, _count)


def _wait(delay_s: float, unwanted: Callable[[], bool]) -> None:
    until_s = time.monotonic() + delay_s
    while (left_s := until_s - time.monotonic()) > 0:
        if unwanted():
            raise Cancelled
        time.sleep(min(left_s, 0.01))


def _last(request: Request) -> str:
    return request.messages[-1].content if request.prompt is None else str(request.prompt)


def _prompt_tokens(request: Request) -> int:
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    texts = [m.content for m in request.messages] if request.prompt is None else [request.prompt]
    return sum(map(_count, texts))


def _count(text: str) -> int:
    return len(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _token(word: str, top: int | None) -> Token:
    chosen = Candidate(word, word.encode(), math.log(LIKELY))
    other = Candidate("…", "…".encode(), math.log(1 - LIKELY))
    return Token(chosen, (chosen, other)[: top or 0])
