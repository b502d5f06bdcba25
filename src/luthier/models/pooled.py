"""Vectors of texts from a language model: the mean of its last hidden states over the text's tokens, of length 1.

A model that was trained to write was never trained to make such vectors: near in meaning is often near here, and a model made
for embeddings does better. Not here: embedders that data's rules and the evaluation use (data/embedders).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .attention import packed
from .forward import TOKEN_BUDGET, answering, by_length
from .head import hidden_at
from .template import Template, TooLong


def mean_vectors(
    model: Any,
    template: Template,
    texts: Sequence[Sequence[int]],
    stop: Callable[[], None] = lambda: None,
    token_budget: int = TOKEN_BUDGET,
) -> list[list[float]]:
    """One [h] for each text's token ids, in fp32. `stop` is called before each batch and may raise. Raises TooLong."""
    for ids in texts:
        if len(ids) > template.context:
            raise TooLong(len(ids), template.context)
    device = next(model.parameters()).device
    found: list[list[float]] = [[] for _ in texts]
    for batch in by_length([len(ids) for ids in texts], token_budget):
        stop()
        counts = [len(texts[i]) for i in batch]
        ids_1T = torch.tensor([[token for i in batch for token in texts[i]]], device=device)
        every_T = torch.arange(ids_1T.shape[1], device=device)
        with answering(model):
            hidden_Th = hidden_at(model, {"input_ids": ids_1T, **packed(counts, device)}, every_T).float()
        for i, of_text in zip(batch, hidden_Th.split(counts), strict=True):
            found[i] = torch.nn.functional.normalize(of_text.mean(0), dim=0).tolist()
    return found
