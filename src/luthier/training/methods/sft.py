"""Supervised fine-tuning: learn to say the supervised tokens (Ouyang et al. 2022, section 3.5, first step).

A conversation's assistant turns are supervised, each up to the token that ends it, in one pass over the whole
conversation, or its last one alone; of a plain text (continued pre-training) every token but the first is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from luthier.training.method import Example, Loss, Method, MethodSettings

if TYPE_CHECKING:
    from luthier.models.template import Encoded, Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Row


class SftSettings(MethodSettings):
    """Of `sft`."""

    turns: Literal["all", "last"] = "all"
    """Which of a conversation's answers are learnt: all of them, or the last one alone, for rows that are each the way to one answer."""

    @model_serializer(mode="wrap")
    def _as_before(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models that learnt all turns keep the identity they had before there was another way."""
        told: dict[str, Any] = standard(self)
        return {name: value for name, value in told.items() if value != "all"}


class Sft(Method):
    """Cross-entropy of supervised tokens, each times its row's weight."""

    spec = SftSettings
    figures = ("loss", "token_accuracy")
    reads = ("tools",)

    def __init__(self, settings: SftSettings) -> None:
        self.settings = settings

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        from luthier.data.tools import said

        text = record["text"]
        if text is not None:
            return Example([template.encode_text(text)])
        encoded = template.encode(*said(record))
        return Example([encoded if self.settings.turns == "all" else last_answer(encoded)])

    def collate(self, rows: Sequence[Row]) -> Packed:
        from luthier.training.packing import pack_rows

        return pack_rows(rows, share=self.share)

    def loss(self, model: Any, batch: Packed) -> Loss:
        """Accuracy only outside training: there it would cost more than the loss does."""
        from luthier.models.losses import weighted_nll

        told = weighted_nll(model, batch.inputs, batch.keep, batch.targets, batch.weights)
        metrics = {}
        if told.right_S is not None:
            metrics["token_accuracy"] = float((told.right_S * batch.weights).sum())
        return Loss(told.sum, batch.per_sequence(told.losses_S * batch.weights), metrics)


def last_answer(encoded: Encoded) -> Encoded:
    """With its last stretch of supervised tokens alone: between two answers there is always a token that nobody learns to say.

    >>> from luthier.models.template import Encoded
    >>> last_answer(Encoded([5, 6, 7, 8, 9], [False, True, False, True, True])).supervised
    [False, False, False, True, True]
    """
    told = encoded.supervised
    end = len(told) - told[::-1].index(True)
    start = end - next((n for n, one in enumerate(reversed(told[:end])) if not one), end)
    return replace(encoded, supervised=[False] * start + told[start:end] + [False] * (len(told) - end))
