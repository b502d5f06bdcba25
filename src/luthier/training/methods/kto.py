"""Kahneman-Tversky optimisation: single answers with thumbs up or down. An answer's gain over the reference is judged
against what the model gains on average, z₀, with a value that is flat far from it on either side (Ethayarajh et al.
2024, "KTO: Model Alignment as Prospect Theoretic Optimization", equations 7 and 8).

z₀ estimates the divergence from the reference with answers that belong to other prompts (their section 4.2): every row
has a mate, the next row of its split by id, whose answer is put after the row's own prompt. It is computed once for the
whole step, before that is cut into micro-batches, from the mean over the step's rows, and carries no gradient. A mate's
answer is cut where the two would be longer than the context: it only measures, and is not learnt.

Legend: R rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from luthier.core.errors import DataError
from luthier.training.method import Example, Loss, Method, MethodSettings, Work
from luthier.training.rows import Row, Tokens

from .preference import last_answer, need_answer
from .reference import Sums, answer_logprobs, reference_logprobs

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.template import Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Rows


class KtoSettings(MethodSettings):
    """Of `kto`."""

    beta: float = Field(default=0.1, gt=0, le=100)
    """How strongly the model is held to where it started, and how soon a gain counts as large."""
    desirable: float = Field(default=1.0, gt=0, le=100)
    """What a thumbs-up row counts; raise it where there are few of them."""
    undesirable: float = Field(default=1.0, gt=0, le=100)
    """What a thumbs-down row counts; raise it where there are few of them."""


def kto_losses(
    logprobs_N: Tensor, reference_N: Tensor, good_N: Tensor, z0: Tensor, beta: float, up: float, down: float
) -> Tensor:
    """λ·(1 - v) with v = σ(β·(r - z₀)) for good answers and σ(β·(z₀ - r)) for bad ones, r = ln p - ln p_ref, [N]."""
    import torch

    gain_N = beta * (logprobs_N - reference_N - z0)
    return torch.where(good_N, up * torch.sigmoid(-gain_N), down * torch.sigmoid(gain_N))


def kl_estimate(logprobs: Sequence[float], reference: Sequence[float], weights: Sequence[float]) -> float:
    """z₀ = max(0, mean of ln p - ln p_ref over mismatched answers), in nats."""
    gained = np.subtract(logprobs, reference)
    return max(0.0, float(np.average(gained, weights=weights)))


@dataclass(frozen=True)
class Rated(Row):
    """A row with its step's z₀, in nats."""

    z0: float = 0.0


@dataclass(frozen=True)
class Thumbs:
    """Answers with what the reference makes of them, whether they are good, and z₀ of their step, [R] each."""

    packed: Packed
    reference_R: Tensor
    good_R: Tensor
    z0_R: Tensor
    weights_R: Tensor

    @property
    def tokens(self) -> int:
        return self.packed.tokens

    @property
    def supervised(self) -> int:
        return self.packed.supervised

    @property
    def row_weights(self) -> Sequence[float]:
        return self.packed.row_weights

    def to(self, device: Any) -> Thumbs:
        return Thumbs(**{name: value.to(device) for name, value in vars(self).items()})


class Kto(Method):
    """Single answers rated 1 or 0, against the model before its first step; needs a rating in every row (`map.rating`). What is
    learnt is never cut; another row's answer, which z₀ is estimated with, is where prompt and answer are longer than the
    context."""

    reads = ("rating",)
    figures = ("loss", "accuracy", "kl")
    unit = "lost value per answer"

    spec = KtoSettings

    def __init__(self, settings: KtoSettings) -> None:
        self.settings = settings
        self.sums: Sums = {}  # of each row: its own answer, its mate's answer
        self.splits: Mapping[str, Rows] = {}
        self.work: Work | None = None

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        messages, rating = need_answer(record, "kto"), record.get("rating")
        if rating is None or rating not in (0.0, 1.0):
            told = "no rating" if rating is None else f"the rating {rating:g}"
            raise DataError(
                f"`kto` learns from answers rated 1 (good) or 0 (bad), and this row has {told}.",
                remedy="Map a column of ones and zeros, or of true and false (map.rating).",
            )
        return Example([last_answer(messages, template)], signal=float(rating))

    def prepare(self, model: Any, splits: Mapping[str, Rows], work: Work) -> None:
        self.splits, self.work = splits, work
        self.sums = reference_logprobs(
            model, splits, work, lambda row: (*row.sequences, self.mismatched(row)), "own and mate's answer"
        )

    def mismatched(self, row: Row) -> Tokens:
        """The answer of the row's mate after the row's own prompt, cut where it would be longer than the context."""
        assert self.work is not None
        for rows in self.splits.values():
            at = bisect_left(rows.names, row.id)
            if at < len(rows) and rows.names[at] == row.id:
                mate = rows[(at + 1) % len(rows)]
                return spliced(row.sequences[0], mate.sequences[0], self.work.template.context)
        raise KeyError(row.id)

    def unfold(self, model: Any, rows: Sequence[Row], seed: int) -> Sequence[Row]:
        """The same rows, with the z₀ that the model as it now is has on all of them."""
        assert self.work is not None
        now = answer_logprobs(model, [[self.mismatched(row)] for row in rows], self.work)
        before = [self.sums[row.id][1] for row in rows]
        z0 = kl_estimate([one for (one,) in now], before, [row.weight for row in rows])
        return [Rated(**vars(row), z0=z0) for row in rows]

    def collate(self, rows: Sequence[Row]) -> Thumbs:
        import torch

        from luthier.training.packing import pack_sequences

        weights = [row.weight for row in rows]
        return Thumbs(
            pack_sequences([row.sequences[0] for row in rows], weights, weights, share=self.share),
            torch.tensor([self.sums[row.id][0] for row in rows]),
            torch.tensor([row.signal == 1.0 for row in rows]),
            torch.tensor([row.z0 if isinstance(row, Rated) else 0.0 for row in rows]),
            torch.tensor(weights),
        )

    def loss(self, model: Any, batch: Thumbs) -> Loss:
        """Metrics: how often a good answer has gained more than z₀ and a bad one less (`accuracy`), and z₀ (`kl`)."""
        from luthier.models.losses import token_logprobs

        packed, wish = batch.packed, self.settings
        logprobs_S = token_logprobs(model, packed.inputs, packed.keep, packed.targets)
        logprobs_R = packed.per_sequence(logprobs_S)
        told = (logprobs_R, batch.reference_R, batch.good_R, batch.z0_R)
        losses_R = kto_losses(*told, wish.beta, wish.desirable, wish.undesirable) * batch.weights_R
        gained_R = logprobs_R.detach() - batch.reference_R > batch.z0_R
        metrics = {
            "accuracy": float(((gained_R == batch.good_R) * batch.weights_R).sum()),
            "kl": float((batch.z0_R * batch.weights_R).sum()),
        }
        return Loss(losses_R.sum(), losses_R.detach(), metrics)


def spliced(own: Tokens, mate: Tokens, limit: int) -> Tokens:
    """The mate's answer after the own prompt, at most `limit` tokens; at least one token of the answer stays."""
    prompt = own.ids[: int(np.flatnonzero(own.supervised)[0])][: limit - 1]
    told = np.flatnonzero(mate.supervised)
    answer = mate.ids[told[0] : told[-1] + 1][: limit - len(prompt)]
    supervised = np.arange(len(prompt) + len(answer)) >= len(prompt)
    return Tokens(np.concatenate([prompt, answer]), supervised)
