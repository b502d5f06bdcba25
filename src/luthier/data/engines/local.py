"""The local engine: bounded memory, any size that fits the disk. Small data is worked on in this process, as here; large data by
several (parallel), with the same answers.

    batches ─▶ group: row rules, keys ─▶ rows wait in a spool (Arrow IPC) ──▶ group ─▶ ...
                                      └ keys go to DuckDB, which spills; it answers one decision per row

A group whose rules need no keys streams on. One that does reads its input to the end: its keyed rules are decided one
after the other over the rows that the ones before have left. DuckDB never sees a text, only hashes, ids and labels. One with
a rule that learns from all rows reads its input to the end, too, and then once more, in this process alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import duckdb
import pyarrow as pa

from luthier.data import split
from luthier.data.connectors.protocol import Part
from luthier.data.plan import Group, Step
from luthier.data.reading import Job, read_part
from luthier.data.records import RECORD
from luthier.data.report import Account
from luthier.data.rules.rule import GatherRule, MakeRule

from .decide import decide
from .gather import AllFeatures, features_of_all, learn
from .group import Grouped, carry_out, run_group
from .keys import Keys
from .making import make_rows
from .pairs import features_of
from .parallel import Rows, Spread, workers_for
from .protocol import At, LocalEngineSpec, Look
from .spool import HELD_BYTES, Spool

Batches = Iterator[pa.RecordBatch]


class LocalEngine:
    """protocol.Engine. Its frames are generators: nothing runs before the rows are drawn. Those of several processes are
    parallel.Rows, which it hands on."""

    write_errors: ClassVar[tuple[type[Exception], ...]] = (
        duckdb.IOException,
        duckdb.OutOfMemoryException,
        duckdb.TransactionException,  # its log could not be written
    )

    def __init__(self, settings: LocalEngineSpec, at: At) -> None:
        self._settings, self._at = settings, at
        self._groups = 0
        self._spread: Spread | None = None

    def read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Batches | Rows:
        workers = workers_for(self._settings, work)
        if workers == 1:
            return self._read(work, account, look)
        self._spread = Spread(self._settings, self._at, workers)
        return self._spread.read(work, account, look)

    def run(
        self, group: Group, frame: Batches | Rows, accounts: Sequence[Account], look: Look
    ) -> Batches | Rows:
        if isinstance(frame, Rows):
            assert self._spread is not None
            makes = group.grows is not None and isinstance(group.grows.rule, MakeRule)
            if group.learns is None and not makes:
                return self._spread.run(group, frame, accounts, look)
            frame = self._spread.rows(
                frame
            )  # what sees all rows does so in this process, and what follows it too
        return self._run(group, frame, accounts, look)

    def rows(self, frame: Batches | Rows) -> Batches:
        if isinstance(frame, Rows):
            assert self._spread is not None
            return self._spread.rows(frame)
        return frame

    def close(self) -> None:
        """Files are in the folder that the caller removes."""
        if self._spread is not None:
            self._spread.close()

    def _read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Batches:
        passed_bytes = 0
        for job, part in work:
            parts = read_part(job, part)
            while True:
                with account.clock():
                    found = next(parts, None)
                if found is None:
                    break
                self._at.check()
                account.add(found.account)
                if found.removed is not None:
                    self._at.discard(found.removed)
                look.seen(passed_bytes + found.done_bytes, account.rows_in)
                if found.records.num_rows:
                    yield found.records
            passed_bytes += part.size_bytes

    def _run(self, group: Group, frame: Batches, accounts: Sequence[Account], look: Look) -> Batches:
        """Batches without a row vanish."""
        self._groups += 1
        passed = self._passed(group, frame, accounts)
        if group.grows is not None and isinstance(group.grows.rule, MakeRule):
            alone = self._passed(replace(group, grows=None), frame, accounts)
            yield from self._made(group.grows, alone, accounts[-1], look)
            return
        if group.learns is not None:
            yield from self._learnt(group.learns, passed, accounts[-1], look)
            return
        if not group.needs_keys:
            for found in passed:
                yield found.batch
            return
        folder = self._at.work / f"group-{self._groups}"
        spool, table = Spool(folder / "rows.arrow", RECORD, HELD_BYTES), Keys(folder, self._settings.memory)
        for found in passed:
            table.add(found.keys)
            spool.write(found.batch)
        if table.ready():

            def again(step: Step, wanted: pa.Table) -> Batches:
                return features_of(step, wanted, self._stoppable(spool.read()))

            decisions = table.decisions(decide(group, table, accounts, look, again, folder))
            for batch in spool.read():
                self._at.check()
                decided = carry_out(group, batch, decisions.take(batch.num_rows))
                self._account(decided.accounts, accounts[len(group.rows) :], decided.removed)
                train, *held = split.SIDES
                for name in held if group.sides is not None else ():
                    look.held(decided.sides[name], name)
                if decided.sides[train].num_rows:
                    yield decided.sides[train]
        spool.remove()
        shutil.rmtree(folder)

    def _learnt(self, step: Step, passed: Iterator[Grouped], account: Account, look: Look) -> Batches:
        """All rows to the end, then each again with what they, or those that are held out, have taught."""
        assert isinstance(step.rule, GatherRule)
        folder = self._at.work / f"group-{self._groups}"
        spool, features = Spool(folder / "rows.arrow", RECORD), AllFeatures(folder, self._at.check)
        any_rows = False
        for found in passed:
            any_rows = True
            spool.write(found.batch)
            if step.rule.of == "rows":
                with account.clock():
                    features.add(features_of_all(step, found.batch))
        if any_rows:
            with account.clock():
                for batch in look.held_rows() if step.rule.of == "held" else ():
                    features.add(features_of_all(step, batch))
                told = learn(step, features, account)
            yield from (
                found.batch
                for found in self._passed(Group(rows=(replace(step, learnt=told),)), spool.read(), [account])
            )
        spool.remove()
        shutil.rmtree(folder)

    def _made(self, step: Step, passed: Iterator[Grouped], account: Account, look: Look) -> Batches:
        """All rows, and then those that were made of them."""
        folder = self._at.work / f"group-{self._groups}"
        spool = Spool(folder / "rows.arrow", RECORD)
        for found in passed:
            spool.write(found.batch)
        yield from spool.read()
        yield from make_rows(step, lambda: self._stoppable(spool.read()), look.held_rows, account)
        spool.remove()
        shutil.rmtree(folder)

    def _stoppable(self, batches: Batches) -> Batches:
        for batch in batches:
            self._at.check()
            yield batch

    def _passed(self, group: Group, batches: Batches, accounts: Sequence[Account]) -> Iterator[Grouped]:
        """Through the group's row rules."""
        for batch in batches:
            self._at.check()
            found = run_group(group, batch)
            self._account(found.accounts, accounts, found.removed)  # that of the sides comes last
            if found.batch.num_rows:
                yield found

    def _account(
        self, found: Sequence[Account], whole: Sequence[Account], removed: Sequence[pa.RecordBatch]
    ) -> None:
        for one, all_ in zip(found, whole, strict=False):
            all_.add(one)
        for lines in removed:
            self._at.discard(lines)
