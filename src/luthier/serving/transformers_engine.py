"""The plain engine: a model folder in this process, one answer at a time, with a KV cache.

What the model says goes the package's way to an answer (outputs): held to a grammar, voted on, through the steps, to another model
where it is not sure. Where that needs the whole text, the text comes in one piece at the end, with empty pieces before it.

It asks exactly as training did: the model's own template, and the package's instruction put where `prepare` puts it
if the conversation has no system message of its own. It is not the fast engine: two requests never share a batch.

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
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, MissingPart, ModelError, SpecError
from luthier.core.units import plain_number
from luthier.models.call_form import CallForm
from luthier.models.grammar import Grammar
from luthier.models.spec import Dtype
from luthier.outputs.answering import Sample, Settled, about, samples
from luthier.outputs.other import Other
from luthier.outputs.spec import HeldSpec
from luthier.outputs.step import About
from luthier.serving.abilities import Vectors
from luthier.serving.asked import call_grammar, plain_ids, refuse_tools, refused
from luthier.serving.engine import (
    Cancelled,
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
from luthier.serving.package import PackageFacts, instructed, read_facts

logger = logging.getLogger("luthier.serving")


class TransformersEngine:
    """`base_folder` is a whole model; `adapter_folder` an adapter on it, whose facts then count.

    `facts` overrides what the folder says, for a model that was never packaged. `longest_answer` bounds, in tokens, an
    answer for which the request gives no bound; reaching it shows as finish "length". `other` is the model that the package's
    fallback names.
    """

    slots = 1
    continues_text = True  # until a head is found on it

    def __init__(
        self,
        base_folder: Path,
        adapter_folder: Path | None = None,
        *,
        facts: PackageFacts | None = None,
        dtype: Dtype = "fp32",
        device: str = "cpu",
        longest_answer: int = 1024,
        other: Other | None = None,
    ) -> None:
        self._base_folder = base_folder
        self._adapter_folder = adapter_folder
        self._dtype = dtype
        self._device = device
        self._longest_answer = longest_answer
        self.facts = facts or read_facts(adapter_folder or base_folder)
        self._way = self.facts.way
        self._other = other
        self._lock = threading.Lock()
        self._model: Any = None
        self._template: Any = None
        self._gives_number = False
        self._unwanted: Callable[[], bool] = always_wanted

    def load(self) -> None:
        from luthier.models import template, weights
        from luthier.models.head import Number, head_of

        with self._lock:
            if self._model is not None:
                return
            context = weights.describe(self._base_folder).context
            self._template = template.Template(weights.load_tokenizer(self._base_folder), context)
            self._template.need_chat()
            self._model = weights.load(
                self._adapter_folder or self._base_folder,
                dtype=self._dtype,
                device=self._device,
                base_folder=self._base_folder if self._adapter_folder else None,
            )
            self._gives_number = isinstance(getattr(head_of(self._model), "gives", None), Number)
            self.continues_text = head_of(self._model) is None
            for layer in _layers(self._model):
                layer.register_forward_pre_hook(self._stop_if_unwanted)

    def _stop_if_unwanted(self, *_: Any) -> None:
        """Before every layer: reading a long prompt takes many seconds, and one layer of it a fraction of one."""
        if self._unwanted():
            raise Cancelled

    def close(self) -> None:
        with self._lock:
            self._model = self._template = None

    def health(self) -> Health:
        ready = self._model is not None
        return Health(ready, "ready" if ready else "not loaded")

    def generate(
        self, request: Request, unwanted: Callable[[], bool] = always_wanted
    ) -> Generator[Chunk, None, None]:
        with self._lock:
            self._must_be_ready()
            labels, grammar = self._labels(request), self._grammar(request)
            prompt_ids = self._request_ids(request)
            self._unwanted = unwanted
            try:
                if labels:
                    yield self._label(request, labels, prompt_ids)
                elif self._gives_number:
                    yield self._number(prompt_ids)
                else:
                    yield from self._text(request, prompt_ids, grammar)
            finally:
                self._unwanted = always_wanted

    def score(self, messages: tuple[Message, ...], labels: tuple[str, ...]) -> tuple[float, ...]:
        with self._lock:
            self._must_be_ready()
            return self._score(self._prompt(messages, None, instruct=True), labels)

    def call_form(self) -> CallForm | None:
        from luthier.models.call_form import call_form

        with self._lock:
            self._must_be_ready()
            try:
                return call_form(self._template)
            except ModelError as error:
                raise refused(error, "tools", "unsupported_parameter") from None

    def embed(
        self, texts: Sequence[str | tuple[int, ...]], unwanted: Callable[[], bool] = always_wanted
    ) -> Vectors:
        from luthier.models.pooled import mean_vectors

        with self._lock:
            self._must_be_ready()
            ids = [plain_ids(self._template, text, None, "input") for text in texts]
            self._unwanted = unwanted
            try:
                found = mean_vectors(self._model, self._template, ids)
            finally:
                self._unwanted = always_wanted
            return Vectors(tuple(map(tuple, found)), sum(map(len, ids)))

    def _must_be_ready(self) -> None:
        if self._model is None:
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
            return call_grammar(self._template, request)
        if not isinstance(request.constrain, Grammar):
            return self.facts.answering.grammar() if request.constrain is None else None
        from luthier.models.head import head_of

        if head_of(self._model) is not None:
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
            message = f"{error.message[0].upper()}{error.message[1:]}"
            raise Refused(
                message, param="response_format", code="invalid_value", remedy=error.remedy
            ) from None
        return request.constrain

    def _request_ids(self, request: Request) -> list[int]:
        if request.prompt is not None:
            return plain_ids(self._template, request.prompt, request.max_tokens, "prompt")
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
            prompt_ids: list[int] = self._template.prompt(
                [message.plain() for message in asked], list(tools) or None
            )
        except TooLong as error:  # counts one token of answer in
            raise ContextLengthExceeded(error.tokens - 1, max_tokens, error.limit) from None
        except ModelError as error:
            raise refused(error, "messages", "invalid_messages") from None
        context: int = self._template.context
        if len(prompt_ids) + (max_tokens or 1) > context:
            raise ContextLengthExceeded(len(prompt_ids), max_tokens, context)
        return prompt_ids

    def _text(
        self, request: Request, prompt_ids: list[int], grammar: Grammar | None
    ) -> Generator[Chunk, None, None]:
        """As it grows, or where it must be whole before it may be shown, in one piece at the end."""
        if self._way.spec.vote is not None:
            yield self._voted(request, prompt_ids, grammar)
            return
        chunks = self._said(request, prompt_ids, grammar)
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
        self, request: Request, prompt_ids: list[int], grammar: Grammar | None
    ) -> Generator[tuple[Chunk, float], None, None]:
        """What the model says, token by token, each with its log-probability."""
        from luthier.models.generate import generate

        greedy = request.top_p == 0  # the smallest nucleus is the likeliest token
        drawn = self._way.spec.plain_way and not self._way.belief.changes and not self.facts.abstain_below
        usual = 1.0 if drawn else 0.0  # else as it was measured
        warmth = usual if request.temperature is None else request.temperature
        steps = generate(
            self._model,
            self._template,
            prompt_ids,
            max_tokens=request.max_tokens or self._longest_answer,
            temperature=0.0 if greedy else warmth,
            top_p=1.0 if greedy else request.top_p,
            seed=request.seed,
            stop=request.stop,
            logprobs=request.top_logprobs or 0,
            grammar=grammar,
        )
        for count, step in enumerate(steps, 1):
            told = request.top_logprobs is not None and step.token_id not in self._template.end_ids
            tokens = (self._token(step.token_id, step.logprob, step.top),) if told else ()
            yield Chunk(step.text_delta, Usage(len(prompt_ids), count), tokens, step.finish), step.logprob

    def _voted(self, request: Request, prompt_ids: list[int], grammar: Grammar | None) -> Chunk:
        """The only chunk: the samples are the package's, whatever temperature and seed the request has."""
        spec = self._way.spec
        if grammar != spec.grammar():  # the request's own
            spec = spec.model_copy(update={"constrain": _held(grammar)})
        most = min(request.max_tokens or self._longest_answer, self._template.context - len(prompt_ids))
        [drawn] = samples(self._model, self._template, [prompt_ids], most, spec)
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

    def _token(self, token_id: int, logprob: float, top: tuple[tuple[int, float], ...]) -> Token:
        return Token(self._candidate(token_id, logprob), tuple(self._candidate(*other) for other in top))

    def _candidate(self, token_id: int, logprob: float) -> Candidate:
        text: str = self._template.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        return Candidate(text, None if "\ufffd" in text else text.encode(), logprob)

    def _score(self, prompt_ids: list[int], labels: tuple[str, ...]) -> tuple[float, ...]:
        from luthier.models.generate import score_choices
        from luthier.models.template import TooLong

        try:
            return tuple(score_choices(self._model, self._template, [prompt_ids], labels)[0])
        except TooLong as error:
            room = error.tokens - len(prompt_ids)
            raise ContextLengthExceeded(len(prompt_ids), room, error.limit) from None
        except ModelError as error:
            raise Refused(error.message, param="labels", code="invalid_value", remedy=error.remedy) from None

    def _number(self, prompt_ids: list[int]) -> Chunk:
        """The only chunk of a model with a regression head: its number as text."""
        from luthier.models.head import numbers

        text = plain_number(numbers(self._model, self._template, [prompt_ids])[0])
        return Chunk(text, Usage(len(prompt_ids), len(self._template.answer(text))), (), "stop")

    def _label(self, request: Request, labels: tuple[str, ...], prompt_ids: list[int]) -> Chunk:
        def tokens_of(label: str) -> int:
            return len(self._template.answer(label))  # with the token that ends the turn, as for free text

        refuse_cutting(request, labels, tokens_of)
        raw: Sequence[float] = self._score(prompt_ids, labels)
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


def _layers(model: Any) -> list[Any]:
    """The blocks that every token passes in turn, whatever the family calls them."""
    from torch.nn import ModuleList

    depth = model.config.num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, ModuleList) and len(module) == depth]
    return [layer for modules in lists for layer in modules]
