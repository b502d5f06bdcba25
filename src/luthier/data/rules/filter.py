"""filter: rows of which an expression is not true go. The language is small and typed; data/expressions
explains it.

filter: 'len(user) > 20 and label not in ["spam", "test"]'       short for {keep: ...}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import field_validator, model_validator

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    from luthier.data.opened import Opened


class Filter(Spec):
    keep: str
    """What must be true of a row that stays, as in `len(user) > 20`; a comparison with a missing value is
    false."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"keep": value} if isinstance(value, str) else value

    @field_validator("keep")
    @classmethod
    def _is_a_question(cls, keep: str) -> str:
        from luthier.data.expressions import parse

        node = parse(keep)
        if node.type != "truth":
            raise ValueError(
                f"{keep[:60]!r} gives a {node.type}, and a filter needs true or false; compare it with something"
            )
        return keep


def _run(rows: Opened, settings: Filter) -> Said:
    import numpy as np

    from luthier.data.expressions import evaluated, parse

    stays = evaluated(parse(settings.keep), rows).to_numpy()
    why = f"not {settings.keep}" if len(settings.keep) <= 200 else f"not {settings.keep[:199]}…"
    return Said(removed=rows.reasons(dict.fromkeys(np.flatnonzero(~stays).tolist(), why)))


filter_ = RowRule("filter", 1, Filter, "Keeps rows for which an expression is true.", _run)
