"""Stand-ins for tests of rules, public because authors of rules need them too: small batches, one call that
runs a rule on them, and the laws that every row rule keeps.

    run("normalize", batch_of("a  b")).texts     [["a b"]]
    gathered("rank", [batch], folder, n=1).left  the rows that a rule leaves which learns from all rows
    obeys("normalize", rows)                     what it says of a row does not depend on the rows beside it, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core import plugin

from .opened import Opened
from .plan import Group, Step
from .records import RECORD
from .report import Account
from .rules.rule import GatherRule, KeyedRule, RowRule

Row = str | Sequence[tuple[str, str]]
"""A plain text, or a conversation as (role, content); the role "rejected" stands for the rejected answer."""

HOSTILE = (
    "",
    "\x00",
    "a\x00b",
    "e\u0301" * 50,
    "\u202eabc\u202c",
    "👩\u200d💻🇩🇪",
    "\ufeff\ufffd\U0010ffff",
    "<" * 200,
    "&" * 200,
    "`" * 201,
    "&amp;" * 50 + "lt;b>",
    "<<b>b>" * 20,
    "<!--" * 50,
    "<a " + 'b="' * 80,
    "Ã" * 100,
    "Ã\u0083Â©" * 30,
    "{" * 300,
    "\r\n\u2028\x85\x0b\x1c",
    "ال" * 40,
    "漢字かな交じり文" * 20,
)
"""Texts that have broken something somewhere."""


def batch_of(*rows: Row, **columns: Sequence[Any]) -> pa.RecordBatch:
    """A record for each row. The label is what a conversation says last; `columns` puts others in its
    place."""
    records = []
    for i, row in enumerate(rows):
        turns = [] if isinstance(row, str) else [turn for turn in row if turn[0] != "rejected"]
        rejected = [] if isinstance(row, str) else [content for role, content in row if role == "rejected"]
        record = {
            "id": f"{i:032x}",
            "messages": None if isinstance(row, str) else [{"role": r, "content": c} for r, c in turns],
            "text": row if isinstance(row, str) else None,
            "label": turns[-1][1] if turns else None,
            "source": "t",
            "origin": f"t:{i + 1}",
            "weight": 1.0,
            "rejected": rejected[0] if rejected else None,
        }
        records.append(record | {name: values[i] for name, values in columns.items()})
    return pa.RecordBatch.from_pylist(records, schema=RECORD)


def opened(*rows: Row, **columns: Sequence[Any]) -> Opened:
    return Opened(batch_of(*rows, **columns))


@dataclass
class Ran:
    """What a row rule has made of a batch: [B] each, `counts` added up."""

    batch: pa.RecordBatch
    texts: list[list[str]]
    changed: list[str | None]
    removed: list[str | None]
    counts: dict[str, int]
    each: dict[str, list[int]]


def run(name: str, batch: pa.RecordBatch, **wish: Any) -> Ran:
    """Run the row rule of that name with these settings."""
    rule = plugin.load("rule", name)
    assert isinstance(rule, RowRule)
    rows = Opened(batch)
    said = rule.run(rows, rule.spec.model_validate(wish))
    rows.edit(said.text, said.label, dict(said.columns))
    none: list[str | None] = [None] * batch.num_rows
    changed, removed = (
        none if why is None else list(why.to_pylist()) for why in (said.changed, said.removed)
    )
    each = {kind: np.asarray(of_rows).tolist() for kind, of_rows in said.counts.items()}
    texts = [rows.of_row(row) for row in range(batch.num_rows)]
    return Ran(
        rows.close(), texts, changed, removed, {k: n for k, of in each.items() if (n := sum(of))}, each
    )


@dataclass
class Carried:
    """What the local engine has made of rows: those that are left by id, why others went, what the trail says of those that
    were changed (what, why), the account."""

    left: dict[str, dict[str, Any]]
    removed: dict[str, str]
    trail: dict[str, tuple[str, str]]
    account: Account


class _Away:
    """engines.protocol.Look that looks away."""

    def seen(self, done_bytes: int, rows: int | None) -> None: ...

    def settle(self, ask: Any, rows: str) -> None: ...

    def held(self, batch: pa.RecordBatch, side: str) -> None: ...

    def held_rows(self) -> Iterator[pa.RecordBatch]:
        return iter(())


def gathered(
    name: str, batches: Sequence[pa.RecordBatch], folder: Path, /, hidden: bool = False, **wish: Any
) -> Carried:
    """Let the local engine carry out the rule of that name, which learns from all rows. `folder` is for its files."""
    from .engines.local import LocalEngine
    from .engines.protocol import At, LocalEngineSpec

    rule = plugin.load("rule", name)
    assert isinstance(rule, GatherRule)
    group = Group(learns=Step(rule, rule.spec.model_validate(wish), hidden))
    accounts = [step.account() for step in group.steps]
    lines: list[dict[str, Any]] = []
    at = At(folder, lambda batch: lines.extend(batch.to_pylist()), lambda: None, str)
    engine = LocalEngine(LocalEngineSpec(), at)
    frame = engine.run(group, iter(batches), accounts, _Away())
    left = {row["id"]: row for batch in engine.rows(frame) for row in batch.to_pylist()}
    accounts[0].plain()  # rows add up
    removed = {line["id"]: line["reason"] for line in lines if line["what"] == "removed"}
    trail = {line["id"]: (line["what"], line["reason"]) for line in lines if line["what"] != "removed"}
    assert len(left) + len(removed) == sum(batch.num_rows for batch in batches)
    return Carried(left, removed, trail, accounts[0])


def keys(name: str, rows: Opened, **wish: Any) -> Mapping[str, list[Any]]:
    """The key columns that the keyed rule of that name asks for, with the ids."""
    rule = plugin.load("rule", name)
    assert isinstance(rule, KeyedRule)
    found = rule.keys(rows, rule.spec.model_validate(wish))
    return {"id": rows.column("id").to_pylist(), **found.to_pydict()}


def decided(primitive: Any, columns: Mapping[str, Sequence[Any]]) -> tuple[dict[int, str], list[str]]:
    """What a primitive decides over a table of keys, as row to reason, and what it notes."""
    notes: list[str] = []
    database = _database()
    n = len(next(iter(columns.values())))
    told = {name: pa.array(values) for name, values in columns.items()}
    database.register("keys", pa.table({"row": pa.array(range(n), pa.int64()), **told}))
    sql = primitive.decide("keys", lambda asked: database.execute(asked).fetchall(), notes.append)
    found = database.execute(sql).fetchall()
    database.unregister("keys")
    why = dict(found)
    assert len(why) == len(found), "a row must be named once"
    assert all(why.values()), "no row goes without a reason"
    return why, notes


@cache
def _database() -> Any:
    import duckdb

    return duckdb.connect(config={"threads": 1})


def obeys(name: str, rows: Sequence[Row], *, edits_once: bool = True, **wish: Any) -> Ran:
    """Hold a row rule to its laws on these rows; AssertionError names the one that it breaks."""
    whole = run(name, batch_of(*rows), **wish)
    for i, row in enumerate(rows):
        alone = run(name, batch_of(row), **wish)
        assert alone.texts[0] == whole.texts[i], "the texts depend on the rows beside them"
        assert alone.changed[0] == whole.changed[i], "why it was changed depends on the rows beside it"
        assert alone.removed[0] == whole.removed[i], "why it was removed depends on the rows beside it"
        for column in ("label", "weight", "rejected"):
            assert alone.batch[column][0] == whole.batch[column][i], f"{column} depends on the rows beside it"
        for kind in {*alone.each, *whole.each}:
            told = [one.each[kind][at] if kind in one.each else 0 for one, at in ((alone, 0), (whole, i))]
            assert told[0] == told[1], f"the count of {kind} depends on the rows beside it"
    assert "" not in whole.removed, "a row is removed without a reason in words"
    assert run(name, batch_of(), **wish).batch.num_rows == 0
    part = run(name, batch_of("beside", *rows, "beside").slice(1, len(rows)), **wish)
    assert (part.texts, part.removed) == (whole.texts, whole.removed), "a slice is not treated as a batch"
    if edits_once:
        again = run(name, whole.batch, **wish)
        assert again.texts == whole.texts and again.changed == [None] * len(rows), "twice is not once"
        assert again.batch["label"].equals(whole.batch["label"]), "twice is not once for the label"
    return whole
