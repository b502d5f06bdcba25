"""length: too short says nothing, too long does not fit. Counts characters or words; tokens are the model's matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    from luthier.data.opened import Opened


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


def _run(rows: Opened, settings: Length) -> Said:
    import numpy as np

    roles = {
        "user": ["user", "text"],
        "assistant": ["assistant"],
        "rejected": ["rejected"],
        "all": ["system", "user", "assistant", "text", "rejected", "call", "argument", "tool"],
    }
    text = rows.text
    size = (text.str.len_chars() if settings.unit == "chars" else text.str.count_matches(r"\S+")).to_numpy()
    sizes = rows.per_row(np.where(rows.says(*roles[settings.on]), size, 0), "sum").astype(np.int64)
    few = sizes < (settings.min or 0)
    many = np.zeros_like(few) if settings.max is None else sizes > settings.max
    why = {
        row: f"{sizes[row]} {settings.unit}, fewer than {settings.min}"
        for row in np.flatnonzero(few).tolist()
    }
    why |= {
        row: f"{sizes[row]} {settings.unit}, more than {settings.max}"
        for row in np.flatnonzero(many).tolist()
    }
    return Said(removed=rows.reasons(why))


length = RowRule("length", 2, Length, "Removes rows that are too short or too long.", _run)
