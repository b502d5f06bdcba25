"""What `prepare` runs: sources -> an engine that carries out the plan -> files.

Everything heavy (Arrow, Polars, DuckDB) is imported from here down, so `prepare` itself stays light to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core import plugin
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.stage import Context
from luthier.store.answers import ANSWERS

from . import canaries, split
from .connectors import connect
from .connectors.faults import unshown
from .connectors.protocol import Connector, Moving, Part
from .contract import ContractSpec, contract_of
from .contract_whole import check_columns, check_whole, refuse_broken
from .engines.arrow_file import ArrowFile
from .engines.protocol import At, Engine, Frame
from .engines.spool import SortedSide
from .forgotten import STILL_THERE, Forgotten, Hit, StillThere
from .grouped import whole
from .inferred import Inferred
from .mapping import Layout
from .plan import Group, model_roles, models, plan_of
from .prepare import PrepareSpec, source_names
from .reading import REMOVED, TRAIL, Job, broken, read_part, reading, under
from .records import KEPT, RECORD, contents, with_instruction
from .report import Account
from .rules.primitives import Ask
from .rules.rule import Lent, MakeRule
from .shapes import shape_of
from .shards import write_manifest
from .spec import RuleSpec, SourceSpec
from .task import default_instruction, extract_instruction

MOST_LABELS = 200
SAMPLE_ROWS = 1_000


class Lines:
    """Where lines of every kind go (reading.LINES): removed.parquet, trail.parquet, and rows that were to be forgotten."""

    def __init__(self, out: Path, work: Path) -> None:
        more = ("origin", "rule", "reason", "preview")
        self.removed = SortedSide(out / "removed.parquet", REMOVED, work / "removed", more)
        self.trail = SortedSide(out / "trail.parquet", TRAIL, work / "trail", ("step", "what", "why"))
        self.still_there: list[Hit] = []

    def write(self, lines: pa.RecordBatch) -> None:
        for what in pc.unique(lines["what"]).to_pylist():
            mine = lines.filter(pc.equal(lines["what"], what))
            if what == "removed":
                self.removed.write(mine.select(REMOVED.names))
            elif what == STILL_THERE:
                rows = mine.select(["id", "reason", "preview", "origin"]).to_pylist()
                self.still_there += [Hit(*row.values()) for row in rows]
            else:
                columns = [mine["id"], mine["step"], mine["what"], mine["reason"]]
                self.trail.write(pa.record_batch(columns, schema=TRAIL))

    def close(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of them."""
        return {"removed": self.removed.close(), "trail": self.trail.close()}


class Preparation:
    """One run of the chain. `reports` says what each step did."""

    def __init__(
        self,
        spec: PrepareSpec,
        out: Path,
        work: Path,
        at: Context,
        forgotten: Forgotten | None = None,
        pins: Mapping[str, Mapping[str, Any]] | None = None,
        asked: Mapping[str, Artifact] | None = None,
    ) -> None:
        """`pins` say where sources that move stood when their fingerprints were taken, `asked` holds the models that rules ask
        (plan.model_roles), both by role."""
        spec = spec.model_copy(update={"task": spec.task.settled(at.root)})
        self.spec, self.out, self.work, self.at = spec, out, work, at
        self._asked = asked or {}
        self._forgotten, self._watched = forgotten or Forgotten(), Forgotten(spec.watched)
        self._pins = pins or {}
        self.classify = spec.task.kind == "classify"
        self.labels: list[str] | None = None
        self._answers = Inferred() if spec.task.kind == "extract" and spec.task.schema_ == "auto" else None
        self.reports: list[dict[str, Any]] = []
        self._lines = Lines(out, work)
        engine = spec.data.engine
        self._engine: Engine = engine.load().make(
            engine.settings, At(work, self._lines.write, at.check, at.secret)
        )
        names = source_names(spec.data.sources)
        self._own_tasks = {
            name: source.task for name, source in zip(names, spec.data.sources, strict=True) if source.task
        }
        self._own_sides = {
            name: source.side for name, source in zip(names, spec.data.sources, strict=True) if source.side
        }
        self._private = any(plugin.load("rule", wish.name).private for wish in spec.rules.ordered)
        self._read_account = reading()
        self._sides_account = Account("split", spec.data.split.plain(), 1)
        self._total_bytes = 0
        self._accounts: list[Account] = []
        self._divided = 0  # how many of them saw the rows before these were divided
        keeps = any(source.map is not None and source.map.keep for source in spec.data.sources)
        self._columns = RECORD if keeps else pa.schema([field for field in RECORD if field.name != KEPT])
        self._files = {
            name: SortedSide(out / f"{name}.parquet", self._columns, work / name) for name in split.SIDES
        }
        self._by_source = {name: dict.fromkeys(split.SIDES, 0) for name in names}
        self._by_label: dict[str, dict[str, int]] = {}
        self._characters = self._planted = 0
        late = [plugin.load("rule", wish.name) for wish in spec.data.rules.quantity]
        looks = any(isinstance(rule, MakeRule) or getattr(rule, "of", "rows") == "held" for rule in late)
        self._held = ArrowFile(work / "held.arrow") if looks else None

    @property
    def write_errors(self) -> tuple[type[Exception], ...]:
        """What a full disk may raise."""
        return self._engine.write_errors

    @property
    def removed_rows(self) -> int:
        return self._lines.removed.rows

    def run(self) -> dict[str, Any]:
        """Do everything; returns what goes into dataset.json."""
        work = self._work()
        named = tuple({job.layout.source: None for job, _ in work if job.layout.map.id})
        sides = split.Sides(self.spec.data.split, self._stratify(), self.spec.task, self._own_sides)
        self._total_bytes = sum(part.size_bytes for _, part in work)
        try:
            self._check_contracts(work)
            frame = self._engine.read(work, self._read_account, self)
            for group in plan_of(self.spec.rules, sides, named, partial(reached, at=self.at), self._lender()):
                frame = self._run(group, frame)
            for batch in self._engine.rows(frame):
                self._write(batch, "train")
            self._plant()
        except DataError:
            if not self._lines.still_there:  # without those rows anything may be wrong, and it is made anew
                raise
        finally:
            self._engine.close()
        if self._lines.still_there:
            raise StillThere(self._lines.still_there)
        self._refuse_broken(work)
        facts = self._facts()
        written = {name: file.close() for name, file in self._files.items()}
        write_manifest(self.out, {**written, **self._lines.close()})
        self._account()
        return facts

    def _run(self, group: Group, frame: Frame) -> Frame:
        accounts = [step.account() for step in group.steps]
        self._accounts += accounts
        if group.sides is not None:
            accounts.append(self._sides_account)
            self._divided = len(self._accounts)
        return self._engine.run(group, frame, accounts, self)

    def _lender(self) -> Callable[[RuleSpec], Lent]:
        """What rules that ask a model are given. What one of them loads the next finds loaded."""
        roles = model_roles(self.spec.data.rules)
        made: dict[Any, Any] = {}

        def lend(wish: RuleSpec) -> Lent:
            found = {setting: self._asked[roles[name]] for setting, name in models(wish).items()}
            return Lent(
                wish.settings,
                {setting: str(self.at.folder(one)) for setting, one in found.items()},
                {setting: one.digest for setting, one in found.items()},
                str(self.at.home / ANSWERS),
                self.at.check,
                self.at.progress,
                self.at.secret,
                self.at.emit,
                self.spec.asks,
                made,
            )

        return lend

    # sources -> records

    def _work(self) -> list[tuple[Job, Part]]:
        """Every part of every source, in order. A source that is not there is told before any is read."""
        wishes = self.spec.data.sources
        wishes = [
            one.model_copy(update={"contract": contract_of(one.contract, self.at.root)}) for one in wishes
        ]
        found = [
            connect(source, self.at.root, self.at.secret, self._pins.get(f"source.{n}"))
            for n, source in enumerate(wishes)
        ]
        parts = [connector.parts() for connector in found]
        names = source_names(wishes)
        return [
            (job, part)
            for name, source, connector, of_source in zip(names, wishes, found, parts, strict=True)
            for job in [self._job(source, self._layout(source, name, connector), connector)]
            for part in ([whole(of_source)] if job.layout.map.conversation is not None else of_source)
        ]

    def _check_contracts(self, work: Sequence[tuple[Job, Part]]) -> None:
        """What a contract promises of all rows, before any is worked on. Raises DataError."""
        for name, job in {job.layout.source: job for job, _ in work}.items():
            if isinstance(job.source.contract, ContractSpec):
                connector = job.connect()
                with unshown(self._private):
                    check_columns(job.source.contract, connector.head(SAMPLE_ROWS), name)
                    check_whole(job.source.contract, connector, name, self.work / "contract", self.at.check)

    def _refuse_broken(self, work: Sequence[tuple[Job, Part]]) -> None:
        """Raises DataError where more rows break a contract than it allows."""
        counts = self._read_account.counts
        for name, job in {job.layout.source: job for job, _ in work}.items():
            if isinstance(job.source.contract, ContractSpec):
                refuse_broken(job.source.contract, counts[broken(name)], counts[under(name)], name)

    def _job(self, source: SourceSpec, layout: Layout, connector: Connector) -> Job:
        pin = connector.pinned() if isinstance(connector, Moving) else None
        job = Job.of(source, self.at.root, layout, self.at.secret, hidden=self._private, pin=pin)
        return replace(job, forgotten=self._forgotten, watched=self._watched)

    def seen(self, done_bytes: int, rows: int | None) -> None:
        """What the engine tells while it reads."""
        self.at.progress("read", done_bytes, self._total_bytes, **({} if rows is None else {"rows": rows}))

    def _layout(self, source: SourceSpec, name: str, connector: Connector) -> Layout:
        with unshown(self._private):
            head = connector.head(SAMPLE_ROWS)
        written = source.map
        shape = shape_of(written, head, name)
        if shape.name != "map":
            self.at.emit("layout", source=name, layout=shape.name, map=shape.map.plain(), reason=shape.reason)
        group_by = self.spec.data.split.group_by
        layout = Layout.of(
            shape,
            written,
            group_by,
            classify=self.classify,
            source=name,
            weight=source.weight,
            columns=head.columns,
            json=self.spec.task.kind == "extract",
        )
        if self.classify and layout.map.text is not None:
            raise DataError(
                f"{name}: a classifier needs a label for every row, and this source is mapped as plain text.",
                remedy="Name the label's column: map: {user: TEXT, label: LABEL}",
            )
        if self.spec.task.kind == "extract" and layout.map.text is not None:
            raise DataError(
                f"{name}: an extractor needs an answer for every row, and this source is mapped as plain text.",
                remedy="Name the column with the JSON: map: {user: TEXT, assistant: JSON}",
            )
        return layout

    # labels

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
        if self._held is not None and batch.num_rows:
            self._held.write(batch)

    def held_rows(self) -> Iterator[pa.RecordBatch]:
        assert self._held is not None
        self._held.close()
        return self._held.read()

    def _write(self, rows: pa.RecordBatch, side: str) -> None:
        self.at.check()
        for source in pc.unique(rows["source"]).to_pylist():
            mine = rows.filter(pc.equal(rows["source"], source))
            told = with_instruction(mine, *self._instruction_of(source))
            self._files[side].write(told.select(self._columns.names))
            self._characters += int(contents(told).str.len_chars().sum())
            if self._answers is not None and side == "train":
                self._answers.see_rows(mine)
            self._by_source[source][side] += told.num_rows
            for entry in pc.value_counts(told["label"]).to_pylist() if self.classify else []:
                by_side = self._by_label.setdefault(entry["values"], dict.fromkeys(split.SIDES, 0))
                by_side[side] += entry["counts"]

    def _plant(self) -> None:
        """Canaries stand among the training rows as any other row does, and are in no rule's account."""
        if self.spec.data.canaries is None:
            return
        told = with_instruction(
            canaries.records(self.spec.data.canaries), self._instruction(), self.spec.task.instruction_role
        )
        self._files["train"].write(told.select(self._columns.names))
        self._planted = told.num_rows
        self.at.emit("canaries", rows=told.num_rows, secrets=self.spec.data.canaries.count)

    def _instruction(self) -> str | None:
        if self.spec.task.kind == "extract" and self.spec.task.instruction is None:
            schema = self.spec.task.schema_
            return extract_instruction(schema if isinstance(schema, dict) else None)
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
        taken = {
            one.rule: one.removed for one in self._accounts[self._divided :] if one.removed
        }  # those of quantity, which see train alone
        if counts["train"] == 0 and taken:
            told = ", ".join(f"{rule} removed {n}" for rule, n in taken.items())
            raise DataError(
                f"no row is left in train: {told}, of the {divided} rows of all sides.",
                remedy="Loosen the rule that removed most.",
            )
        by = (
            "groups"
            if wish.group_by or any(s.map and s.map.group for s in self.spec.data.sources)
            else "different inputs"
        )
        for name, asked in (("train", True), ("test", self.spec.data.has("test"))):
            if asked and counts[name] == 0:
                raise DataError(
                    f"the split leaves no row in {name}: there are {divided} rows, and too few {by} to divide.",
                    remedy=f"Give more rows, another split.seed, or other shares; with fewer than {split.FEWEST_KEYS} {by} nothing is guaranteed.",
                )
        if self.spec.data.has("validation") and counts["validation"] == 0:
            self._warn(
                "split",
                f"no row fell into validation, because there are too few {by}; training cannot be watched",
            )

    def _facts(self) -> dict[str, Any]:
        """What goes into dataset.json."""
        counts = {name: file.rows for name, file in self._files.items()}
        counts["train"] -= self._planted  # they are nobody's, and no row stands for another
        self._refuse_empty(counts)
        held = [side for side in ("validation", "test") if self.spec.data.has(side)]
        asked = ["train", *held]
        for sentence in split.missing_labels(self._by_label, asked):
            self._warn("split", sentence)
        task = self.spec.task
        schema = {"schema": self._schema()} if task.kind == "extract" else {}
        return {
            "task": {
                "kind": task.kind,
                "instruction": self._instruction(),
                "instruction_role": task.instruction_role,
                "labels": self.labels,
                **schema,
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
            **({"canaries": canaries.facts(wish)} if (wish := self.spec.data.canaries) else {}),
        }

    def _schema(self) -> Any:
        """As written, or what the answers of train have in common."""
        return self.spec.task.schema_ if self._answers is None else self._answers.schema

    # accounts

    def _account(self) -> None:
        steps = [self._read_account, *self._accounts]
        if self._sides_account.removed or self._sides_account.notes:
            steps.append(self._sides_account)
        for account in steps:
            self.reports.append(account.plain())
            figures = {
                name: getattr(account, name)
                for name in ("rule", "rows_in", "rows_out", "removed", "changed", "added")
            }
            self.at.emit("rule", **figures, seconds=account.seconds)
            idle = account.rows_in and not (
                account.removed or account.changed or account.added or account.counts
            )
            if account is not self._read_account and idle:
                self.at.emit("note", about=account.rule, message=f"{account.rule} matched no row")

    def _warn(self, about: str, message: str) -> None:
        self.at.emit("warning", about=about, message=message)


def reached(pattern: str, at: Context) -> str:
    """A file that a rule names, from wherever a process stands."""
    written = at.secret(pattern)
    return written if "://" in written else str(at.root / Path(written).expanduser())


def records(spec: PrepareSpec, work: Path, at: Context) -> Iterator[pa.RecordBatch]:
    """What the sources hold, mapped, before any rule. `work` is a folder of its own. Raises DataError."""
    work.mkdir(parents=True)
    for job, part in Preparation(spec, work, work / "work", at)._work():
        for found in read_part(job, part):
            at.progress("read", 0, None)
            yield found.records
