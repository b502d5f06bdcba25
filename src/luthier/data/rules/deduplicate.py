"""deduplicate: of equal rows one stays, the one with the lowest id, so the order of rows does not matter.

Rows are compared by a 128-bit hash. `on: user` also removes rows that ask the same but answer differently; the
report counts such disagreements in either case, because they are usually faults of labelling.
Near duplicates are another matter and another rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.core.spec import Spec

from .primitives import Distinct
from .rule import KeyedRule

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened


class Deduplicate(Spec):
    on: Literal["conversation", "user"] = "conversation"
    """What must be equal: every turn, or only what the user says."""
    fold: bool = True
    """Whether case, Unicode variants and whitespace are ignored in the comparison."""


def _keys(rows: Opened, settings: Deduplicate) -> pa.RecordBatch:
    import pyarrow as pa

    asked = rows.hashed_inputs(fold=settings.fold)
    key = asked if settings.on == "user" else rows.hashed_whole(fold=settings.fold)
    return pa.record_batch({"key": key, "input": asked, "answer": rows.hashed_answers(fold=settings.fold)})


deduplicate = KeyedRule(
    "deduplicate", 3, Deduplicate, "Keeps one of equal rows.", _keys, primitive=lambda _: Distinct()
)  # fmt: skip
