"""What every engine shares, written once: from a conversation to token ids, and from what a model says to the package's answer.

    messages ─▶ instruction, template ─▶ ids ─▶ Backend (backend.py) ─▶ text ─▶ steps, vote, calibration, abstention, fallback ─▶ Chunk

What the model says goes the package's way to an answer (outputs): held to a grammar, voted on, through the steps, to another model
where it is not sure. Where that needs the whole text, the text comes in one piece at the end, with empty pieces before it.

It asks exactly as training did: the model's own template, and the package's instruction put where `prepare` puts it
if the conversation has no system message of its own.

A package constrained to labels answers with a whole label. `Chunk.tokens` then has one entry, the label, with its
log-probability among the labels, and the likeliest other labels as alternatives: their exponentials sum to one.
A model with a regression head answers with its number, as text.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from luthier.core.errors import DataError, MissingPart, ModelError, SpecError
from luthier.core.units import plain_number
from luthier.models.call_form import CallForm
from luthier.models.grammar import Grammar
from luthier.models.said import Step
from luthier.outputs.answering import Sample, Settled, about
from luthier.outputs.other import Other
from luthier.outputs.spec import HeldSpec
from luthier.outputs.step import About
from luthier.serving.asked import call_grammar, plain_ids, refuse_tools, refused
from luthier.serving.backend import Backend, Wish
from luthier.serving.engine import (
    Candidate,
    Chunk,
    ContextLengthExceeded,
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
from luthier.serving.package import PackageFacts, instructed

logger = logging.getLogger("luthier.serving")

Unwanted = Callable[[], bool]


class PackageEngine:
    """An Engine over any Backend.

    `longest_answer` bounds, in tokens, an answer for which the request gives no bound; reaching it shows as finish "length". `other`
    is the model that the package's fallback names.
    """

    def __init__(
        self, backend: Backend, facts: PackageFacts, *, longest_answer: int = 1024, other: Other | None = None
    ) -> None:
        self.backend = backend
        self.slots = backend.slots
        self.facts = facts
        self._longest_answer = longest_answer
        self._way = facts.way
        self._other = other
        self._free = threading.Semaphore(self.slots)
        self._opening = threading.Lock()

    def load(self) -> None:
        with self._opening:
            self.backend.load()

    def close(self) -> None:
        with self._opening:
            for _ in range(self.slots):  # after the answers under way
                self._free.acquire()
            try:
                self.backend.close()
            finally:
                self._free.release(self.slots)

    def health(self) -> Health:
        return self.backend.health()

    def generate(self, request: Request, unwanted: Unwanted = always_wanted) -> Generator[Chunk, None, None]:
        with self._free:
            self._must_be_ready()
            labels, grammar = self._labels(request), self._grammar(request)
            prompt_ids = self._request_ids(request)
            if labels:
                yield self._label(request, labels, prompt_ids, unwanted)
            elif (number := self.backend.number(prompt_ids, unwanted)) is not None:
                text = plain_number(number)
                usage = Usage(len(prompt_ids), len(self.backend.template.answer(text)))
                yield Chunk(text, usage, (), "stop")
            else:
                yield from self._text(request, prompt_ids, grammar, unwanted)

    def score(
        self, messages: tuple[Message, ...], labels: tuple[str, ...], cache_salt: str = ""
    ) -> tuple[float, ...]:
        with self._free:
            self._must_be_ready()
            return self._score(self._prompt(messages, None, instruct=True), labels, always_wanted, cache_salt)

    @property
    def continues_text(self) -> bool:
        return self.backend.writes

    def call_form(self) -> CallForm | None:
        from luthier.models.call_form import call_form

        self._must_be_ready()
        try:
            return call_form(self.backend.template)
        except ModelError as error:
            raise refused(error, "tools", "unsupported_parameter") from None

    def _must_be_ready(self) -> None:
        if self.backend.template is None:
            raise Unavailable("The model is not loaded.", remedy="Load it, or wait until it is ready.")

    def _labels(self, request: Request) -> tuple[str, ...]:
        refuse_tools(request, self.facts)
        if isinstance(request.constrain, Grammar) or request.must_call:
            return ()
        if request.constrain is not None:
            return request.constrain
        return (self.facts.labels or ()) if self.facts.constrain else ()

    def _grammar(self, request: Request) -> Grammar | None:
        if request.must_call:
            return call_grammar(self.backend.template, request)
        if not isinstance(request.constrain, Grammar):
            return self.facts.answering.grammar() if request.constrain is None else None
        if not self.backend.writes:
            raise Refused(
                "This model has a head of its own: it gives a label or a number, and writes no text that could be held to anything.",
                param="response_format",
                code="unsupported_parameter",
                remedy="Leave it out.",
            )
        try:
            request.constrain.check()
        except MissingPart as error:
            raise Refused(error.message, param="response_format", code="unsupported_parameter") from None
        except SpecError as error:
            raise refused(error, "response_format", "invalid_value") from None
        return request.constrain

    def _request_ids(self, request: Request) -> list[int]:
        if request.prompt is not None:
            return plain_ids(self.backend.template, request.prompt, request.max_tokens, "prompt")
        return self._prompt(
            request.messages, request.max_tokens, instruct=request.instruct, tools=request.tools
        )

    def _prompt(
        self,
        messages: tuple[Message, ...],
        max_tokens: int | None,
        *,
        instruct: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        from luthier.models.template import TooLong

        asked = instructed(messages, self.facts) if instruct else messages
        try:
            prompt_ids: list[int] = self.backend.template.prompt(
                [message.plain() for message in asked], list(tools) or None
            )
        except TooLong as error:  # counts one token of answer in
            raise ContextLengthExceeded(error.tokens - 1, max_tokens, error.limit) from None
        except ModelError as error:
            raise refused(error, "messages", "invalid_messages") from None
        context: int = self.backend.template.context
        if len(prompt_ids) + (max_tokens or 1) > context:
            raise ContextLengthExceeded(len(prompt_ids), max_tokens, context)
        return prompt_ids

    def _text(
        self, request: Request, prompt_ids: list[int], grammar: Grammar | None, unwanted: Unwanted
    ) -> Generator[Chunk, None, None]:
        """As it grows, or where it must be whole before it may be shown, in one piece at the end."""
        if self._way.spec.vote is not None:
            yield self._voted(request, prompt_ids, grammar, unwanted)
            return
        chunks = self._said(request, prompt_ids, grammar, unwanted)
        if not self._way.whole and not self._bar(request):
            yield from self._streamed(chunks)
            return
        texts: list[str] = []
        tokens: list[Token] = []
        logprobs: list[float] = []
        for chunk, logprob in chunks:
            texts.append(chunk.text)
            tokens += chunk.tokens
            logprobs.append(logprob)
            if chunk.finish is None:
                yield Chunk("", chunk.usage)
                continue
            said = Sample("".join(texts), sum(logprobs) / len(logprobs), len(logprobs), chunk.finish)
            whole = replace(chunk, text=said.text, tokens=tuple(tokens))
            yield self._answered(request, whole, self._way.settle([said], self._about(request)))

    def _streamed(self, chunks: Generator[tuple[Chunk, float], None, None]) -> Generator[Chunk, None, None]:
        logprobs = []
        for chunk, logprob in chunks:
            logprobs.append(logprob)
            if chunk.finish is not None and self._way.belief.knots is not None:
                sure = self._way.belief.sure(math.exp(sum(logprobs) / len(logprobs)))
                chunk = replace(chunk, probability=sure)
            yield chunk

    def _said(
        self, request: Request, prompt_ids: list[int], grammar: Grammar | None, unwanted: Unwanted
    ) -> Generator[tuple[Chunk, float], None, None]:
        """What the model says, token by token, each with its log-probability."""
        greedy = request.top_p == 0  # the smallest nucleus is the likeliest token
        drawn = self._way.spec.plain_way and not self._way.belief.changes and not self.facts.abstain_below
        usual = 1.0 if drawn else 0.0  # else as it was measured
        warmth = usual if request.temperature is None else request.temperature
        template = self.backend.template
        wish = Wish(
            tuple(prompt_ids),
            min(request.max_tokens or self._longest_answer, template.context - len(prompt_ids)),
            temperature=0.0 if greedy else warmth,
            top_p=1.0 if greedy else request.top_p,
            seed=request.seed,
            stop=request.stop,
            logprobs=request.top_logprobs if request.top_logprobs is not None else self._needed(request),
            grammar=grammar,
            cache_salt=request.cache_salt,
        )
        with closing(self.backend.write(wish, unwanted)) as steps:
            for count, step in enumerate(steps, 1):
                told = request.top_logprobs is not None and step.token_id not in template.end_ids
                tokens = (self._token(step),) if told else ()
                yield Chunk(step.text_delta, Usage(len(prompt_ids), count), tokens, step.finish), step.logprob

    def _needed(self, request: Request) -> int | None:
        """0: the tokens' own log-probabilities are needed, since how sure the answer is follows from them."""
        wanted = self._way.whole or self._bar(request) or self._way.belief.knots is not None
        return 0 if wanted else None

    def _voted(
        self, request: Request, prompt_ids: list[int], grammar: Grammar | None, unwanted: Unwanted
    ) -> Chunk:
        """The only chunk: the samples are the package's, whatever temperature and seed the request has."""
        spec = self._way.spec
        if grammar != spec.grammar():  # the request's own
            spec = spec.model_copy(update={"constrain": _held(grammar)})
        most = min(
            request.max_tokens or self._longest_answer, self.backend.template.context - len(prompt_ids)
        )
        drawn = self.backend.samples(prompt_ids, most, spec, unwanted, request.cache_salt)
        drawn = tuple(replace(one, text=_cut(one.text, request.stop)) for one in drawn)
        settled = self._way.settle(drawn, self._about(request))
        won = next(one for one in drawn if one.text == settled.raw)
        usage = Usage(len(prompt_ids), sum(one.tokens for one in drawn))
        return self._answered(request, Chunk(won.text, usage, (), won.finish), settled)

    def _about(self, request: Request) -> About:
        labels = request.constrain if isinstance(request.constrain, tuple) and request.constrain else None
        return about(self._turns(request), labels or self.facts.labels)

    def _turns(self, request: Request) -> list[dict[str, str]]:
        asked = instructed(request.messages, self.facts) if request.instruct else request.messages
        return [message.plain() for message in asked]

    def _bar(self, request: Request) -> float:
        bar = self.facts.abstain_below if request.abstain_below is None else request.abstain_below
        return bar or 0.0

    def _answered(self, request: Request, said: Chunk, settled: Settled) -> Chunk:
        """The last chunk of what the model `said`, once all of it has become an answer or a refusal. Log-probabilities are told of
        a text that is the model's own; of another they could give away what a step took out."""
        why = self._way.asks_other(settled)
        if why is not None and self._other is not None:
            settled = self._second(request, settled, why)
        refusal, bar = settled.refusal, self._bar(request)
        if refusal is None and settled.sure is not None and settled.sure < bar:
            refusal = f"The answer is not sure enough: {settled.sure:.2f}, and {bar:g} is asked for."
        if refusal is not None:
            return Chunk("", said.usage, (), said.finish, settled.sure, refusal)
        own = settled.text == said.text and settled.other is None
        return Chunk(settled.text, said.usage, said.tokens if own else (), said.finish, settled.sure)

    def _second(self, request: Request, settled: Settled, why: str) -> Settled:
        """Another model's answer; where it cannot be asked, this model's stands, and the log says so."""
        assert self._other is not None
        most = request.max_tokens or self._longest_answer
        try:
            told = self._other.ask(self._turns(request), most)
        except DataError as error:
            logger.warning("%s", error.message)
            return settled
        return self._way.with_other(settled, told.text, why, self._about(request))

    def _token(self, step: Step) -> Token:
        own = self._candidate(step.token_id, step.logprob, step.text_delta)
        return Token(own, tuple(self._candidate(*other) for other in step.top))

    def _candidate(self, token_id: int | str | None, logprob: float, text: str = "") -> Candidate:
        if isinstance(token_id, str):
            text = token_id
        elif token_id is not None:
            text = self.backend.template.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        return Candidate(text, None if "\ufffd" in text else text.encode(), logprob)

    def _score(
        self, prompt_ids: list[int], labels: tuple[str, ...], unwanted: Unwanted, cache_salt: str
    ) -> tuple[float, ...]:
        from luthier.models.template import TooLong

        try:
            return tuple(self.backend.score(prompt_ids, labels, unwanted, cache_salt))
        except TooLong as error:
            room = error.tokens - len(prompt_ids)
            raise ContextLengthExceeded(len(prompt_ids), room, error.limit) from None
        except Unavailable:
            raise
        except ModelError as error:
            raise Refused(error.message, param="labels", code="invalid_value", remedy=error.remedy) from None

    def _label(
        self, request: Request, labels: tuple[str, ...], prompt_ids: list[int], unwanted: Unwanted
    ) -> Chunk:
        def tokens_of(label: str) -> int:
            return len(
                self.backend.template.answer(label)
            )  # with the token that ends the turn, as for free text

        refuse_cutting(request, labels, tokens_of)
        raw: Sequence[float] = self._score(prompt_ids, labels, unwanted, request.cache_salt)
        logprobs = self._believed(raw) if labels == self.facts.labels else raw
        if not self._way.whole:
            return answer(request, labels, logprobs, self._bar(request), len(prompt_ids), tokens_of)
        said = answer(request, labels, logprobs, 0.0, len(prompt_ids), tokens_of)
        before, sure = math.exp(max(raw)), math.exp(max(logprobs))
        settled = self._way.label(said.text, before, sure, self._about(request))
        return self._answered(request, said, settled)

    def _believed(self, raw: Sequence[float]) -> list[float]:
        """Log-probabilities of the package's labels, calibrated."""
        belief = self._way.belief
        if not belief.changes:
            return list(raw)
        import numpy as np

        told: list[float] = belief.labels(np.array([raw]))[0].tolist()
        return told


def _held(grammar: Grammar | None) -> HeldSpec | None:
    if grammar is None:
        return None
    if grammar.kind == "regex":
        return HeldSpec(regex=grammar.written)
    return HeldSpec(json_schema=json.loads(grammar.written))


def _cut(text: str, stops: Sequence[str]) -> str:
    """Before the first of them."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
