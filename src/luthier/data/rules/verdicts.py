"""What a rule that learns from all rows has to say of some of them: a table with a line per row, its id and the reason why it
goes. Rows that have no line stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .rule import Said

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened


def verdicts(ids: Sequence[str], reasons: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.table({"id": pa.array(ids, pa.string()), "reason": pa.array(reasons, pa.string())})


def reasons(rows: Opened, learnt: pa.Table) -> pa.Array:
    """Of each row [B], null where there is none."""
    import pyarrow.compute as pc

    at = pc.index_in(rows.column("id"), value_set=learnt["id"].combine_chunks())
    return learnt["reason"].combine_chunks().take(at)


def removed(rows: Opened, settings: Any, learnt: pa.Table) -> Said:  # noqa: ARG001  every rule has this signature
    """`run` of a rule whose verdicts are all that rows go."""
    return Said(removed=reasons(rows, learnt))
