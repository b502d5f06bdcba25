"""Forward passes without gradients: packed losses, prompts after a shared prefix. The ground under generate and score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .attention import no_mask, packed
from .head import hidden_at
from .layouts import Decoding, KeysValues, Rows
from .template import Encoded, Template, TooLong

TOKEN_BUDGET = 2048
# A row of logits is as wide as the vocabulary; more of them at once cost memory and gain no speed.
LOGIT_ROWS = 512


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """No gradients, no dropout; the model's mode is put back afterwards."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        # Not inference_mode: what a model caches in here (rotary tables) may be needed with gradients later.
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train()


def logits_at(model: Any, ids: Sequence[int], layout: Rows | Decoding, keep: Sequence[int]) -> Tensor:
    """[len(keep), V] in fp32: the logits at these places of one packed row."""
    device = next(model.parameters()).device
    out = model(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=layout.position_ids().to(device),
        logits_to_keep=torch.tensor(list(keep), device=device),
        attention_mask=no_mask(device),
        layout=layout,
        use_cache=False,
    )
    return out.logits[0].float()


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share; at least one token of each is left over."""
    if len(prompts) < 2:
        return 0
    low, high = (
        min(map(list, prompts)),
        max(map(list, prompts)),
    )  # what the extremes share, all between them share
    longest = min(len(prompt) for prompt in prompts) - 1
    count = 0
    while count < longest and low[count] == high[count]:
        count += 1
    return count


def compute_prefix(model: Any, ids: Sequence[int]) -> list[KeysValues] | None:
    """Keys and values of a prefix, by layer; None when it is empty."""
    if not ids:
        return None
    rows = Rows([len(ids)], keep=True)
    logits_at(model, ids, rows, [len(ids) - 1])
    assert rows.kept is not None
    return rows.kept[0]


def last_hidden(
    model: Any, template: Template, prompts: Sequence[Sequence[int]], token_budget: int = TOKEN_BUDGET
) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, hidden states [R, h] at each prompt's last token), packed, longest prompts first. Raises TooLong."""
    for prompt in prompts:
        if len(prompt) > template.context:
            raise TooLong(len(prompt), template.context)
    device = next(model.parameters()).device
    for batch in by_length([len(p) for p in prompts], token_budget):
        counts = [len(prompts[i]) for i in batch]
        ids = torch.tensor([[token for i in batch for token in prompts[i]]], device=device)
        ends = torch.tensor(counts, device=device).cumsum(0) - 1
        with answering(model):
            hidden_Rh = hidden_at(model, {"input_ids": ids, **packed(counts, device)}, ends)
        yield batch, hidden_Rh


def by_length(lengths: Sequence[int], budget: int, most: int | None = None) -> Iterator[list[int]]:
    """Indices in batches, longest first, each within the token budget (or a single longer one) and of `most` rows."""
    batch: list[int] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (used + lengths[index] > budget or len(batch) == most):
            yield batch
            batch, used = [], 0
        batch.append(index)
        used += lengths[index]
    if batch:
        yield batch


def sequence_loss(
    model: Any, encoded: Sequence[Encoded], token_budget: int = TOKEN_BUDGET
) -> list[tuple[float, int]]:
    """(sum of -ln p over supervised tokens, how many), for each sequence. Packed; the plain form is one at a time."""
    result = []
    for losses in token_losses(model, encoded, token_budget):
        total = 0.0
        for loss in losses:
            total += loss
        result.append((total, len(losses)))
    return result


def token_losses(
    model: Any, encoded: Sequence[Encoded], token_budget: int = TOKEN_BUDGET
) -> list[list[float]]:
    """-ln p of each supervised token, in order, for each sequence."""
    result: list[list[float]] = [[] for _ in encoded]
    device = next(model.parameters()).device
    with answering(model):
        for batch in by_length([len(e.ids) for e in encoded], token_budget):
            ids = [token for i in batch for token in encoded[i].ids]
            places, owners, at = [], [], 0
            for i in batch:
                told = [j for j in range(1, len(encoded[i].ids)) if encoded[i].supervised[j]]
                places += [at + j - 1 for j in told]
                owners += [i] * len(told)
                at += len(encoded[i].ids)
            if not places:
                continue
            where = torch.tensor(places, device=device)
            hidden_to_keep = {"logits_to_keep": where, "use_cache": False}
            row = torch.tensor([ids], device=device)
            logits = model(
                input_ids=row, **packed([len(encoded[i].ids) for i in batch], device), **hidden_to_keep
            ).logits[0]
            losses = _losses(logits, row[0, where + 1]).tolist()
            for owner, loss in zip(owners, losses, strict=True):
                result[owner].append(loss)
    return result


def _losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """[N] in fp32, in slices so that only a part of the logits is ever held twice."""
    parts = zip(logits_NV.split(LOGIT_ROWS), targets_N.split(LOGIT_ROWS), strict=True)
    return torch.cat([torch.nn.functional.cross_entropy(a.float(), b, reduction="none") for a, b in parts])
