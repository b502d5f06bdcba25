"""drop_empty: a row in which a user or assistant turn, or the plain text, is blank teaches nothing. Nor does a pair whose
rejected answer is blank, or is the chosen one.

A blank system message is no reason: many templates render it as none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.spec import Spec

from .rule import Mapped, MapRule

if TYPE_CHECKING:
    import pyarrow as pa


class DropEmpty(Spec):
    pass


def _function(batch: pa.RecordBatch, settings: DropEmpty) -> Mapped:  # noqa: ARG001  every rule has this signature
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc

    from luthier.data.records import last_contents, row_reasons, turns

    blank = (
        turns(batch)
        .filter((pl.col("role") != "system") & ~pl.col("content").str.contains(r"\S"))
        .group_by("row", maintain_order=True)
        .agg(pl.format("the {} turn is empty", pl.col("role").first()).first().alias("reason"))
    )
    tied = pc.fill_null(pc.equal(batch["rejected"], last_contents(batch["messages"])), False)
    why = pc.if_else(tied, "the rejected answer is the chosen one", pa.scalar(None, pa.string()))
    return Mapped(batch, removed=pc.coalesce(row_reasons(batch, blank), why))


drop_empty = MapRule(
    "drop_empty", 1, DropEmpty, "Removes rows with an empty turn, and pairs of one answer.", _function
)
