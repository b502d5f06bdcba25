"""Several answers to each of many prompts, drawn or greedy, as tokens: what a model that learns from its own writing
writes. A prompt is computed once for all of its answers, and what all prompts begin with once for all of them.

    sample(model, template, prompts, copies, ...)    [prompt][copy] -> Sampled

A token follows from its prompt, the weights and the numbers given for it alone, and not from what is drawn beside it
(up to rounding). Not here: text, streams, stop sequences (generate.py).

Legend: P prompts, G copies, B answers in the making, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .forward import answering, compute_prefix, logits_at, shared_prefix
from .grammar import Grammar, Held, vocabulary
from .layouts import Decoding, Rows
from .template import Template, TooLong

ANSWERS_AT_ONCE = 64


@dataclass(frozen=True)
class Sampled:
    """The tokens of one answer; where it is finished, the last one is the token that ends it. `logprob`: the sum of ln p over
    these tokens under the model itself, before temperature and grammar; None where it was not asked for."""

    ids: list[int]
    finished: bool
    logprob: float | None = None


def sample(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    copies: int,
    max_tokens: int,
    *,
    temperature: float = 0.0,
    draws_PGN: np.ndarray | None = None,
    answers_at_once: int = ANSWERS_AT_ONCE,
    grammar: Grammar | None = None,
    told: bool = False,
) -> list[list[Sampled]]:
    """`copies` answers to each prompt, each of at most `max_tokens` tokens and within the context.

    `draws_PGN` [P, G, max_tokens] are numbers in [0, 1): token n of answer g is the first whose cumulated probability
    exceeds its number. Temperature 0 is greedy and needs none. `grammar`: every answer that is finished matches it; `told`:
    with log-probabilities. Raises TooLong.
    """
    for prompt in prompts:
        if len(prompt) >= template.context:
            raise TooLong(len(prompt) + 1, template.context)
    found: list[list[Sampled]] = [[] for _ in prompts]
    shared = shared_prefix(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    at_once = max(1, answers_at_once // copies)
    with answering(model):
        prefix = compute_prefix(model, prompts[0][:shared]) if shared else None
        for begin in range(0, len(order), at_once):
            batch = order[begin : begin + at_once]
            rows = Rows([len(prompts[i]) - shared for i in batch], prefix=prefix, keep=True)
            ends = np.cumsum(rows.counts) - 1
            logits_PV = logits_at(model, [t for i in batch for t in prompts[i][shared:]], rows, ends.tolist())
            room = [min(max_tokens, template.context - len(prompts[i])) for i in batch for _ in range(copies)]
            draws = None if draws_PGN is None else draws_PGN[batch].reshape(-1, draws_PGN.shape[-1])
            made = _Making(template, _fanned(rows, copies), room, temperature, draws, grammar, told)
            made.run(model, logits_PV.repeat_interleave(copies, 0))
            for place, i in enumerate(batch):
                found[i] = made.answers[place * copies : (place + 1) * copies]
    return found


def _fanned(rows: Rows, copies: int) -> Rows:
    """The same rows, each `copies` times; their keys and values are shared until they are laid out for decoding."""
    assert rows.kept is not None
    many = Rows([n for n in rows.counts for _ in range(copies)], prefix=rows.prefix, keep=True)
    many.kept = [kept for kept in rows.kept for _ in range(copies)]
    return many


class _Making:
    """Answers that grow by one token a pass; those that are done leave the batch."""

    def __init__(
        self,
        template: Template,
        rows: Rows,
        room: list[int],
        temperature: float,
        draws_BN: np.ndarray | None,
        grammar: Grammar | None = None,
        told: bool = False,
    ) -> None:
        self.template, self.room, self.temperature = template, room, temperature
        self.draws_BN = draws_BN
        self.decoding = Decoding(rows, max(room))
        self.ids: list[list[int]] = [[] for _ in room]
        self.finished = [False] * len(room)
        self.logprobs: list[float] | None = [0.0] * len(room) if told else None
        self.held: list[Held] | None = None
        if grammar is not None:
            words = vocabulary(template.tokenizer, template.end_ids)
            self.held = [Held(grammar, words) for _ in room]

    @property
    def answers(self) -> list[Sampled]:
        told: list[float | None] = [None] * len(self.ids) if self.logprobs is None else [*self.logprobs]
        return [Sampled(*one) for one in zip(self.ids, self.finished, told, strict=True)]

    def run(self, model: Any, logits_BV: Tensor) -> None:
        alive, step = list(range(len(self.room))), 0
        while alive:
            tokens = self._choose(logits_BV, alive, step)
            going = []
            for place, (b, token) in enumerate(zip(alive, tokens, strict=True)):
                self.ids[b].append(token)
                if self.held is not None:
                    self.held[b].take(token)
                self.finished[b] = token in self.template.end_ids
                if not self.finished[b] and len(self.ids[b]) < self.room[b]:
                    going.append(place)
            alive, tokens, step = [alive[p] for p in going], [tokens[p] for p in going], step + 1
            if alive:
                self.decoding.keep_rows(going)
                logits_BV = logits_at(model, tokens, self.decoding, range(len(alive)))
                self.decoding.advance()

    def _choose(self, logits_BV: Tensor, alive: list[int], step: int) -> list[int]:
        plain_BV = logits_BV
        if self.held is not None:
            rows = [self.held[b].masked(row_V) for b, row_V in zip(alive, logits_BV, strict=True)]
            logits_BV = torch.stack(rows)
        tokens = self._drawn(logits_BV, alive, step)
        if self.logprobs is not None:
            logp_BV = torch.log_softmax(plain_BV.float(), -1)
            for place, (b, token) in enumerate(zip(alive, tokens, strict=True)):
                self.logprobs[b] += float(logp_BV[place, token])
        return tokens

    def _drawn(self, logits_BV: Tensor, alive: list[int], step: int) -> list[int]:
        if self.temperature == 0:
            return [int(token) for token in logits_BV.argmax(-1)]
        assert self.draws_BN is not None
        numbers_B = torch.from_numpy(self.draws_BN[alive, step].astype(np.float64)).to(logits_BV.device)
        return [int(token) for token in drawn(logits_BV, self.temperature, numbers_B)]


def drawn(logits_BV: Tensor, temperature: float, numbers_B: Tensor) -> Tensor:
    """[B]: by inversion, the first token whose cumulated share exceeds the row's number in [0, 1)."""
    shares_BV = torch.softmax(logits_BV.double() / temperature, -1).cumsum(-1)
    wanted_B1 = (numbers_B * shares_BV[:, -1])[:, None]
    found_B = torch.searchsorted(shares_BV, wanted_B1, right=True)[:, 0]
    # Rounding may put a number at the very end of the last share.
    return found_B.clamp(max=logits_BV.shape[-1] - 1)
