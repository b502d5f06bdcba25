"""The two things that benchmarks ask of a language model: what it makes of given continuations, and what it writes until
a given text. On tokens; a head of the model's own is not asked.

    likelihoods(model, prompts, continuations)    (ln p, is it what the model itself would say), batched
    answer_until(model, template, prompts, n, stop)    greedy text, batched; a row that is done leaves the batch

Not here: where the tokens of a prompt come from, and what a benchmark makes of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from luthier.core.errors import ModelError

from .choices import PLACES_AT_ONCE, build_trie, steps
from .forward import TOKEN_BUDGET, answering, by_length, compute_prefix, logits_at, shared_prefix
from .layouts import Decoding, Rows
from .template import Template

ROWS_AT_ONCE = 32


def likelihoods(
    model: Any,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    token_budget: int = TOKEN_BUDGET,
) -> list[list[tuple[float, bool]]]:
    """For each prompt, (ln p, greedy) of every continuation: the sum over its tokens, and whether each of them is the
    likeliest at its place. A prefix that all prompts share is computed once. Raises ModelError for what is empty.

    Sums that are compared have the same rounding only in the same batch: in bf16 they differ by 1e-2 between batches.
    """
    if not all(prompts) or not all(continuations):
        raise ModelError(
            "a prompt or a continuation has no token.", remedy="Give each of them at least one character."
        )
    trie = build_trie(continuations)
    nodes = len(trie.tree.tokens)
    shared = shared_prefix(prompts)
    found: list[list[tuple[float, bool]]] = [[] for _ in prompts]
    most = max(1, PLACES_AT_ONCE // (nodes + 1))
    with answering(model):
        prefix = compute_prefix(model, prompts[0][:shared]) if shared else None
        for batch in by_length([len(p) - shared + nodes for p in prompts], token_budget, most):
            told_RE, first_RE = steps(model, [prompts[i][shared:] for i in batch], trie, prefix)
            paths = [list(path) for path in trie.paths]
            sums_RC = torch.stack([told_RE[:, path].double().sum(-1) for path in paths], -1).tolist()
            greedy_RC = torch.stack([first_RE[:, path].all(-1) for path in paths], -1).tolist()
            for i, sums, greedy in zip(batch, sums_RC, greedy_RC, strict=True):
                found[i] = list(zip(sums, greedy, strict=True))
    return found


def answer_until(
    model: Any, template: Template, prompts: Sequence[Sequence[int]], max_tokens: int, stop: Sequence[str]
) -> list[str]:
    """The greedy answer to each prompt, cut before the first of `stop`. It ends there, at a token that ends a turn, at
    `max_tokens` or where the context is full; every prompt must leave room for one token."""
    answers = [""] * len(prompts)
    shared = shared_prefix(prompts)
    with answering(model):
        prefix = compute_prefix(model, prompts[0][:shared]) if shared else None
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        for begin in range(0, len(order), ROWS_AT_ONCE):
            batch = order[begin : begin + ROWS_AT_ONCE]
            own = [prompts[i][shared:] for i in batch]
            room = [min(max_tokens, template.context - len(prompts[i])) for i in batch]
            for i, text in zip(batch, _decode(model, template, own, prefix, room, stop), strict=True):
                answers[i] = text
    return answers


def _decode(
    model: Any, template: Template, own: Sequence[Sequence[int]], prefix: Any, room: Sequence[int], stop: Sequence[str]
) -> list[str]:  # fmt: skip
    rows = Rows([len(ids) for ids in own], prefix=prefix, keep=True)
    ends = torch.tensor([len(ids) for ids in own]).cumsum(0) - 1
    logits = logits_at(model, [token for ids in own for token in ids], rows, ends.tolist())
    decoding = Decoding(rows, max(room))
    said: list[list[int]] = [[] for _ in own]
    texts = [""] * len(own)
    alive = list(range(len(own)))
    while alive:
        tokens = logits.argmax(-1).tolist()
        going = []
        for place, (row, token) in enumerate(zip(alive, tokens, strict=True)):
            if token in template.end_ids:
                continue
            said[row].append(token)
            texts[row] = template.decode(said[row])
            if len(said[row]) < room[row] and not any(one in texts[row] for one in stop):
                going.append(place)
        alive, tokens = [alive[place] for place in going], [tokens[place] for place in going]
        if alive:
            decoding.keep_rows(going)
            logits = logits_at(model, tokens, decoding, range(len(alive)))
            decoding.advance()
    return [before(text, stop) for text in texts]


def before(text: str, stop: Sequence[str]) -> str:
    """What stands before the first of these texts.

    >>> before("Paris.\\n\\nQ: next", ["\\n\\n", "Q:"]), before("Paris", ["\\n"])
    ('Paris.', 'Paris')
    """
    found = [at for one in stop if one and (at := text.find(one)) >= 0]
    return text[: min(found)] if found else text
