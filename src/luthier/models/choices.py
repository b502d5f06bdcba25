"""Which of these answers, and how sure? Every row costs one pass: its prompt, then a tree of all answers' tokens.

The log-probability of an answer is the sum over its tokens, the token that ends the turn included (so "GPL" is not
favoured over "GPL-2.0" for being its beginning), then normalised over the given answers. The plain form, one answer
at a time, is `score_plainly`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError

from .forward import (
    TOKEN_BUDGET,
    answering,
    by_length,
    compute_prefix,
    last_hidden,
    logits_at,
    sequence_loss,
    shared_prefix,
)
from .head import Head, head_of, label_scores
from .layouts import KeysValues, Rows, Tree
from .template import Encoded, Template, TooLong

# Places whose logits are held at once, each as wide as the vocabulary.
PLACES_AT_ONCE = 1024


@dataclass(frozen=True)
class Trie:
    """Every answer is a path. Steps are (place, token): at place 0 the prompt has ended, at place i+1 node i.

    `tree` holds only nodes with something after them: the last token of an answer is scored, never read.
    """

    tree: Tree
    steps: tuple[tuple[int, int], ...]  # every edge once
    paths: tuple[tuple[int, ...], ...]  # per answer, indices into `steps`


def build_trie(answers: Sequence[Sequence[int]]) -> Trie:
    """
    >>> trie = build_trie([[5, 6, 9], [5, 9]])
    >>> trie.tree.tokens, trie.tree.parents
    ((5, 6), (None, 0))
    >>> trie.steps, trie.paths
    (((0, 5), (1, 6), (2, 9), (1, 9)), ((0, 1, 2), (0, 3)))
    """
    nodes: dict[tuple[int, ...], int] = {}
    edges: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int | None] = []
    paths = []
    for answer in answers:
        place, path = 0, []
        for depth, token in enumerate(answer):
            path.append(edges.setdefault((place, token), len(edges)))
            if depth == len(answer) - 1:
                break
            key = tuple(answer[: depth + 1])
            if key not in nodes:
                nodes[key] = len(tokens)
                tokens.append(token)
                parents.append(place - 1 if place else None)
            place = nodes[key] + 1
        paths.append(tuple(path))
    return Trie(Tree(tuple(tokens), tuple(parents)), tuple(edges), tuple(paths))


def score_choices(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[str],
    *,
    token_budget: int = TOKEN_BUDGET,
) -> list[list[float]]:
    """ln p(choice | prompt, one of the choices), in the order of `choices`, for each prompt.

    Raises ModelError for repeated choices, TooLong for a prompt that leaves no room for the longest of them.
    """
    rows = score_freely(model, template, prompts, choices, token_budget=token_budget)
    return [torch.tensor(row, dtype=torch.float64).log_softmax(-1).tolist() for row in rows]


def score_freely(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[str],
    *,
    token_budget: int = TOKEN_BUDGET,
) -> list[list[float]]:
    """ln p(choice | prompt) among all that the model could say, so these shares do not add up to one: minus the loss.

    A prefix that all prompts share is computed once. A model with a head of its own scores with that instead. Raises as
    `score_choices`.
    """
    if (head := head_of(model)) is not None:
        return _score_by_head(model, head, template, prompts, choices, token_budget)
    answers = _answers(template, prompts, choices)
    trie = build_trie(answers)
    nodes = len(trie.tree.tokens)
    shared = shared_prefix(prompts)
    result: list[list[float]] = [[] for _ in prompts]
    most = max(1, PLACES_AT_ONCE // (nodes + 1))
    with answering(model):
        prefix = compute_prefix(model, prompts[0][:shared]) if shared else None
        for batch in by_length([len(p) - shared + nodes for p in prompts], token_budget, most):
            scores = _score_batch(model, [prompts[i][shared:] for i in batch], trie, prefix)
            for i, row in zip(batch, scores.tolist(), strict=True):
                result[i] = row
    return result


def _score_by_head(
    model: Any,
    head: Head,
    template: Template,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[str],
    budget: int,
) -> list[list[float]]:
    """The head looks at each prompt's last token."""
    result: list[list[float]] = [[] for _ in prompts]
    for batch, hidden_Rh in last_hidden(model, template, prompts, budget):
        for i, row in zip(batch, label_scores(head, hidden_Rh, choices).detach().tolist(), strict=True):
            result[i] = row
    return result


def _score_batch(
    model: Any, prompts: Sequence[Sequence[int]], trie: Trie, prefix: list[KeysValues] | None
) -> Tensor:
    """[R, choices]: the sum of ln p along each path."""
    steps_RE, _ = steps(model, prompts, trie, prefix)
    return torch.stack([steps_RE[:, list(path)].sum(-1) for path in trie.paths], -1).double()


def steps(
    model: Any, prompts: Sequence[Sequence[int]], trie: Trie, prefix: list[KeysValues] | None
) -> tuple[Tensor, Tensor]:
    """ln p of every step [R, E], and whether its token is the likeliest there [R, E]."""
    nodes = len(trie.tree.tokens)
    ids: list[int] = []
    keep: list[int] = []
    for prompt in prompts:
        keep += range(len(ids) + len(prompt) - 1, len(ids) + len(prompt) + nodes)
        ids += [*prompt, *trie.tree.tokens]
    layout = Rows([len(p) + nodes for p in prompts], prefix=prefix, tree=trie.tree)
    logits_RPV = logits_at(model, ids, layout, keep).unflatten(0, (len(prompts), nodes + 1))
    places, tokens = torch.tensor(trie.steps, device=logits_RPV.device).T
    normal_RP = torch.logsumexp(logits_RPV, -1)
    told_RE = logits_RPV[:, places, tokens] - normal_RP[:, places]
    return told_RE, logits_RPV.argmax(-1)[:, places] == tokens


def score_plainly(
    model: Any, template: Template, prompts: Sequence[Sequence[int]], choices: Sequence[str]
) -> list[list[float]]:
    """The same, one prompt and one choice at a time, without any sharing: what `score_choices` must equal."""
    answers = _answers(template, prompts, choices)
    result = []
    for prompt in prompts:
        rows = [Encoded([*prompt, *a], [False] * len(prompt) + [True] * len(a)) for a in answers]
        scores = torch.tensor([-sequence_loss(model, [row])[0][0] for row in rows], dtype=torch.float64)
        result.append(scores.log_softmax(-1).tolist())
    return result


def _answers(template: Template, prompts: Sequence[Sequence[int]], choices: Sequence[str]) -> list[list[int]]:
    answers = answers_of(template, choices)
    longest = max(map(len, answers))
    for prompt in prompts:
        if len(prompt) + longest - 1 > template.context:
            raise TooLong(len(prompt) + longest - 1, template.context)
    return answers


def answers_of(template: Template, choices: Sequence[str]) -> list[list[int]]:
    """The tokens of each. Raises ModelError where there are none, or two are the same tokens."""
    if not choices:
        raise ModelError("there is nothing to choose from.", remedy="Give at least one label.")
    answers = [template.answer(choice) for choice in choices]
    seen: dict[tuple[int, ...], str] = {}
    for choice, answer in zip(choices, answers, strict=True):
        other = seen.get(tuple(answer))
        if other is not None:
            raise ModelError(
                f"the labels {other!r} and {choice!r} are the same tokens to this model.",
                remedy="Write them so that the model's chat template tells them apart.",
            )
        seen[tuple(answer)] = choice
    return answers
