"""One part of one source, read into records: the function that every engine calls, in whatever process.

    connector ─▶ blocks ─▶ records, and what could not become one ─▶ without what is forgotten ─▶ Read

A Job says all that a process has to know, in plain values. Not here: which parts there are (connectors), what becomes of
the records (engines).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core import plugin
from luthier.core.errors import DataError, SpecError
from luthier.core.spec import references, resolve

from . import report
from .connectors import connect
from .connectors.faults import unshown
from .connectors.protocol import Connector, Divisible, Part, Secret
from .contract import ContractSpec, Kept
from .forgotten import STILL_THERE, Forgotten
from .grouped import blocks_of
from .mapping import Bad, Layout, to_records
from .private.masking import masked
from .records import hashed
from .report import HIDDEN, Account
from .spec import MapSpec, SourceSpec

REMOVED = pa.schema([(name, pa.string()) for name in ("id", "origin", "rule", "reason", "preview")])
"""The lines of removed.parquet."""
TRAIL = pa.schema([("id", pa.string()), ("step", pa.int32()), ("what", pa.string()), ("why", pa.string())])
"""The lines of trail.parquet: each change of a row. `step` is its place in rules.json, `why` a reason and never a text."""
LINES = pa.schema([*REMOVED, pa.field("step", pa.int32()), pa.field("what", pa.string())])
"""What engines hand on of both, in one form. `what` is `removed`, or what happened to a row that stays."""


def _value(secret: Secret, name: str) -> str | None:
    try:
        return secret(f"${{{name}}}")
    except SpecError:
        return None


@dataclass(frozen=True)
class Job:
    """`values` stands in the place of ${VAR} and must never be recorded; `hidden`: rows must not be shown; `pin`: where a source stands
    that goes on while it is read. What is in `forgotten` is not read; what is in `watched` and is read is told."""

    source: SourceSpec
    base: Path
    layout: Layout
    hidden: bool = False
    pin: Mapping[str, Any] | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    forgotten: Forgotten = field(default_factory=Forgotten, repr=False)
    watched: Forgotten = field(default_factory=Forgotten, repr=False)

    @classmethod
    def of(
        cls, source: SourceSpec, base: Path, layout: Layout, secret: Secret, *, hidden: bool,
        pin: Mapping[str, Any] | None = None,
    ) -> Job:  # fmt: skip
        """With the values that the source refers to, or its connector needs, so that another process needs no environment."""
        values = {}
        needed = getattr(plugin.load("connector", source.connector), "environment", ())
        names = [name for one in needed if (text := _value(secret, one)) for name in (one, *references(text))]
        for name in [*references(json.dumps(source.plain())), *names]:
            # "${price}" may be a dollar sign before a column; who needs a value will say so
            if (value := _value(secret, name)) is not None:
                values[name] = value
        return cls(source, base, layout, hidden, pin, values)

    def connect(self) -> Connector:
        return connect(self.source, self.base, lambda text: resolve(text, self.values), self.pin)

    def plain(self) -> dict[str, Any]:
        """As JSON, with the values."""
        layout = {**vars(self.layout), "map": self.layout.map.plain(), "keys": list(self.layout.keys)}
        return {
            "source": self.source.plain(),
            "base": str(self.base),
            "layout": layout,
            "hidden": self.hidden,
            "pin": self.pin,
            "values": dict(self.values),
            "forgotten": self.forgotten.plain(),
            "watched": self.watched.plain(),
        }

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> Job:
        layout = told["layout"]
        return cls(
            SourceSpec.model_validate(told["source"]),
            Path(told["base"]),
            Layout(**{**layout, "map": MapSpec.model_validate(layout["map"]), "keys": tuple(layout["keys"])}),
            told["hidden"],
            told["pin"],
            told["values"],
            Forgotten.of(told["forgotten"]),
            Forgotten.of(told["watched"]),
        )


@dataclass(frozen=True)
class Read:
    """A block's rows. `removed` holds the lines of those set aside (LINES), `account` counts both; `done_bytes` of the part's."""

    records: pa.RecordBatch
    removed: pa.RecordBatch | None
    account: Account
    done_bytes: int


def divided(
    work: Sequence[tuple[Job, Part]], about_bytes: int, count: Callable[[Job, Sequence[Part]], Sequence[int]]
) -> list[tuple[Job, Part]]:
    """The same rows in the same order, in parts of about that size where a source can be cut. `count` asks `count_part` about
    each of some parts, wherever it likes."""
    found: list[tuple[Job, Part]] = []
    for _, of_job in groupby(work, key=lambda one: id(one[0])):
        jobs, parts = zip(*of_job, strict=True)
        connector = jobs[0].connect()
        if isinstance(connector, Divisible):
            parts = tuple(connector.divide(parts, about_bytes, partial(count, jobs[0])))
        found += [(jobs[0], part) for part in parts]
    return found


def count_part(job: Job, part: Part) -> int:
    """What `divided` asks, in whatever process."""
    connector = job.connect()
    assert isinstance(connector, Divisible)
    return connector.count(part)


def reading() -> Account:
    """An empty account of the reading."""
    return Account("read", {}, 1)


def read_part(job: Job, part: Part) -> Iterator[Read]:
    """In the order of the rows. Raises DataError for a row that the source does not allow to be set aside."""
    connector = job.connect()
    held = (
        Kept(connector, job.source.contract) if isinstance(job.source.contract, ContractSpec) else connector
    )
    with unshown(job.hidden):
        for block in blocks_of(held, part, job.layout):
            records, bad = to_records(block, job.layout)
            account = reading()
            records, bad, gone = _forget(records, bad, job, account)
            records, still_there = _watch(records, job)
            gone += len(still_there)
            lines = [_set_aside(some, job, account, rule) for rule, some in bad.by_rule()]
            lines += [still_there] if still_there.num_rows else []
            removed = pa.Table.from_batches(lines).combine_chunks().to_batches()[0] if lines else None
            account.count(len(block) + len(block.bad) - gone, records.num_rows)
            if held is not connector:
                account.counts[under(job.layout.source)] += len(block) + len(block.bad)
            yield Read(records, removed, account, connector.done_bytes())


def _forget(records: pa.RecordBatch, bad: Bad, job: Job, account: Account) -> tuple[pa.RecordBatch, Bad, int]:
    """Both without what is forgotten, as if it had never been there but for its count."""
    if not job.forgotten:
        return records, bad, 0
    source, before = job.layout.source, records.num_rows + len(bad.origins)
    records = records.filter(pc.invert(job.forgotten.holds(records, source)))
    bad = bad.without(job.forgotten.places(bad.origins, source))
    gone = before - records.num_rows - len(bad.origins)
    if gone:
        account.counts["forgotten"] += gone
    return records, bad, gone


def _watch(records: pa.RecordBatch, job: Job) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(the others, a line for each row that was forgotten elsewhere: its group's hash as the reason, its source as preview)."""
    if not job.watched:
        return records, pa.RecordBatch.from_pylist([], LINES)
    hits = job.watched.hits(records, job.layout.source)
    told = [
        {
            "id": one.record,
            "origin": one.origin,
            "rule": STILL_THERE,
            "reason": one.within,
            "preview": one.source,
            "what": STILL_THERE,
        }
        for one in hits
    ]
    if hits:
        records = records.filter(pc.invert(job.watched.holds(records, job.layout.source)))
    return records, pa.RecordBatch.from_pylist(told, LINES)


def under(source: str) -> str:
    """How the rows of a source with a contract are counted."""
    return f"{source}: rows under its contract"


def broken(source: str) -> str:
    """How those that break it are."""
    return f"{source}: rows that break its contract"


def _set_aside(bad: Bad, job: Job, account: Account, rule: str | None) -> pa.RecordBatch:
    if job.hidden:
        bad = replace(
            bad, reasons=[masked([one])[0][0] for one in bad.reasons], previews=[HIDDEN] * len(bad.origins)
        )
    if rule is not None:
        account.counts[broken(job.layout.source)] += len(bad.origins)
    elif job.layout.map.on_bad_row == "refuse":
        shown = "" if job.hidden else f"\n  {bad.previews[0]}"
        raise DataError(
            f"{bad.origins[0]}: {bad.reasons[0]}.{shown}",
            remedy="Correct the row, or set map: {on_bad_row: set_aside} to keep such rows out, with the reason on record.",
        )
    account.removed += len(bad.origins)
    account.show(
        [
            report.removed(*one)
            for one in zip(bad.origins, ([s] for s in bad.previews), bad.reasons, strict=True)
        ]
    )
    ids = hashed([f"unread:{job.layout.source}\0{origin}" for origin in bad.origins])
    rows = [
        ids,
        pa.array(bad.origins),
        pa.repeat(rule or account.rule, len(ids)),
        pa.array(bad.reasons),
        pa.array(bad.previews),
    ]
    return removed_lines(rows, step=0)


def removed_lines(columns: list[Any], step: int) -> pa.RecordBatch:
    """From the columns of REMOVED."""
    n = len(columns[0])
    more = [pa.repeat(pa.scalar(step, pa.int32()), n), pa.repeat("removed", n)]
    return pa.record_batch([*columns, *more], schema=LINES)


def trail_lines(ids: pa.Array, step: int, what: str, why: pa.Array) -> pa.RecordBatch:
    """One for each row that a rule changed."""
    n = len(ids)
    nothing = pa.nulls(n, pa.string())
    columns = [ids, nothing, nothing, why.cast(pa.string()), nothing]
    more = [pa.repeat(pa.scalar(step, pa.int32()), n), pa.repeat(what, n)]
    return pa.record_batch([*columns, *more], schema=LINES)
