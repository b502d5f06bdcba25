"""A regression head: one linear layer from the prompt's last hidden state to a number, trained with squared error
together with whatever the adapter moves. The numbers are standardised by the training rows' mean and spread, which the
head keeps, so that one learning rate suits prices and percentages alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.training.method import Example, Loss, Method, NoSettings, Work

from .classify import Asked, question_of

if TYPE_CHECKING:
    from luthier.models.template import Template
    from luthier.training.rows import Row, Rows

NOTHING = 1e-9
"""Of the mean: a smaller deviation is rounding (that of twelve times 0.3 is 6e-17), and dividing by it blows it up."""


class Regress(Method):
    """Squared error of a head's number, each row times its weight; the answer of every row must be a number."""

    spec = NoSettings
    through_vocabulary = False
    task = "regress"
    figures = ("loss", "absolute_error")
    unit = "squared error, the training numbers' spread counted as 1"

    def __init__(self, settings: NoSettings) -> None:
        self.settings = settings
        self.mean, self.scale = 0.0, 1.0

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        example = question_of(record, template, "regress")
        answer = record["messages"][-1]["content"]
        try:
            value = float(answer)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise DataError(
                f"the answer {answer[:60]!r} is not a number, and `regress` learns numbers.",
                remedy="Correct the row, or choose another method.",
            )
        return replace(example, signal=value)

    def check(self, splits: Mapping[str, Rows]) -> None:
        mean, spread = _spread(splits["train"])
        if not spread:
            raise DataError(
                f"every training row has the same number ({mean:g}), so there is nothing to learn.",
                remedy="Check which column is mapped as the answer (map.assistant), and the filters of data.rules.",
            )

    def attach(self, model: Any, splits: Mapping[str, Rows], work: Work, seed: int) -> None:
        from luthier.models.head import Number, attach

        self.mean, spread = _spread(splits["train"])
        self.scale = spread or 1.0
        attach(model, Number(self.mean, self.scale), seed)

    def collate(self, rows: Sequence[Row]) -> Asked:
        import torch

        from luthier.training.packing import pack_rows

        values = [(float(row.signal or 0.0) - self.mean) / self.scale for row in rows]
        return Asked(
            pack_rows(rows, share=self.share),
            torch.tensor(values, dtype=torch.float32),
            torch.tensor([row.weight for row in rows]),
        )

    def loss(self, model: Any, batch: Asked) -> Loss:
        """`absolute_error` is in the units of the data."""
        from luthier.models.head import head_of, hidden_at

        head = head_of(model)
        assert head is not None
        error_R = head(hidden_at(model, batch.packed.inputs, batch.packed.keep))[:, 0] - batch.targets_R
        losses_R = error_R.square() * batch.weights_R
        off = float((error_R.detach().abs() * batch.weights_R).sum()) * self.scale
        return Loss(losses_R.sum(), losses_R.detach(), {"absolute_error": off})

    def save(self, model: Any, folder: Path) -> None:
        from luthier.models.head import save, take_off

        save(model, folder)
        take_off(model)


def _spread(rows: Rows) -> tuple[float, float]:
    """Mean and standard deviation of the numbers; where all are equal up to rounding, a deviation of 0."""
    values = np.array(list(rows.signals), np.float64)
    mean, spread = float(values.mean()), float(values.std())
    return mean, spread if spread > NOTHING * max(1.0, abs(mean)) else 0.0
