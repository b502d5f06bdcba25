"""What `prepare` runs: a chain of generators from source to files, drawn in `run`.

Everything heavy (Arrow, Polars, DuckDB) is imported from here down, so `prepare` itself stays light to import.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core import plugin
from luthier.core.errors import DataError, did_you_mean
from luthier.core.stage import Context

from . import mapping, report, split
from .connectors.protocol import Connector
from .engines.group import REMOVED, TRAIL
from .engines.local import Batches, LocalEngine, SortedParquet
from .forgotten import Forgotten, Hit, StillThere
from .mapping import Bad, Layout
from .plan import Group, plan_of
from .prepare import PrepareSpec, source_names
from .records import RECORD, contents, hashed, with_instruction
from .report import HIDDEN, Account
from .rules.primitives import Ask
from .shapes import Shape, detect, message_keys
from .spec import SourceSpec
from .task import default_instruction

MOST_LABELS = 200
SAMPLE_ROWS = 1_000


@dataclass(frozen=True)
class Source:
    spec: SourceSpec
    name: str
    connector: Connector


class Preparation:
    """One run of the chain. `reports` says what each step did; `write_errors` are what a full disk may raise."""

    write_errors = (duckdb.IOException, duckdb.OutOfMemoryException)

    def __init__(
        self, spec: PrepareSpec, out: Path, work: Path, at: Context, forgotten: Forgotten | None = None
    ) -> None:
        self.spec, self.out, self.work, self.at = spec, out, work, at
        self._forgotten, self._watched = forgotten or Forgotten(), Forgotten(spec.watched)
        self._still_there: list[Hit] = []
        self.classify = spec.task.kind == "classify"
        self.labels: list[str] | None = None
        self.reports: list[dict[str, Any]] = []
        self._removed = SortedParquet(out / "removed.parquet", REMOVED, work / "removed")
        self._trail = SortedParquet(out / "trail.parquet", TRAIL, work / "trail", then=("step", "why"))
        self._engine = LocalEngine(work, self._removed.write, self._trail.write, at.check)
        names = source_names(spec.data.sources)
        self._own_tasks = {
            name: source.task for name, source in zip(names, spec.data.sources, strict=True) if source.task
        }
        self._private = any(plugin.load("rule", wish.name).private for wish in spec.data.rules.ordered)
        self._read_account = Account("read", {}, 1)
        self._sides_account = Account("split", spec.data.split.plain(), 1)
        self._accounts: list[Account] = []
        self._files = {
            name: SortedParquet(out / f"{name}.parquet", RECORD, work / name) for name in split.SIDES
        }
        self._by_source = {name: dict.fromkeys(split.SIDES, 0) for name in names}
        self._by_label: dict[str, dict[str, int]] = {}
        self._characters = 0

    @property
    def removed_rows(self) -> int:
        return self._removed.rows

    def run(self) -> dict[str, Any]:
        """Do everything; returns what goes into dataset.json."""
        sources = self._sources()
        named = tuple(source.name for source in sources if source.spec.map and source.spec.map.id)
        sides = split.Sides(self.spec.data.split, self._stratify())
        rows = self._read(sources)
        for group in plan_of(self.spec.data.rules, sides, named):
            rows = self._run(group, rows)
        for batch in rows:
            self._write(batch, "train")
        facts = self._facts()
        self._removed.close()
        self._trail.close()
        self._account()
        return facts

    def _run(self, group: Group, rows: Batches) -> Batches:
        accounts = [step.account() for step in group.steps]
        self._accounts += accounts
        if group.sides is not None:
            accounts.append(self._sides_account)
        return self._engine.run(group, rows, accounts, self)

    def at_group(self, group: Group, batch: pa.RecordBatch) -> None:
        """What the engine shows after a group's row rules: rows that are about to be divided must be what the task is of."""
        check = {"classify": self._labelled, "regress": self._numbered}.get(self.spec.task.kind)
        if group.sides is not None and check is not None:
            check(batch)

    # sources -> records

    def _sources(self) -> list[Source]:
        connect = plugin.load("connector", "files")
        wishes = self.spec.data.sources
        return [
            Source(spec, name, connect(spec, self.at.root, self.at.secret))
            for spec, name in zip(wishes, source_names(wishes), strict=True)
        ]

    def _read(self, sources: list[Source]) -> Batches:
        account = self._read_account
        total = sum(source.connector.estimate().size_bytes for source in sources)
        done = 0
        for source in sources:
            layout = self._layout(source)
            start = time.perf_counter()
            for block in source.connector.blocks(layout.columns):
                self.at.check()
                records, bad = mapping.to_records(block, layout)
                records, bad, forgotten = self._forget(records, bad, source.name)
                if bad.origins:
                    self._set_aside(bad, layout, account)
                account.count(len(block) - forgotten, records.num_rows)
                self.at.progress("read", done + source.connector.done_bytes(), total, rows=account.rows_in)
                account.seconds += time.perf_counter() - start
                if records.num_rows:
                    yield records
                start = time.perf_counter()
            done += source.connector.done_bytes()
        if self._still_there:
            raise StillThere(self._still_there)

    def _forget(self, records: pa.RecordBatch, bad: Bad, source: str) -> tuple[pa.RecordBatch, Bad, int]:
        """Both without what is forgotten, and how many rows that was. Where something else turns up that was to be forgotten
        nothing goes on: the rest is read only to find all of it."""
        n = records.num_rows + len(bad.origins)
        if self._forgotten:
            records = records.filter(pc.invert(self._forgotten.holds(records, source)))
            bad = bad.without(self._forgotten.places(bad.origins, source))
        gone = n - records.num_rows - len(bad.origins)
        if gone:
            self._read_account.counts["forgotten"] += gone
        if self._watched:
            self._still_there += self._watched.hits(records, source)
            if self._still_there:
                return records.slice(0, 0), Bad([], [], []), n
        return records, bad, gone

    def _layout(self, source: Source) -> Layout:
        head = source.connector.head(SAMPLE_ROWS)
        written = source.spec.map
        if written is None or not written.has_layout:
            shape = detect(head.columns, head.rows, source.name)
            self.at.emit(
                "layout", source=source.name, layout=shape.name, map=shape.map.plain(), reason=shape.reason
            )
        else:
            keys = message_keys(written.messages, head.rows) if written.messages is not None else None
            shape = Shape("map", written, 1.0, "the recipe says so", keys or ("role", "content"))
        group_by = self.spec.data.split.group_by
        layout = Layout.of(
            shape, written, group_by, classify=self.classify, source=source.name, weight=source.spec.weight
        )
        if self.classify and layout.map.text is not None:
            raise DataError(
                f"{source.name}: a classifier needs a label for every row, and this source is mapped as plain text.",
                remedy="Name the label's column: map: {user: TEXT, label: LABEL}",
            )
        return layout

    def _set_aside(self, bad: Bad, layout: Layout, account: Account) -> None:
        if layout.map.on_bad_row == "refuse":
            more = f" (and {len(bad.origins) - 1} more rows nearby)" if len(bad.origins) > 1 else ""
            raise DataError(
                f"{bad.origins[0]}: {bad.reasons[0]}{more}.\n  {bad.previews[0]}",
                remedy="Correct the row, or set map: {on_bad_row: set_aside} to keep such rows out, with the reason on record.",
            )
        account.removed += len(bad.origins)
        shown = [HIDDEN] * len(bad.origins) if self._private else bad.previews
        account.show(
            [report.removed(*one) for one in zip(bad.origins, ([s] for s in shown), bad.reasons, strict=True)]
        )
        ids = hashed([f"unread:{layout.source}\0{origin}" for origin in bad.origins])
        rows = [
            ids,
            pa.array(bad.origins),
            pa.repeat("read", len(ids)),
            pa.array(bad.reasons),
            pa.array(shown),
        ]
        self._removed.write(pa.record_batch(rows, schema=REMOVED))

    # labels

    def _labelled(self, batch: pa.RecordBatch) -> None:
        """Refuse a row with a blank label, or with one that the recipe does not list."""
        blank = pc.invert(pc.match_substring_regex(batch["label"], r"\S"))
        for row in pc.indices_nonzero(blank)[:1].to_pylist():
            raise DataError(
                f"{batch['origin'][row]}: the label is empty.",
                remedy="Correct the row, or add the rule drop_empty.",
            )
        if self.spec.task.labels == "auto":
            return
        listed = pa.array(self.spec.task.labels, pa.string())
        strange = pc.invert(pc.is_in(batch["label"], value_set=listed))
        for row in pc.indices_nonzero(strange)[:1].to_pylist():
            label = batch["label"][row].as_py()
            raise DataError(
                f"{batch['origin'][row]}: the label {label[:60]!r} is not in task.labels.",
                remedy=f"{did_you_mean(label, listed.to_pylist())} Correct the row, or add the label to task.labels.",
            )

    def _numbered(self, batch: pa.RecordBatch) -> None:
        """Refuse a row whose answer is not a number."""
        for row, messages in enumerate(batch["messages"].to_pylist()):
            answer = messages[-1]["content"] if messages else ""
            if not _is_number(answer):
                raise DataError(
                    f"{batch['origin'][row]}: the answer {answer[:60]!r} is not a number, and the task is regress.",
                    remedy="Correct the row, map the column with the number as `assistant`, or choose another task.",
                )

    def settle(self, ask: Ask, rows: str) -> None:
        """The labels that there are, before the rows are divided."""
        if not self.classify:
            return
        counts: dict[str, int] = dict(
            ask(f"SELECT label, count(*) FROM {rows} GROUP BY label ORDER BY label")
        )
        n = sum(counts.values())
        if self.spec.task.labels != "auto":
            self.labels = list(self.spec.task.labels)
            for label in [label for label in self.labels if label not in counts]:
                self._warn("labels", f"the label {label!r} of task.labels occurs in no row")
            return
        self.labels = sorted(counts)
        if len(counts) < 2:
            raise DataError(
                f"every row has the label {self.labels[0]!r}; there is nothing to tell apart.",
                remedy="Map another column as label.",
            )
        if len(counts) > MOST_LABELS or (n >= 20 and len(counts) > n / 2):
            examples = ", ".join(repr(label[:40]) for label in self.labels[:3])
            raise DataError(
                f"{n} rows have {len(counts)} different labels ({examples}, ...): this looks like free text, not like labels.",
                remedy="Use task: {kind: chat}; or list the labels you mean in task.labels.",
            )

    # records -> files

    def _stratify(self) -> bool:
        wish = self.spec.data.split
        if wish.stratify == "label" and not self.classify:
            raise DataError(
                f"split.stratify: label needs labels, and this task is {self.spec.task.kind}.",
                remedy="Remove it, or use task: {kind: classify}.",
            )
        return wish.stratify == "label" or (wish.stratify == "auto" and self.classify)

    def held(self, batch: pa.RecordBatch, side: str) -> None:
        """Rows of validation and test are written as the engine divides them."""
        self._write(batch, side)

    def _write(self, rows: pa.RecordBatch, side: str) -> None:
        self.at.check()
        for source in pc.unique(rows["source"]).to_pylist():
            mine = rows.filter(pc.equal(rows["source"], source))
            told = with_instruction(mine, *self._instruction_of(source))
            self._files[side].write(told)
            self._characters += int(contents(told).str.len_chars().sum())
            self._by_source[source][side] += told.num_rows
            for entry in pc.value_counts(told["label"]).to_pylist() if self.classify else []:
                by_side = self._by_label.setdefault(entry["values"], dict.fromkeys(split.SIDES, 0))
                by_side[side] += entry["counts"]

    def _instruction(self) -> str | None:
        if self.spec.task.instruction is None and self.labels is not None:
            return default_instruction(self.labels)
        return self.spec.task.instruction

    def _instruction_of(self, source: str) -> tuple[str | None, str]:
        """What rows of a source are told, and where it stands."""
        own = self._own_tasks.get(source)
        return (
            (own.instruction, own.instruction_role)
            if own
            else (self._instruction(), self.spec.task.instruction_role)
        )

    def _refuse_empty(self, counts: dict[str, int]) -> None:
        wish, divided = self.spec.data.split, self._sides_account.rows_in
        if divided == 0:
            steps = [self._read_account, *self._accounts]
            account = ", ".join(f"{one.rule} removed {one.removed}" for one in steps if one.removed)
            raise DataError(
                f"no row is left: {self._read_account.rows_in} were read, {account}.",
                remedy="Loosen the rule that removed most.",
            )
        by = (
            "groups"
            if wish.group_by or any(s.map and s.map.group for s in self.spec.data.sources)
            else "different inputs"
        )
        for name, asked in (("train", True), ("test", wish.test > 0)):
            if asked and counts[name] == 0:
                raise DataError(
                    f"the split leaves no row in {name}: there are {divided} rows, and too few {by} to divide.",
                    remedy=f"Give more rows, another split.seed, or other shares; with fewer than {split.FEWEST_KEYS} {by} nothing is guaranteed.",
                )
        if wish.validation > 0 and counts["validation"] == 0:
            self._warn(
                "split",
                f"no row fell into validation, because there are too few {by}; training cannot be watched",
            )

    def _facts(self) -> dict[str, Any]:
        """Close the files; what goes into dataset.json."""
        counts = {name: file.rows for name, file in self._files.items()}
        self._refuse_empty(counts)
        for file in self._files.values():
            file.close()
        wish = self.spec.data.split
        asked = [side for side in split.SIDES if side == "train" or getattr(wish, side) > 0]
        for sentence in split.missing_labels(self._by_label, asked):
            self._warn("split", sentence)
        task = self.spec.task
        return {
            "task": {
                "kind": task.kind,
                "instruction": self._instruction(),
                "instruction_role": task.instruction_role,
                "labels": self.labels,
            },
            "counts": counts,
            "sources": [
                {"name": name, "instruction": self._instruction_of(name)[0], "counts": by_side}
                for name, by_side in self._by_source.items()
            ],
            "split": {**self.spec.data.split.plain(), "stratified": self._stratify()},
            "labels": {
                label: self._by_label.get(label, dict.fromkeys(split.SIDES, 0)) for label in self.labels
            }
            if self.labels
            else None,
            "characters": self._characters,
        }

    # accounts

    def _account(self) -> None:
        steps = [self._read_account, *self._accounts]
        if self._sides_account.removed:
            steps.append(self._sides_account)
        for account in steps:
            self.reports.append(account.plain())
            figures = {
                name: getattr(account, name) for name in ("rule", "rows_in", "rows_out", "removed", "changed")
            }
            self.at.emit("rule", **figures, seconds=account.seconds)
            idle = account.rows_in and not (account.removed or account.changed or account.counts)
            if account is not self._read_account and idle:
                self.at.emit("note", about=account.rule, message=f"{account.rule} matched no row")

    def _warn(self, about: str, message: str) -> None:
        self.at.emit("warning", about=about, message=message)


def records(spec: PrepareSpec, work: Path, at: Context) -> Batches:
    """What the sources hold, mapped, before any rule. `work` is a folder of its own. Raises DataError."""
    work.mkdir(parents=True)
    preparation = Preparation(spec, work, work / "work", at)
    yield from preparation._read(preparation._sources())


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
