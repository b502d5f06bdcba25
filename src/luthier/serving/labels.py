"""An answer that is one of some labels: choosing, declining and telling, from log-probabilities and without a model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from luthier.serving.engine import Candidate, Chunk, Refused, Request, Token, Usage


def choose(logprobs: Sequence[float], temperature: float, top_p: float, seed: int | None) -> int:
    """The index of the chosen label: the likeliest at temperature 0 (ties: the first), else a seeded draw.

    The draw is from p^(1/temperature), normalised, cut to the smallest set of likeliest labels that holds `top_p`.

    >>> choose([math.log(0.2), math.log(0.7), math.log(0.1)], temperature=0, top_p=1, seed=None)
    1
    """
    order = ranked(logprobs)
    if temperature == 0:
        return order[0]
    highest = logprobs[order[0]]
    weights = [math.exp((logprobs[i] - highest) / temperature) for i in order]
    total = sum(weights)
    kept, held = 0, 0.0
    while kept < len(order) and (kept == 0 or held < top_p * total):
        held += weights[kept]
        kept += 1
    return random.Random(seed).choices(order[:kept], weights[:kept])[0]  # noqa: S311  sampling, not secrecy


def ranked(logprobs: Sequence[float]) -> list[int]:
    """Indices, likeliest first; equals keep their order."""
    return sorted(range(len(logprobs)), key=lambda i: -logprobs[i])


def answer(
    request: Request,
    labels: Sequence[str],
    logprobs: Sequence[float],
    abstain_below: float,
    prompt_tokens: int,
    tokens_of: Callable[[str], int],
) -> Chunk:
    """The only chunk of a constrained answer. `tokens_of` is how many tokens a label takes."""
    candidates = [
        Candidate(label, label.encode(), logp) for label, logp in zip(labels, logprobs, strict=True)
    ]
    order = ranked(logprobs)
    likeliest = candidates[order[0]]
    best = math.exp(likeliest.logprob)
    if best < abstain_below:
        return Chunk(
            "",
            Usage(prompt_tokens, 0),
            finish="stop",
            probability=best,
            refusal=f"No label reached the probability {abstain_below:g}: the likeliest, {likeliest.text!r}, has {best:.2f}.",
        )
    chosen = candidates[choose(logprobs, request.temperature or 0.0, request.top_p, request.seed)]
    tokens: tuple[Token, ...] = ()
    if request.top_logprobs is not None:
        tokens = (Token(chosen, tuple(candidates[i] for i in order[: request.top_logprobs])),)
    usage = Usage(prompt_tokens, tokens_of(chosen.text))
    return Chunk(chosen.text, usage, tokens, "stop", math.exp(chosen.logprob))


def refuse_cutting(request: Request, labels: Sequence[str], tokens_of: Callable[[str], int]) -> None:
    """A label is given whole or not at all: what could cut one is refused. Raises Refused."""
    for stop in request.stop:
        if cut := next((label for label in labels if stop in label), None):
            raise Refused(
                f"The stop text {stop!r} would cut the label {cut!r}.",
                param="stop",
                code="invalid_value",
                remedy="Leave stop out: the answer is always one whole label.",
            )
    longest = max(labels, key=tokens_of)
    if request.max_tokens is not None and request.max_tokens < tokens_of(longest):
        raise Refused(
            f"max_tokens is {request.max_tokens}, and the label {longest!r} takes {tokens_of(longest)} tokens.",
            param="max_tokens",
            code="invalid_value",
            remedy=f"Ask for at least {tokens_of(longest)}, or leave max_tokens out.",
        )
