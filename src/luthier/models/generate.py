"""Prompts become answers: one at a time and streamed, or many at once and greedy. Also the door to scores and losses.

    generate(model, template, ids, ...)        a stream of steps, sampled or greedy
    answer(model, template, prompts, n)        greedy, batched; the same answers as one by one
    write(model, template, prompts, n, ...)    the same with how sure each is; several to each prompt, or held to a grammar
    score_choices(model, template, ...)        log-probabilities over given answers          (choices.py)
    sequence_loss(model, encoded)              what the model makes of known answers         (forward.py)

Not here: a server's queue. One call uses one model; callers serialise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from luthier.core.errors import ModelError

from .choices import score_choices, score_freely
from .forward import answering, compute_prefix, logits_at, sequence_loss, shared_prefix
from .grammar import Grammar, Held, vocabulary
from .layouts import Decoding, Rows
from .said import Certain, Step
from .sample import sample
from .template import Template

__all__ = [
    "Step",
    "Written",
    "answer",
    "generate",
    "score_choices",
    "score_freely",
    "sequence_loss",
    "write",
]

# Rows decoded together: more rows share the reading of the weights, until arithmetic is the limit.
ROWS_AT_ONCE = 32


def generate(
    model: Any,
    template: Template,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    logprobs: int = 0,
    grammar: Grammar | None = None,
) -> Iterator[Step]:
    """Answer one prompt, a step per token. temperature 0 is greedy; the same seed gives the same answer.

    Ends at a stop token (told as a last step without text), at a stop sequence (which is not part of the text), at
    `max_tokens`, or when the model's context is full. `grammar`: an answer that ends at a stop token matches it; one that is
    cut is told as "length".
    """
    _check(template, prompt_ids, max_tokens, temperature, top_p)
    room = template.context - len(prompt_ids)
    limit = room if max_tokens is None else min(max_tokens, room)
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    text = Certain(template, stop)
    held = None if grammar is None else Held(grammar, vocabulary(template.tokenizer, template.end_ids))
    rows = Rows([len(prompt_ids)], keep=True)
    with answering(model):
        logits = logits_at(model, prompt_ids, rows, [len(prompt_ids) - 1])[0].cpu()
    decoding = Decoding(rows, limit)
    for count in range(1, limit + 1):
        token = _choose(logits if held is None else held.masked(logits), temperature, top_p, generator)
        logp, top = _told(logits, token, logprobs)
        if held is not None:
            held.take(token)
        if token in template.end_ids:
            yield Step(token, text.finish(), logp, top, "stop")
            return
        delta, stopped = text.add(token)
        if stopped or count == limit:
            yield Step(
                token, delta if stopped else delta + text.finish(), logp, top, "stop" if stopped else "length"
            )
            return
        yield Step(token, delta, logp, top)
        with answering(model):
            logits = logits_at(model, [token], decoding, [0])[0].cpu()
            decoding.advance()


def answer(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    rows_at_once: int = ROWS_AT_ONCE,
) -> list[str]:
    """The greedy answer to each prompt, as text without control tokens. A prefix that all share is computed once."""
    for ids in prompts:
        _check(template, ids, max_tokens, 0.0, 1.0)
    answers: list[list[int]] = [[] for _ in prompts]
    shared = shared_prefix(prompts)
    with answering(model):
        prefix = compute_prefix(model, prompts[0][:shared]) if shared else None
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        for begin in range(0, len(order), rows_at_once):
            _answer_rows(
                model,
                template,
                prompts,
                order[begin : begin + rows_at_once],
                prefix,
                shared,
                max_tokens,
                answers,
            )
    return [template.decode(ids) for ids in answers]


@dataclass(frozen=True)
class Written:
    """One answer: its text without control tokens, the mean of ln p over its tokens (the one that ends it included) under the
    model itself, and how it ended."""

    text: str
    logprob: float
    tokens: int
    finish: Literal["stop", "length"]

    @property
    def sure(self) -> float:
        """The geometric mean of its tokens' probabilities, 0 to 1."""
        return math.exp(self.logprob)


def write(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    copies: int = 1,
    temperature: float = 0.0,
    draws_PGN: np.ndarray | None = None,
    grammar: Grammar | None = None,
) -> list[list[Written]]:
    """`copies` answers to each prompt; `draws_PGN` [prompts, copies, max_tokens] and `grammar` as in `sample.sample`."""
    for ids in prompts:
        _check(template, ids, max_tokens, temperature, 1.0)
    found = sample(
        model,
        template,
        prompts,
        copies,
        max_tokens,
        temperature=temperature,
        draws_PGN=draws_PGN,
        grammar=grammar,
        told=True,
    )
    return [[_written(template, one.ids, one.logprob or 0.0, one.finished) for one in mine] for mine in found]


def _written(template: Template, ids: Sequence[int], logprob: float, finished: bool) -> Written:
    text = template.decode(ids[:-1] if finished else ids)
    return Written(text, logprob / max(1, len(ids)), len(ids), "stop" if finished else "length")


def _answer_rows(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    batch: list[int],
    prefix: Any,
    shared: int,
    max_tokens: int,
    answers: list[list[int]],
) -> None:
    """Fill `answers` for the rows of one batch; rows that are done leave the batch."""
    own = [prompts[i][shared:] for i in batch]
    rows = Rows([len(ids) for ids in own], prefix=prefix, keep=True)
    ends = torch.tensor([len(ids) for ids in own]).cumsum(0) - 1
    logits = logits_at(model, [token for ids in own for token in ids], rows, ends.tolist())
    room = {i: min(max_tokens, template.context - len(prompts[i])) for i in batch}
    decoding = Decoding(rows, max(room.values()))
    alive = list(batch)
    while alive:
        tokens = logits.argmax(-1).tolist()
        going = []
        for place, (i, token) in enumerate(zip(alive, tokens, strict=True)):
            if token in template.end_ids:
                continue
            answers[i].append(token)
            if len(answers[i]) < room[i]:
                going.append(place)
        alive, tokens = [alive[place] for place in going], [tokens[place] for place in going]
        if alive:
            decoding.keep_rows(going)
            logits = logits_at(model, tokens, decoding, range(len(alive)))
            decoding.advance()


def _check(
    template: Template, ids: Sequence[int], max_tokens: int | None, temperature: float, top_p: float
) -> None:
    if not ids:
        raise ModelError("the prompt is empty.", remedy="Give at least one message.")
    if len(ids) >= template.context:
        raise ModelError(
            f"the prompt has {len(ids):,} tokens and the model's context holds {template.context:,}, answer included.",
            remedy="Shorten the prompt.",
        )
    if max_tokens is not None and max_tokens < 1:
        raise ModelError(f"max_tokens = {max_tokens} leaves no answer.", remedy="Ask for at least 1.")
    if not 0 <= temperature <= 100 or not 0 < top_p <= 1:
        raise ModelError(
            f"temperature = {temperature}, top_p = {top_p} cannot be sampled.",
            remedy="temperature is 0 or more, top_p is above 0 and at most 1.",
        )


def _choose(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    # before they are divided, since a very small temperature makes them infinite
    above_V = logits_V.double() - logits_V.max()
    shares = torch.softmax(above_V / temperature, -1)
    if top_p < 1:
        ordered, order = shares.sort(descending=True, stable=True)
        # Kept: the fewest likeliest tokens that reach top_p (Holtzman et al. 2020), at least one.
        outside = ordered.cumsum(-1) - ordered >= top_p
        shares[order[outside]] = 0
    return int(torch.multinomial(shares, 1, generator=generator))


def _told(logits_V: Tensor, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    logp = torch.log_softmax(logits_V, -1)
    if not count:
        return float(logp[token]), ()
    best = logp.topk(min(count, len(logp)))
    return float(logp[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
