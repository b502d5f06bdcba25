"""The plain engine: a model folder in this process, one answer at a time, with a KV cache.

It asks exactly as training did: the model's own template, and the package's instruction put where `prepare` puts it
if the conversation has no system message of its own. It is not the fast engine: two requests never share a batch.

A package constrained to labels answers with a whole label. `Chunk.tokens` then has one entry, the label, with its
log-probability among the labels, and the likeliest other labels as alternatives: their exponentials sum to one.
A model with a regression head answers with its number, as text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.units import plain_number
from luthier.models.spec import Dtype
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
from luthier.serving.labels import answer, refuse_cutting, tempered
from luthier.serving.package import PackageFacts, instructed, read_facts


class TransformersEngine:
    """`base_folder` is a whole model; `adapter_folder` an adapter on it, whose facts then count.

    `facts` overrides what the folder says, for a model that was never packaged. `longest_answer` bounds, in tokens, an
    answer for which the request gives no bound; reaching it shows as finish "length".
    """

    slots = 1

    def __init__(
        self,
        base_folder: Path,
        adapter_folder: Path | None = None,
        *,
        facts: PackageFacts | None = None,
        dtype: Dtype = "fp32",
        device: str = "cpu",
        longest_answer: int = 1024,
    ) -> None:
        self._base_folder = base_folder
        self._adapter_folder = adapter_folder
        self._dtype = dtype
        self._device = device
        self._longest_answer = longest_answer
        self.facts = facts or read_facts(adapter_folder or base_folder)
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
            labels = self._labels(request)
            prompt_ids = self._prompt(request.messages, request.max_tokens, instruct=request.instruct)
            self._unwanted = unwanted
            try:
                if labels:
                    yield self._label(request, labels, prompt_ids)
                elif self._gives_number:
                    yield self._number(prompt_ids)
                else:
                    yield from self._text(request, prompt_ids)
            finally:
                self._unwanted = always_wanted

    def score(self, messages: tuple[Message, ...], labels: tuple[str, ...]) -> tuple[float, ...]:
        with self._lock:
            self._must_be_ready()
            return self._score(self._prompt(messages, None, instruct=True), labels)

    def _must_be_ready(self) -> None:
        if self._model is None:
            raise Unavailable("The model is not loaded.", remedy="Load it, or wait until it is ready.")

    def _labels(self, request: Request) -> tuple[str, ...]:
        if request.constrain is not None:
            return request.constrain
        return (self.facts.labels or ()) if self.facts.constrain else ()

    def _prompt(self, messages: tuple[Message, ...], max_tokens: int | None, *, instruct: bool) -> list[int]:
        from luthier.models.template import TooLong

        asked = instructed(messages, self.facts) if instruct else messages
        try:
            prompt_ids: list[int] = self._template.prompt([message.plain() for message in asked])
        except TooLong as error:  # counts one token of answer in
            raise ContextLengthExceeded(error.tokens - 1, max_tokens, error.limit) from None
        except ModelError as error:
            message = f"{error.message[0].upper()}{error.message[1:]}"
            raise Refused(message, param="messages", code="invalid_messages", remedy=error.remedy) from None
        context: int = self._template.context
        if len(prompt_ids) + (max_tokens or 1) > context:
            raise ContextLengthExceeded(len(prompt_ids), max_tokens, context)
        return prompt_ids

    def _text(self, request: Request, prompt_ids: list[int]) -> Generator[Chunk, None, None]:
        from luthier.models.generate import generate

        greedy = request.top_p == 0  # the smallest nucleus is the likeliest token
        steps = generate(
            self._model,
            self._template,
            prompt_ids,
            max_tokens=request.max_tokens or self._longest_answer,
            temperature=0.0 if greedy else 1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if greedy else request.top_p,
            seed=request.seed,
            stop=request.stop,
            logprobs=request.top_logprobs or 0,
        )
        for count, step in enumerate(steps, 1):
            told = request.top_logprobs is not None and step.token_id not in self._template.end_ids
            tokens = (self._token(step.token_id, step.logprob, step.top),) if told else ()
            yield Chunk(step.text_delta, Usage(len(prompt_ids), count), tokens, step.finish)

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
        bar = self.facts.abstain_below if request.abstain_below is None else request.abstain_below
        logprobs: Sequence[float] = self._score(prompt_ids, labels)
        if labels == self.facts.labels and self.facts.temperature != 1.0:
            logprobs = tempered(logprobs, self.facts.temperature)
        return answer(request, labels, logprobs, bar or 0.0, len(prompt_ids), tokens_of)


def _layers(model: Any) -> list[Any]:
    """The blocks that every token passes in turn, whatever the family calls them."""
    from torch.nn import ModuleList

    depth = model.config.num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, ModuleList) and len(module) == depth]
    return [layer for modules in lists for layer in modules]
