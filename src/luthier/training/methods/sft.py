"""Supervised fine-tuning: learn to say the supervised tokens (Ouyang et al. 2022, section 3.5, first step).

A conversation's assistant turns are supervised, each up to the token that ends it, in one pass over the whole
conversation; of a plain text (continued pre-training) every token but the first is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.training.method import Example, Loss, Method, NoSettings

if TYPE_CHECKING:
    from luthier.models.template import Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Row


class Sft(Method):
    """Cross-entropy of supervised tokens, each times its row's weight."""

    spec = NoSettings
    figures = ("loss", "token_accuracy")
    reads = ("tools",)

    def __init__(self, settings: NoSettings) -> None:
        self.settings = settings

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        from luthier.data.tools import said

        text = record["text"]
        return Example([template.encode(*said(record)) if text is None else template.encode_text(text)])

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
