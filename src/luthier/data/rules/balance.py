"""balance: no label may crowd out the others. The rows that stay are chosen by a hash of their id, so the choice
does not depend on order and grows steadily with the data. Among the rules of quantity it sees the rows of train alone:
what is measured keeps the proportions of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from luthier.core.errors import DataError
from luthier.core.spec import Spec

from .primitives import AtMost
from .rule import KeyedRule

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened


class Balance(Spec):
    by: Literal["label"] = "label"
    """What is balanced; the label of a classification."""
    at_most: Annotated[int, Field(ge=1)] | Literal["median", "smallest"] = "median"
    """The most rows a label keeps: a number, or the median or smallest of all labels' sizes."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed keeps other rows."""


def _keys(rows: Opened, settings: Balance) -> pa.RecordBatch:
    import pyarrow as pa

    from luthier.data.records import hashed

    labels = rows.column("label")
    if labels.filter(pa.array(rows.alive)).null_count:
        raise DataError(
            "balance by label needs labels, and this task has none.",
            remedy="Use task: {kind: classify}, or remove the rule.",
        )
    return pa.record_batch({"part": labels, "rank": hashed(rows.column("id"), salt=str(settings.seed))})


balance = KeyedRule(
    "balance", 2, Balance, "Caps how many rows each label keeps.", _keys, primitive=lambda settings: AtMost(settings.at_most)
)  # fmt: skip
