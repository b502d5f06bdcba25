"""weight: how much a row counts in training, against 1. It multiplies what the row has: its source's weight.

    weight: {by: source, weights: {billing: 2, chat: 0.5}}
    weight: {expression: "0.5 + rating"}          data/expressions explains the language

A weight that is not above zero, or no number at all, is an error that names the row: a row that should not
count is removed, by `filter`. Weights by how frequent a label is need all rows, and are not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened

Positive = Annotated[float, Field(gt=0)]


class Weight(Spec):
    by: Literal["source", "label"] | None = None
    """What `weights` goes by."""
    weights: dict[str, Positive] = Field(default_factory=dict)
    """The weight of each source or label; those that are not named keep theirs."""
    expression: str | None = None
    """In place of `by`, an expression that gives a number above zero for each row, as in `0.5 + rating`."""

    def named_sources(self) -> list[str]:
        """What DataSpec looks for among its sources."""
        return list(self.weights) if self.by == "source" else []

    @model_validator(mode="after")
    def _one_way(self) -> Weight:
        if (self.by is None) == (self.expression is None):
            raise ValueError(
                "weight needs by with weights, or an expression, as in {weight: {by: source, weights: {billing: 2}}}"
            )
        if (self.by is None) == bool(self.weights):
            raise ValueError("by and weights belong together, as in {by: label, weights: {complaint: 2}}")
        if self.expression is not None:
            from luthier.data.expressions import parse

            node = parse(self.expression)
            if node.type != "number":
                raise ValueError(
                    f"{self.expression[:60]!r} gives a {node.type}, and a weight is a number; use len(x) or number(x)"
                )
        return self


def _run(rows: Opened, settings: Weight) -> Said:
    import numpy as np
    import pyarrow as pa

    before = rows.column("weight").to_numpy(zero_copy_only=False).astype(np.float64)
    factors, counts = _factors(rows, settings)
    with np.errstate(over="ignore", under="ignore"):
        after = (before * factors).astype(np.float32)
    _refuse(rows, factors, after)
    changed = np.flatnonzero(after != before.astype(np.float32))
    why = {row: f"weight {before[row]:.6g} becomes {after[row]:.6g}" for row in changed.tolist()}
    return Said(columns={"weight": pa.array(after, pa.float32())}, changed=rows.reasons(why), counts=counts)


def _factors(rows: Opened, settings: Weight) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(what each row's weight is multiplied by, NaN where there is nothing [B]; which rows each name is
    of)."""
    import numpy as np

    if settings.expression is not None:
        from luthier.data.expressions import evaluated, parse

        return evaluated(parse(settings.expression), rows).fill_null(np.nan).to_numpy(), {}
    names = rows.column(settings.by or "").to_pylist()
    factors = np.array([settings.weights.get(name, 1.0) for name in names], np.float64)
    return factors, {
        name: np.array([other == name for other in names], np.int64) for name in settings.weights
    }


def _refuse(rows: Opened, factors: np.ndarray, after: np.ndarray) -> None:
    """Raise DataError for the first row, by id, whose weight is none. Rows that rules before have removed do
    not matter."""
    import numpy as np

    bad = ~(np.isfinite(factors) & np.isfinite(after) & (after > 0)) & rows.alive
    if not bad.any():
        return
    ids = rows.column("id").to_pylist()
    row = min(np.flatnonzero(bad).tolist(), key=ids.__getitem__)
    given = "no number" if np.isnan(factors[row]) else f"{factors[row]:g}"
    raise DataError(
        f"row:{ids[row]} ({rows.column('origin')[row].as_py()}) is given {given} as its weight; a weight is above zero and finite.",
        remedy="Change the expression, as in 0.1 + rating, or remove such rows before, as in {filter: {keep: 'rating > 0'}}.",
    )


weight = RowRule("weight", 1, Weight, "Says how much rows count in training.", _run)
