"""What `prepare` runs: a chain of generators from source to files, drawn in `run`.

Everything heavy (Arrow, Polars, DuckDB) is imported from here down, so `prepare` itself stays light to import.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core import plugin
from luthier.core.errors import DataError, did_you_mean
from luthier.core.stage import Context

from . import mapping, split
from .connectors.protocol import Connector
from .engines.local import Batches, SortedParquet, apply, keyed, remove
from .mapping import Bad, Layout
from .prepare import PrepareSpec, source_names
from .records import RECORD, contents, hashed, previews, replace, with_instruction
from .report import Tally
from .shapes import Shape, detect, message_keys
from .spec import SourceSpec
from .task import default_instruction

REMOVED = pa.schema([(name, pa.string()) for name in ("id", "origin", "rule", "reason", "preview")])
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

    def __init__(self, spec: PrepareSpec, out: Path, work: Path, at: Context) -> None:
        self.spec, self.out, self.work, self.at = spec, out, work, at
        self.classify = spec.task.kind == "classify"
        self.labels: list[str] | None = None
        self.reports: list[dict[str, Any]] = []
        self._removed = SortedParquet(out / "removed.parquet", REMOVED, work / "removed")
        self._tallies: list[Tally] = []
        names = source_names(spec.data.sources)
        self._own_tasks = {
            name: source.task for name, source in zip(names, spec.data.sources, strict=True) if source.task
        }

    @property
    def removed_rows(self) -> int:
        return self._removed.rows

    def run(self) -> dict[str, Any]:
        """Do everything; returns what goes into dataset.json."""
        sources = self._sources()
        rows = self._unique(self._read(sources, self._tally("read", {}, 1)), sources)
        for number, wish in enumerate(self.spec.data.rules.ordered, 1):
            tally = self._tally(wish.name, wish.settings.plain(), plugin.load("rule", wish.name).version)
            folder = self.work / f"rule-{number}"
            rows = apply(plugin.load("rule", wish.name), wish, rows, tally, self._discard, folder)
        checks = {"classify": self._labelled, "regress": self._numbered}
        facts = self._divide(checks.get(self.spec.task.kind, iter)(rows))
        self._removed.close()
        self._account()
        return facts

    # sources -> records

    def _sources(self) -> list[Source]:
        connect = plugin.load("connector", "files")
        wishes = self.spec.data.sources
        return [
            Source(spec, name, connect(spec, self.at.root, self.at.secret))
            for spec, name in zip(wishes, source_names(wishes), strict=True)
        ]

    def _read(self, sources: list[Source], tally: Tally) -> Batches:
        total = sum(source.connector.estimate().size_bytes for source in sources)
        done = 0
        for source in sources:
            layout = self._layout(source)
            start = time.perf_counter()
            for block in source.connector.blocks(layout.columns):
                self.at.check()
                records, bad = mapping.to_records(block, layout)
                if bad.origins:
                    self._set_aside(bad, layout, tally)
                tally.count(len(block), records.num_rows)
                self.at.progress("read", done + source.connector.done_bytes(), total, rows=tally.rows_in)
                tally.seconds += time.perf_counter() - start
                if records.num_rows:
                    yield records
                start = time.perf_counter()
            done += source.connector.done_bytes()

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

    def _set_aside(self, bad: Bad, layout: Layout, tally: Tally) -> None:
        if layout.map.on_bad_row == "refuse":
            more = f" (and {len(bad.origins) - 1} more rows nearby)" if len(bad.origins) > 1 else ""
            raise DataError(
                f"{bad.origins[0]}: {bad.reasons[0]}{more}.\n  {bad.previews[0]}",
                remedy="Correct the row, or set map: {on_bad_row: set_aside} to keep such rows out, with the reason on record.",
            )
        tally.see_unread(bad.origins, bad.previews, bad.reasons)
        ids = hashed([f"unread:{layout.source}\0{origin}" for origin in bad.origins])
        rows = [
            ids,
            pa.array(bad.origins),
            pa.repeat("read", len(ids)),
            pa.array(bad.reasons),
            pa.array(bad.previews),
        ]
        self._removed.write(pa.record_batch(rows, schema=REMOVED))

    def _unique(self, rows: Batches, sources: list[Source]) -> Batches:
        """Give identical rows ids of their own (-2, -3, ...), whatever their order; refuse a named id that repeats."""
        named = pa.array(
            [source.name for source in sources if source.spec.map and source.spec.map.id], pa.string()
        )

        def keys(batch: pa.RecordBatch) -> pa.RecordBatch:
            columns = {name: batch[name] for name in ("id", "group", "source", "origin")}
            return pa.record_batch({**columns, "named": pc.is_in(batch["source"], value_set=named)})

        for batch, decision in keyed(rows, self.work / "unique", keys, _occurrences):
            yield replace(batch, id=decision["unique_id"].combine_chunks().cast(pa.string()))

    def _discard(self, batch: pa.RecordBatch, rule: str, reasons: pa.Array) -> None:
        columns = [
            batch["id"],
            batch["origin"],
            pa.repeat(rule, batch.num_rows),
            reasons,
            pa.array(previews(batch), pa.string()),
        ]
        self._removed.write(pa.record_batch(columns, schema=REMOVED))

    # labels

    def _labelled(self, rows: Batches) -> Iterator[pa.RecordBatch]:
        """Refuse a row with a blank label, or with one that the recipe does not list."""
        listed = None if self.spec.task.labels == "auto" else pa.array(self.spec.task.labels, pa.string())
        for batch in rows:
            blank = pc.invert(pc.match_substring_regex(batch["label"], r"\S"))
            for row in pc.indices_nonzero(blank)[:1].to_pylist():
                raise DataError(
                    f"{batch['origin'][row]}: the label is empty.",
                    remedy="Correct the row, or add the rule drop_empty.",
                )
            if listed is not None:
                for row in pc.indices_nonzero(pc.invert(pc.is_in(batch["label"], value_set=listed)))[
                    :1
                ].to_pylist():
                    label = batch["label"][row].as_py()
                    raise DataError(
                        f"{batch['origin'][row]}: the label {label[:60]!r} is not in task.labels.",
                        remedy=f"{did_you_mean(label, listed.to_pylist())} Correct the row, or add the label to task.labels.",
                    )
            yield batch

    def _numbered(self, rows: Batches) -> Iterator[pa.RecordBatch]:
        """Refuse a row whose answer is not a number."""
        for batch in rows:
            for row, messages in enumerate(batch["messages"].to_pylist()):
                answer = messages[-1]["content"] if messages else ""
                if not _is_number(answer):
                    raise DataError(
                        f"{batch['origin'][row]}: the answer {answer[:60]!r} is not a number, and the task is regress.",
                        remedy="Correct the row, map the column with the number as `assistant`, or choose another task.",
                    )
            yield batch

    def _settle_labels(self, database: duckdb.DuckDBPyConnection) -> None:
        counts = dict(
            database.execute("SELECT label, count(*) FROM keys GROUP BY label ORDER BY label").fetchall()
        )
        rows = sum(counts.values())
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
        if len(counts) > MOST_LABELS or (rows >= 20 and len(counts) > rows / 2):
            examples = ", ".join(repr(label[:40]) for label in self.labels[:3])
            raise DataError(
                f"{rows} rows have {len(counts)} different labels ({examples}, ...): this looks like free text, not like labels.",
                remedy="Use task: {kind: chat}; or list the labels you mean in task.labels.",
            )

    # records -> files

    def _divide(self, rows: Batches) -> dict[str, Any]:
        wish = self.spec.data.split
        stratify = wish.stratify == "label" or (wish.stratify == "auto" and self.classify)
        if stratify and not self.classify:
            raise DataError(
                f"split.stratify: label needs labels, and this task is {self.spec.task.kind}.",
                remedy="Remove it, or use task: {kind: classify}.",
            )

        def decide(database: duckdb.DuckDBPyConnection) -> str:
            if self.classify:
                self._settle_labels(database)
            return split.decide(database, wish, stratify)

        files = {
            name: SortedParquet(self.out / f"{name}.parquet", RECORD, self.work / name)
            for name in split.SIDES
        }
        tally = Tally("split", wish.plain(), 1)
        by_label: dict[str, dict[str, int]] = {}
        by_source = {name: dict.fromkeys(split.SIDES, 0) for name in source_names(self.spec.data.sources)}
        characters = 0
        for batch, decision in keyed(
            rows, self.work / "split", lambda batch: split.keys(batch, wish), decide
        ):
            self.at.check()
            sides = decision["side"].combine_chunks()
            reasons = decision["reason"].combine_chunks().cast(pa.string())
            kept = remove(batch, reasons, tally, self._discard)
            sides = sides.filter(reasons.is_null())
            tally.count(batch.num_rows, kept.num_rows)
            for source in pc.unique(kept["source"]).to_pylist():
                here = pc.equal(kept["source"], source)
                told = with_instruction(kept.filter(here), *self._instruction_of(source))
                characters += int(contents(told).str.len_chars().sum())
                for name, file in files.items():
                    part = told.filter(pc.equal(sides.filter(here), name))
                    file.write(part)
                    by_source[source][name] += part.num_rows
                    self._count_labels(by_label, part, name)
        counts = {name: file.rows for name, file in files.items()}
        self._refuse_empty(counts, tally)
        if tally.removed:
            self._tallies.append(tally)
        for file in files.values():
            file.close()
        for sentence in split.missing_labels(
            by_label, [s for s in split.SIDES if s == "train" or getattr(wish, s) > 0]
        ):
            self._warn("split", sentence)
        return self._facts(counts, by_label, by_source, stratify, characters)

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

    def _count_labels(self, by_label: dict[str, dict[str, int]], part: pa.RecordBatch, side: str) -> None:
        for entry in pc.value_counts(part["label"]).to_pylist() if self.classify else []:
            by_label.setdefault(entry["values"], dict.fromkeys(split.SIDES, 0))[side] += entry["counts"]

    def _refuse_empty(self, counts: dict[str, int], tally: Tally) -> None:
        wish = self.spec.data.split
        if tally.rows_in == 0:
            account = ", ".join(f"{t.rule} removed {t.removed}" for t in self._tallies if t.removed)
            raise DataError(
                f"no row is left: {self._tallies[0].rows_in} were read, {account}.",
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
                    f"the split leaves no row in {name}: there are {tally.rows_in} rows, and too few {by} to divide.",
                    remedy=f"Give more rows, another split.seed, or other shares; with fewer than {split.FEWEST_KEYS} {by} nothing is guaranteed.",
                )
        if wish.validation > 0 and counts["validation"] == 0:
            self._warn(
                "split",
                f"no row fell into validation, because there are too few {by}; training cannot be watched",
            )

    def _facts(
        self,
        counts: dict[str, int],
        by_label: dict[str, dict[str, int]],
        by_source: dict[str, dict[str, int]],
        stratified: bool,
        characters: int,
    ) -> dict[str, Any]:
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
                for name, by_side in by_source.items()
            ],
            "split": {**self.spec.data.split.plain(), "stratified": stratified},
            "labels": {label: by_label.get(label, dict.fromkeys(split.SIDES, 0)) for label in self.labels}
            if self.labels
            else None,
            "characters": characters,
        }

    # accounts

    def _tally(self, rule: str, settings: dict[str, Any], version: int) -> Tally:
        self._tallies.append(Tally(rule, settings, version))
        return self._tallies[-1]

    def _account(self) -> None:
        for tally in self._tallies:
            self.reports.append(tally.close())
            figures = {
                name: getattr(tally, name) for name in ("rule", "rows_in", "rows_out", "removed", "changed")
            }
            self.at.emit("rule", **figures, seconds=tally.seconds)
            if tally.rule != "read" and tally.rows_in and not tally.removed and not tally.changed:
                self.at.emit("note", about=tally.rule, message=f"{tally.rule} matched no row")

    def _warn(self, about: str, message: str) -> None:
        self.at.emit("warning", about=about, message=message)


def _occurrences(database: duckdb.DuckDBPyConnection) -> str:
    twice = database.execute(
        "SELECT min_by(origin, row), max_by(origin, row) FROM keys WHERE named GROUP BY id HAVING count(*) > 1 ORDER BY min(row) LIMIT 1"
    ).fetchone()
    if twice:
        raise DataError(
            f"{twice[1]}: the id is the same as that of {twice[0]}.",
            remedy="map.id must name a column without repeated values.",
        )
    return """
        SELECT row, CASE WHEN n = 1 THEN id ELSE id || '-' || n END AS unique_id
        FROM (SELECT row, id, row_number() OVER (PARTITION BY id ORDER BY "group", source, row) AS n FROM keys)"""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
