"""Records that must not be read any more, and how the reading leaves them out.

    a record    named by its id, which names its content; with groups only as it stands in those groups
    a place     such as "tickets.jsonl:12", of one source, where it is the bytes of that source that were searched: so a row
                is found even where another map gives it another id, and where it could not become a record at all

What is forgotten is left out before anything else looks at the rows, so the splits are as if it had never been there.
A dataset is made without what its parent `forgotten` lists. Beside that, `watched` holds whatever else has ever been
forgotten: if one of those turns up, the reading goes on to the end only to collect them, and raises StillThere.

Not here: who may forget, and what is kept about it (store/tombstones, app/data/forget).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

STILL_THERE = "still there"
_NUMBERED = re.compile(r"-[0-9]+$")


def stem(record: str) -> str:
    """The id that a record's content has, without the number that tells identical rows apart.

    >>> stem("0a1b-2"), stem("0a1b")
    ('0a1b', '0a1b')
    """
    return _NUMBERED.sub("", record)


@dataclass(frozen=True)
class Hit:
    """A record that is not to be read, and where it stands."""

    record: str
    within: str | None
    source: str
    origin: str


class StillThere(DataError):
    """A source holds records that were forgotten, and the wish does not say so yet."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        super().__init__(
            f"{hits[0].origin}: the row was to be forgotten, and {len(hits)} such rows are in these sources.",
            remedy="Run the same command again.",
        )
        self.hits = tuple(hits)


def group_hash(group: str) -> str:
    """What is kept of a group's name: it may name a person.

    >>> group_hash("customer 7") == group_hash("customer 7"), len(group_hash("x"))
    (True, 32)
    """
    from .records import hashed

    return str(hashed([group], salt="group\0")[0].as_py())


class Forgotten:
    """What is not to be read. Ids are without numbers; a record without groups goes wherever it stands."""

    def __init__(
        self,
        records: Mapping[str, Iterable[str] | None] | None = None,
        places: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        records = records or {}
        self._everywhere = sorted(name for name, groups in records.items() if groups is None)
        self._in_groups = {name: frozenset(told) for name, told in records.items() if told is not None}
        self._places = {source: frozenset(told) for source, told in (places or {}).items() if told}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Forgotten:
        """From what `plain` gives."""
        return cls(plain["records"], plain["places"])

    def plain(self) -> dict[str, Any]:
        """Canonical: the same for the same records, in whatever order they were forgotten."""
        records: dict[str, list[str] | None] = dict.fromkeys(self._everywhere)
        records |= {name: sorted(groups) for name, groups in self._in_groups.items()}
        places = {source: sorted(told) for source, told in sorted(self._places.items())}
        return {"records": dict(sorted(records.items())), "places": places}

    def __len__(self) -> int:
        return len(self._everywhere) + len(self._in_groups)

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._in_groups or self._places)

    def holds(self, records: pa.RecordBatch, source: str) -> pa.Array:
        """Which rows of a mapped batch are not to be read [B]; the columns id, group and origin decide."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.is_in(records["id"], value_set=pa.array(self._everywhere, pa.string()))
        if source in self._places:
            told = pa.array(sorted(self._places[source]), pa.string())
            found = pc.or_(found, pc.is_in(records["origin"], value_set=told))
        if not self._in_groups:
            return found
        named = pc.is_in(records["id"], value_set=pa.array(sorted(self._in_groups), pa.string()))
        more = [False] * records.num_rows
        for row in pc.indices_nonzero(named).to_pylist():
            group = records["group"][row].as_py()
            inside = self._in_groups[records["id"][row].as_py()]
            more[row] = group is not None and group_hash(group) in inside
        return pc.or_(found, pa.array(more, pa.bool_()))

    def places(self, origins: Sequence[str], source: str) -> list[bool]:
        """Which rows that could not become records are not to be read: they have nothing but their place."""
        told = self._places.get(source, frozenset())
        return [origin in told for origin in origins]

    def hits(self, records: pa.RecordBatch, source: str) -> list[Hit]:
        """The rows that are not to be read, one by one."""
        import pyarrow.compute as pc

        found = []
        for row in pc.indices_nonzero(self.holds(records, source)).to_pylist():
            record, group = records["id"][row].as_py(), records["group"][row].as_py()
            within = group_hash(group) if record in self._in_groups and group is not None else None
            found.append(Hit(record, within, source, records["origin"][row].as_py()))
        return found
