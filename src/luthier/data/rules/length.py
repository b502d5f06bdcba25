"""length: too short says nothing, too long does not fit. Counts characters or words; tokens are the model's matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec

from .rule import Mapped, MapRule

if TYPE_CHECKING:
    import pyarrow as pa


class Length(Spec):
    min: int | None = Field(default=None, ge=0)
    """The fewest that stay; none means no lower bound."""
    max: int | None = Field(default=None, ge=0)
    """The most that stay; none means no upper bound."""
    unit: Literal["chars", "words"] = "chars"
    """What is counted: Unicode characters, or runs of non-blanks."""
    on: Literal["user", "assistant", "rejected", "all"] = "user"
    """Which turns are counted together; a plain text counts as user, and `all` takes every turn of the row, the rejected
    answer of a pair too."""

    @model_validator(mode="after")
    def _bounds(self) -> Length:
        if self.min is None and self.max is None:
            raise ValueError("length needs min or max, as in {length: {min: 3}}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is larger than max {self.max}")
        return self


def _function(batch: pa.RecordBatch, settings: Length) -> Mapped:
    import polars as pl

    from luthier.data.records import row_reasons, turns

    text = pl.col("content")
    size = text.str.len_chars() if settings.unit == "chars" else text.str.count_matches(r"\S+")
    roles = {
        "user": ["user", "text"],
        "assistant": ["assistant"],
        "rejected": ["rejected"],
        "all": ["system", "user", "assistant", "text", "rejected"],
    }
    counted = pl.when(pl.col("role").is_in(roles[settings.on])).then(size).otherwise(0)
    n = pl.col("n")
    few = pl.when(n < (settings.min or 0)).then(
        pl.format(f"{{}} {settings.unit}, fewer than {settings.min}", n)
    )
    reason = (
        few
        if settings.max is None
        else few.when(n > settings.max).then(pl.format(f"{{}} {settings.unit}, more than {settings.max}", n))
    )
    sizes = turns(batch).group_by("row", maintain_order=True).agg(counted.sum().alias("n"))
    return Mapped(batch, removed=row_reasons(batch, sizes.select("row", reason=reason.otherwise(None))))


length = MapRule("length", 1, Length, "Removes rows that are too short or too long.", _function)
