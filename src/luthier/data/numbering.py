"""Identical rows get ids of their own: the first keeps the id that its content has, the next are -2, -3, ... in the order
of their group, their source and their place in it, whatever the order they were read in. An id that a column names must
not repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError

from .rules.primitives import Ask


def keys(batch: pa.RecordBatch, named: Sequence[str]) -> dict[str, pa.Array]:
    """`named` are the sources whose ids a column gives."""
    columns = {"family": batch["group"], "source": batch["source"], "origin": batch["origin"]}
    return {**columns, "named": pc.is_in(batch["source"], value_set=pa.array(named, pa.string()))}


def decide(ask: Ask) -> str:
    """SQL that gives (row, id) over the table `keys`, whose columns of this step begin with u_. Raises DataError for a
    named id that repeats."""
    twice = ask(
        "SELECT earlier, later FROM (SELECT min_by(u_origin, row) AS earlier, max_by(u_origin, row) AS later, "
        "min(row) AS first FROM keys WHERE u_named GROUP BY id HAVING count(*) > 1) AS told ORDER BY first LIMIT 1"
    )
    if twice:
        raise DataError(
            f"{twice[0][1]}: the id is the same as that of {twice[0][0]}.",
            remedy="map.id must name a column without repeated values.",
        )
    return (
        "SELECT row, CASE WHEN n = 1 THEN id ELSE id || '-' || n END AS id FROM (SELECT row, id, row_number() OVER "
        "(PARTITION BY id ORDER BY u_family NULLS LAST, u_source, row) AS n FROM keys) AS told"
    )
