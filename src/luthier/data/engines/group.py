"""One batch through a group of rules: the functions that every engine calls, wherever it runs. Pure.

    run_group   batch ─▶ opened once ─▶ row rule ─▶ row rule ─▶ keys of the keyed rules ─▶ closed: the rows that stay
    carry_out   batch, and what was decided over the keys of all rows ─▶ the rows of each side

A row that a rule removes stays in the opened batch until that is closed, but is no longer counted, shown or kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from luthier.data import answers, numbering, report, split
from luthier.data.opened import Opened, strings
from luthier.data.plan import Group, Step
from luthier.data.reading import removed_lines, trail_lines
from luthier.data.records import replace
from luthier.data.report import HIDDEN, Account
from luthier.data.rules.rule import GatherRule, GrowRule, KeyedRule, PairRule, RowRule

PREVIEW = 200


@dataclass
class Grouped:
    """`accounts` are of the group's steps, the keyed ones' with the seconds of their keys alone; `keys` has a line for each
    row of `batch`: its id, columns named by the keyed step's number (k0_key), and those of numbering (u_) and sides (s_).
    `removed` holds the lines (reading.LINES) of what was removed, and of every change, of rows that are removed later too.
    `stays` has True for each row of the batch before that is still there; rows that were made come after those."""

    batch: pa.RecordBatch
    accounts: list[Account]
    removed: list[pa.RecordBatch]
    keys: pa.RecordBatch
    stays: np.ndarray


def run_group(group: Group, batch: pa.RecordBatch) -> Grouped:
    """Raises DataError: what a rule raises, and for a row that cannot be given a side."""
    opened = Opened(batch)
    alive = opened.alive
    accounts: list[Account] = []
    removed: list[pa.RecordBatch] = []
    edited = False
    for step in group.rows:
        accounts.append(account := step.account())
        with account.clock():
            edited |= _row_step(step, opened, account, removed)
    columns: dict[str, pa.Array] = {}
    for n, step in enumerate(group.keyed):
        accounts.append(account := step.account())
        assert isinstance(step.rule, KeyedRule | PairRule)
        with account.clock():
            found = step.rule.keys(opened, step.given)
        columns |= {f"k{n}_{name}": found[name] for name in found.schema.names}
    if group.numbers is not None:
        columns |= {f"u_{name}": told for name, told in numbering.keys(batch, group.numbers).items()}
    if group.sides is not None:
        columns |= {
            f"s_{name}": told for name, told in split.keys(opened, group.sides.spec, group.sides.own).items()
        }
    closed = opened.close() if edited else batch
    if group.grows is not None:
        closed = closed.filter(pa.array(alive))
        accounts.append(account := group.grows.account())
        with account.clock():
            closed = _grown(group.grows, closed, account)
        return Grouped(closed, accounts, removed, pa.record_batch({"id": closed["id"]}), alive)
    keys = pa.record_batch({"id": closed["id"], **columns})
    if not alive.all():
        keep = pa.array(alive)
        closed, keys = closed.filter(keep), keys.filter(keep)
    if group.sides is not None:
        answers.check(closed, group.sides.task)
    return Grouped(closed, accounts, removed, keys, alive)


def _grown(step: Step, batch: pa.RecordBatch, account: Account) -> pa.RecordBatch:
    """The rows, and after them those that were made of them."""
    rule = step.rule
    assert isinstance(rule, GrowRule)
    opened = Opened(batch)
    made = rule.grow(opened, step.given)
    account.count(batch.num_rows, batch.num_rows + made.num_rows)
    account.added += made.num_rows
    names, told = made["id"].to_pylist(), []
    places = {name: row for row, name in enumerate(batch["id"].to_pylist())}
    shown = Opened(made)
    for k in report.lowest(names):
        origin = places[made["made_from"][k].as_py()]
        one = report.changed(names[k], opened.of_row(origin), shown.of_row(k), "made of another row")
        told.append(report.Example(one.id, HIDDEN, HIDDEN, one.reason) if step.hidden else one)
    account.show(told)
    return pa.concat_batches([batch, made]) if made.num_rows else batch


@dataclass
class Decided:
    """`accounts` are of the group's keyed steps, then of the sides; `sides` has all rows under "train" where the group does
    not divide."""

    sides: dict[str, pa.RecordBatch]
    accounts: list[Account]
    removed: list[pa.RecordBatch]


def carry_out(group: Group, batch: pa.RecordBatch, decided: pa.RecordBatch) -> Decided:
    """`decided` has a line for each row of the batch: id, step, reason, side (decide.py)."""
    step, reasons, side, ids = (decided[name] for name in ("step", "reason", "side", "id"))
    reasons = reasons.cast(pa.string())
    if group.numbers is not None:
        batch = replace(batch, id=ids.cast(pa.string()))
    ends = [(one.account(), one.hidden, one.number) for one in group.keyed]
    if group.sides is not None:
        ends.append((group.sides.account(), group.hidden, 0))
    removed: list[pa.RecordBatch] = []
    for n, (account, hidden, number) in enumerate(ends):
        why = pc.if_else(pc.equal(step, n), reasons, pa.scalar(None, pa.string()))
        batch, lines = _remove(batch, why, account, hidden=hidden, number=number)
        if lines is not None:
            removed.append(lines)
            stays = why.is_null()
            step, reasons, side = (column.filter(stays) for column in (step, reasons, side))
    accounts = [account for account, _, _ in ends]
    if group.sides is None:
        return Decided({split.SIDES[0]: batch}, accounts, removed)
    return Decided({name: batch.filter(pc.equal(side, name)) for name in split.SIDES}, accounts, removed)


def _row_step(step: Step, opened: Opened, account: Account, removed: list[pa.RecordBatch]) -> bool:
    """Whether it has edited anything. Marks in `opened.alive` what it removes."""
    rule, alive = step.rule, opened.alive
    rows_in = int(alive.sum())
    if isinstance(rule, GatherRule):
        assert step.learnt is not None
        said = rule.run(opened, step.given, step.learnt)
    else:
        assert isinstance(rule, RowRule)
        said = rule.run(opened, step.given)
    before = opened.text
    edits = said.text is not None or said.label is not None or bool(said.columns)
    opened.edit(said.text, said.label, dict(said.columns), said.edited)
    if said.changed is not None:
        texts = said.text is not None or said.label is not None or "group" in said.columns
        what = "changed" if texts else "weighed" if said.columns else "noted"
        removed += _see_changes(said.changed, before, opened, account, step, what)
    for name, of_rows in said.counts.items():
        if n := int(np.asarray(of_rows)[alive].sum()):
            account.counts[name] += n
    if said.removed is not None and said.removed.null_count < len(said.removed):
        gone = said.removed.is_valid().to_numpy(zero_copy_only=False) & alive
        if gone.any():
            rows = np.flatnonzero(gone)
            reasons = said.removed.take(pa.array(rows))
            removed.append(_see_removals(opened, rows, reasons, account, step.hidden, step.number))
            alive &= ~gone
    account.count(rows_in, int(alive.sum()))
    return edits


def _see_changes(
    why: pa.Array,
    before: pl.Series,
    opened: Opened,
    account: Account,
    step: Step,
    what: str,
) -> list[pa.RecordBatch]:
    """The lines of trail.parquet."""
    rows = np.flatnonzero(why.is_valid().to_numpy(zero_copy_only=False) & opened.alive)
    if not len(rows):
        return []
    if what != "noted":
        account.changed += len(rows)
    taken = pa.array(rows)
    ids = opened.batch["id"].take(taken)
    names = ids.to_pylist()
    told = []
    for k in report.lowest(names):
        row, reason = int(rows[k]), why[int(rows[k])].as_py()
        places = opened.places(row)
        old, new = strings(before, places), strings(opened.text, places)
        one = report.changed(names[k], old, new, reason)
        told.append(report.Example(one.id, HIDDEN, HIDDEN, reason) if step.hidden else one)
    account.show(told)
    return [trail_lines(ids, step.number, what, why.take(taken))]


def _see_removals(
    opened: Opened, rows: np.ndarray, reasons: pa.Array, account: Account, hidden: bool, number: int
) -> pa.RecordBatch:
    """The lines of removed.parquet."""
    account.removed += len(rows)
    taken = pa.array(rows)
    ids = opened.batch["id"].take(taken)
    names = ids.to_pylist()
    account.show(
        [
            report.removed(names[k], [HIDDEN] if hidden else opened.of_row(int(rows[k])), reasons[k].as_py())
            for k in report.lowest(names)
        ]
    )
    shown = [HIDDEN] * len(rows) if hidden else opened.previews(rows, PREVIEW)
    columns: list[Any] = [
        ids,
        opened.batch["origin"].take(taken),
        pa.repeat(account.rule, len(rows)),
        reasons.cast(pa.string()),
        pa.array(shown, pa.string()),
    ]
    return removed_lines(columns, number)


def _remove(
    batch: pa.RecordBatch, reasons: pa.Array, account: Account, *, hidden: bool, number: int
) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
    """(rows without a reason, lines of removed.parquet for the others); counts both."""
    if reasons.null_count == len(reasons):
        account.count(len(reasons), len(reasons))
        return batch, None
    gone = reasons.is_valid()
    away = batch.filter(gone)
    lines = _see_removals(
        Opened(away), np.arange(away.num_rows), reasons.filter(gone), account, hidden, number
    )
    kept = batch.filter(reasons.is_null())
    account.count(batch.num_rows, kept.num_rows)
    return kept, lines
