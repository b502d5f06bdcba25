"""One part of one source, read into records: the function that every engine calls, in whatever process.

    connector ─▶ blocks ─▶ records, and what could not become one ─▶ Read

A Job says all that a process has to know, in plain values. Not here: which parts there are (connectors), what becomes of
the records (engines).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from luthier.core.errors import DataError, SpecError
from luthier.core.spec import references, resolve

from . import report
from .connectors import connect
from .connectors.protocol import Connector, Part, Secret
from .mapping import Bad, Layout, to_records
from .records import hashed
from .report import HIDDEN, Account
from .spec import MapSpec, SourceSpec

REMOVED = pa.schema([(name, pa.string()) for name in ("id", "origin", "rule", "reason", "preview")])
"""The lines of removed.parquet."""


@dataclass(frozen=True)
class Job:
    """`values` stands in the place of ${VAR} and must never be recorded; `hidden`: rows must not be shown."""

    source: SourceSpec
    base: Path
    layout: Layout
    hidden: bool = False
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: SourceSpec, base: Path, layout: Layout, secret: Secret, *, hidden: bool) -> Job:
        """With the values that the source refers to, so that another process needs no environment."""
        values = {}
        for name in references(json.dumps(source.plain())):
            try:
                values[name] = secret(f"${{{name}}}")
            except (
                SpecError
            ):  # "${price}" may be a dollar sign before a column; who needs a value will say so
                continue
        return cls(source, base, layout, hidden, values)

    def connect(self) -> Connector:
        return connect(self.source, self.base, lambda text: resolve(text, self.values))

    def plain(self) -> dict[str, Any]:
        """As JSON, with the values."""
        layout = {**vars(self.layout), "map": self.layout.map.plain(), "keys": list(self.layout.keys)}
        return {
            "source": self.source.plain(),
            "base": str(self.base),
            "layout": layout,
            "hidden": self.hidden,
            "values": dict(self.values),
        }

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> Job:
        layout = told["layout"]
        return cls(
            SourceSpec.model_validate(told["source"]),
            Path(told["base"]),
            Layout(**{**layout, "map": MapSpec.model_validate(layout["map"]), "keys": tuple(layout["keys"])}),
            told["hidden"],
            told["values"],
        )


@dataclass(frozen=True)
class Read:
    """A block's rows. `removed` holds the lines of those set aside, `account` counts both; `done_bytes` of the part's."""

    records: pa.RecordBatch
    removed: pa.RecordBatch | None
    account: Account
    done_bytes: int


def reading() -> Account:
    """An empty account of the reading."""
    return Account("read", {}, 1)


def read_part(job: Job, part: Part) -> Iterator[Read]:
    """In the order of the rows. Raises DataError for a row that the source does not allow to be set aside."""
    connector = job.connect()
    for block in connector.read(part, job.layout.columns):
        records, bad = to_records(block, job.layout)
        account = reading()
        removed = _set_aside(bad, job, account) if bad.origins else None
        account.count(len(block) + len(block.bad), records.num_rows)
        yield Read(records, removed, account, connector.done_bytes())


def _set_aside(bad: Bad, job: Job, account: Account) -> pa.RecordBatch:
    if job.layout.map.on_bad_row == "refuse":
        more = f" (and {len(bad.origins) - 1} more rows nearby)" if len(bad.origins) > 1 else ""
        raise DataError(
            f"{bad.origins[0]}: {bad.reasons[0]}{more}.\n  {bad.previews[0]}",
            remedy="Correct the row, or set map: {on_bad_row: set_aside} to keep such rows out, with the reason on record.",
        )
    account.removed += len(bad.origins)
    shown = [HIDDEN] * len(bad.origins) if job.hidden else bad.previews
    account.show(
        [report.removed(*one) for one in zip(bad.origins, ([s] for s in shown), bad.reasons, strict=True)]
    )
    ids = hashed([f"unread:{job.layout.source}\0{origin}" for origin in bad.origins])
    rows = [
        ids,
        pa.array(bad.origins),
        pa.repeat(account.rule, len(ids)),
        pa.array(bad.reasons),
        pa.array(shown),
    ]
    return pa.record_batch(rows, schema=REMOVED)
