"""replay: of the rows that are not from the new sources only some stay, chosen by a hash of their id; all rows of the new sources do.
So a model that goes on learning sees enough of what it learnt before not to forget it, and no more. The share of old rows in
continued training is the oldest remedy against forgetting (Robins, Catastrophic forgetting, rehearsal and pseudorehearsal, 1995).
Under quantity it sees train alone: test rows stay, so that forgetting is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.core.spec import Spec

from .primitives import AtMost
from .rule import KeyedRule

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened


class Replay(Spec):
    new: list[str] = Field(min_length=1)
    """What the sources are called whose rows all stay."""
    at_most: int = Field(ge=1)
    """The most rows that stay of all others together."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed keeps other rows."""

    def named_sources(self) -> list[str]:
        """What DataSpec looks for among its sources."""
        return self.new


def _keys(rows: Opened, settings: Replay) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    from luthier.data.records import hashed

    ids = rows.column("id").cast(pa.string())
    new = pc.is_in(pc.fill_null(rows.column("source").cast(pa.string()), ""), pa.array(settings.new))
    # a part for each new row: none of them is ever beyond the limit
    part = pc.if_else(new, pc.binary_join_element_wise("new", ids, ":"), "old")
    return pa.record_batch({"part": part, "rank": hashed(ids, salt=f"replay:{settings.seed}:")})


replay = KeyedRule(
    "replay",
    1,
    Replay,
    "Keeps all rows of new sources, and some of the others.",
    _keys,
    primitive=lambda settings: AtMost(settings.at_most),
    source="rehearsal (Robins 1995)",
)
