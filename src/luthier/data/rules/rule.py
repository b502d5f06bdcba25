"""What a rule is. Two kinds, because they scale differently:

    MapRule    looks at one row at a time: RecordBatch -> Mapped. Stateless, so any engine may call it on any batch
               in any order; Spark's mapInArrow can run the very same function.
    KeyedRule  needs to see all rows, but only their keys: it says which small hashed columns it needs of each batch
               and which primitive decides over them. An engine implements the primitives once and spills to disk.

A rule never reads anything but its batch and its Spec, and never drops a row without a reason. The engine checks
rows in = rows out + removed, times it, and keeps examples.

Raise `version` when the same batch and Spec would give another result; it is part of every dataset's identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.spec import Spec

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Mapped:
    """The same rows in the same order, perhaps edited, and two string columns beside them.

    changed  why a row was edited, null where it was not; None: this rule edits nothing
    removed  why a row must go, null where it stays; None: this rule removes nothing
    """

    batch: pa.RecordBatch
    changed: pa.Array | None = None
    removed: pa.Array | None = None


@dataclass(frozen=True)
class MapRule:
    """`function(batch, settings) -> Mapped`; `batch` has the schema records.RECORD and must keep it."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    function: Callable[[pa.RecordBatch, Any], Mapped]
    kind: Literal["map"] = "map"


@dataclass(frozen=True)
class Distinct:
    """Keep of all rows with one `key` the one with the lowest id. Key columns: id, key, input, answer.

    `input` and `answer` only feed the report: how many inputs stand there with more than one answer.
    """


@dataclass(frozen=True)
class AtMost:
    """Keep of all rows with one `part` the `limit` lowest by (rank, id). Key columns: id, part, rank.

    `limit` may be "median" or "smallest": of the sizes of all parts.
    """

    limit: int | Literal["median", "smallest"]


@dataclass(frozen=True)
class KeyedRule:
    """`keys(batch, settings)` gives the key columns that the primitive names, one row per row of the batch."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    keys: Callable[[pa.RecordBatch, Any], pa.RecordBatch]
    primitive: Callable[[Any], Distinct | AtMost]
    kind: Literal["keyed"] = "keyed"


Rule = MapRule | KeyedRule
