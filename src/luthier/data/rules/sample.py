"""sample: fewer rows, chosen by a hash of their id: the same rows on any machine, in any order, and a larger
sample holds the smaller one. With `by`, every part keeps its share.

Stratified: the k-th of the s rows of a part has the place (k - 1/2) / s, and the lowest n places stay. That
is Webster's method of apportionment, the one of the usual that never takes a seat away when the house grows
(Balinski and Young, 1982)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.core.units import Share

from .primitives import Sample as Decision
from .rule import KeyedRule

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened


class Sample(Spec):
    n: int | None = Field(default=None, ge=1)
    """How many rows stay."""
    share: Share | None = None
    """In place of `n`, the share of rows that stays."""
    by: Literal["label", "source", "group", "none"] = "none"
    """Of what every part keeps its share; rows without a group are one part."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed keeps other rows."""

    @model_validator(mode="after")
    def _one_size(self) -> Sample:
        if (self.n is None) == (self.share is None):
            raise ValueError(
                "sample needs n or share, one of them, as in {sample: {n: 5000}} or {sample: {share: 10%}}"
            )
        if self.share == 0:
            raise ValueError("share 0 leaves no rows; write for example 10%")
        return self


def _keys(rows: Opened, settings: Sample) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    from luthier.data.records import hashed

    part = pa.repeat("", len(rows)) if settings.by == "none" else rows.column(settings.by)
    if settings.by == "label" and part.filter(pa.array(rows.alive)).null_count:
        raise DataError(
            "sample by label needs labels, and this task has none.",
            remedy="Use task: {kind: classify}, or sample by source or none.",
        )
    return pa.record_batch(
        {
            "part": pc.fill_null(part.cast(pa.string()), ""),
            "rank": hashed(rows.column("id"), salt=f"sample:{settings.seed}:"),
        }
    )


sample = KeyedRule(
    "sample",
    1,
    Sample,
    "Keeps some rows, of every part its share.",
    _keys,
    primitive=lambda settings: Decision(settings.n, settings.share),
    source="Webster's apportionment (Balinski and Young 1982)",
)
