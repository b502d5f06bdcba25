"""What a Spark task does with the batches of one partition: plain functions, so that everything but Spark itself can be
tested without it.

    parts, or rows with decisions ─▶ read_part | carry_out ─▶ run_group ─▶ ... ─▶ rows with keys, or rows that leave

A task gets a Program, which is text, and gives batches of one schema. Beside rows these hold what else there is to tell,
one line each: rows that leave the frame, lines of removed.parquet, the accounts, an error. So what a task tells counts
exactly once, however often Spark repeats it, and nothing is needed that Spark Connect has not.

Rows are numbered by part and place, `seq`: the order of all rows is theirs, wherever they are worked on.
"""

from __future__ import annotations

import json
import os
import platform
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core import errors, plugin
from luthier.core.errors import LuthierError, MissingPart
from luthier.data import split
from luthier.data.connectors.protocol import Part
from luthier.data.opened import Opened
from luthier.data.plan import Group, Step
from luthier.data.reading import Job, count_part, read_part, reading
from luthier.data.records import RECORD
from luthier.data.report import Account, Example
from luthier.data.rules.rule import GatherRule, Lent, PairRule
from luthier.data.spec import SplitSpec
from luthier.data.task import TaskSpec

from .group import carry_out, run_group

ROW, LEAVES, REMOVED, ACCOUNTS, FAILED = range(5)
"""What a line of a task's output is."""

TOLD = pa.schema([("what", pa.int32()), ("seq", pa.int64()), ("side", pa.string()), ("said", pa.binary())])
PARTS = pa.schema([("seq", pa.int64()), ("job", pa.int64()), ("size_bytes", pa.int64()), ("at", pa.string())])
COUNTS = pa.schema([("seq", pa.int64()), ("lines", pa.int64()), ("failed", pa.binary())])
DECIDED = pa.schema(
    [("d_id", pa.string()), ("step", pa.int64()), ("reason", pa.string()), ("d_side", pa.string())]
)
KEY = "key_"
"""Before the names of key columns: those of records stand beside them."""
MADE = 1 << 62
"""Rows that a rule made are numbered from here on, by their ids."""
PLACES = 40
"""Bits of `seq` for the place of a row in its part."""
BLOB_BYTES = 2_000_000
MATTER = (
    "luthier",
    "numpy",
    "polars",
    "pyarrow",
    "rensa",
    "ftfy",
    "fasttext-predict",
    "phonenumbers",
    "selectolax",
)
"""Distributions whose version may change what a rule says."""

Rows = tuple[pa.RecordBatch, np.ndarray]
"""Records, and the number of each."""


@dataclass(frozen=True)
class Program:
    """What to do with a partition: `jobs` reads parts, or else `carry` applies what was decided, or else rows come as they are;
    then `groups`. Numbers say
    which accounts a step adds to. `keys` are the columns of keys that rows are given; None: all rows leave. `values` stands
    in the place of ${VAR} in settings of rules. `versions` are those of the driver."""

    jobs: Sequence[Job] = ()
    read: int = 0
    carry: tuple[Group, int] | None = None
    groups: Sequence[tuple[Group, int]] = ()
    keys: pa.Schema | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        """Of what a task gives."""
        return TOLD if self.keys is None else pa.schema([*TOLD, *RECORD, *self.keys])

    def text(self) -> str:
        carry = self.carry and [_plain_group(self.carry[0]), self.carry[1]]
        told = {
            "jobs": [job.plain() for job in self.jobs],
            "read": self.read,
            "carry": carry,
            "groups": [[_plain_group(group), n] for group, n in self.groups],
            "keys": None if self.keys is None else [[one.name, str(one.type)] for one in self.keys],
            "values": dict(self.values),
            "versions": dict(self.versions),
        }
        return json.dumps(told)

    @classmethod
    def of(cls, text: str) -> Program:
        told = json.loads(text)
        keys = told["keys"]
        return cls(
            [Job.from_plain(job) for job in told["jobs"]],
            told["read"],
            told["carry"] and (_group(told["carry"][0]), told["carry"][1]),
            [(_group(group), n) for group, n in told["groups"]],
            None if keys is None else pa.schema([(name, pa.type_for_alias(kind)) for name, kind in keys]),
            told["values"],
            told["versions"],
        )


def work(program: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow. An error that people can mend is told in a line; any other is raised."""
    told = _program(program)
    task = Task(told)
    try:
        refuse_others(told.versions, versions())
        yield from task.run(batches)
    except LuthierError as error:
        yield task.line(FAILED, _json(plain_error(error)), seq=task.seq)


def count(program: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: of each part, what reading.divided asks."""
    told = _program(program)
    for batch in batches:
        for part in batch.to_pylist():
            found: dict[str, Any] = {"seq": part["seq"]}
            try:
                refuse_others(told.versions, versions())
                job = told.jobs[part["job"]]
                found["lines"] = count_part(job, Part(json.loads(part["at"]), part["size_bytes"]))
            except LuthierError as error:
                found["failed"] = _json(plain_error(error))
            yield pa.RecordBatch.from_pylist([found], COUNTS)


@cache
def _program(text: str) -> Program:
    return Program.of(text)


class Task:
    """One run over one partition. `seq` is the number of the first row at hand."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.seq = 0
        self._accounts: dict[int, list[Account]] = {}
        self._leaving: dict[str, list[pa.RecordBatch]] = {}
        self._removed: list[pa.RecordBatch] = []
        self._figures = {"came": 0, "rows": 0, "leaving_bytes": 0, "removed": 0}

    def run(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        os.environ.update(self.program.values)
        start = self._read if self.program.jobs else self._carry if self.program.carry else self._again
        for batch, seq in start(batches):
            yield from self._through(batch, seq)
        yield from self._flush(0)
        accounts = {n: [plain_account(one) for one in of_step] for n, of_step in self._accounts.items()}
        yield self.line(ACCOUNTS, _json({"accounts": accounts, **self._figures}))

    def _read(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
        for batch in batches:
            self._figures["came"] += batch.num_rows
            for part in batch.to_pylist():
                self.seq = part["seq"] << PLACES
                job = self.program.jobs[part["job"]]
                self._add(self.program.read, [reading()])
                for found in read_part(job, Part(json.loads(part["at"]), part["size_bytes"])):
                    self._add(self.program.read, [found.account])
                    self._drop([] if found.removed is None else [found.removed])
                    n = found.records.num_rows
                    if n:
                        yield found.records, np.arange(self.seq, self.seq + n)
                    self.seq += n

    def _carry(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
        assert self.program.carry is not None
        group, n = self.program.carry
        for batch in batches:
            if not batch.num_rows:
                continue
            self._figures["came"] += batch.num_rows
            numbers = batch["seq"].to_numpy()
            self.seq = int(numbers.min())
            names = ["id", "step", "reason", "side"]
            decided = pa.record_batch([batch[name] for name in DECIDED.names], names=names)
            records = pa.record_batch([batch[f.name].cast(f.type) for f in RECORD], schema=RECORD)
            found = carry_out(group, records, decided)
            self._add(n, found.accounts)
            self._drop(found.removed)
            train, *held = split.SIDES
            for side in held if group.sides is not None else ():
                self._leave(side, found.sides[side])
            stays = pc.equal(decided["step"], -1)
            if group.sides is not None:
                stays = pc.and_(stays, pc.fill_null(pc.equal(decided["side"], train), False))
            yield found.sides[train], numbers[stays.to_numpy(zero_copy_only=False)]

    def _again(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
        for batch in batches:
            if batch.num_rows:
                numbers = batch["seq"].to_numpy()
                self.seq = int(numbers.min())
                yield pa.record_batch([batch[f.name].cast(f.type) for f in RECORD], schema=RECORD), numbers

    def _through(self, batch: pa.RecordBatch, seq: np.ndarray) -> Iterator[pa.RecordBatch]:
        keys: pa.RecordBatch | None = None
        for group, n in self.program.groups:
            # the place of a row in the batch finds its number again after rules have removed others
            found = run_group(group, batch)
            seq = seq[found.stays]
            if found.batch.num_rows > len(seq):  # rows were made, which have no place in any source
                made = found.batch["id"].slice(len(seq)).to_pylist()
                seq = np.concatenate([seq, np.array([MADE | int(one[:15], 16) for one in made], np.int64)])
            batch, keys = found.batch, found.keys
            self._add(n, found.accounts)
            self._drop(found.removed)
        self._figures["rows"] += batch.num_rows
        if self.program.keys is None:
            self._leave(split.SIDES[0], batch)
        elif batch.num_rows:
            assert keys is not None
            told = [pa.repeat(pa.scalar(ROW, pa.int32()), len(seq)), pa.array(seq, pa.int64())]
            told += [pa.nulls(len(seq), one.type) for one in list(TOLD)[2:]]
            cast = [keys[one.name.removeprefix(KEY)].cast(one.type) for one in self.program.keys]
            yield pa.record_batch([*told, *batch.columns, *cast], schema=self.program.schema)
        yield from self._flush(BLOB_BYTES)

    def _add(self, n: int, found: Sequence[Account]) -> None:
        whole = self._accounts.setdefault(n, [])
        for place, one in enumerate(found):
            if place == len(whole):
                whole.append(one)
            else:
                whole[place].add(one)

    def _drop(self, lines: Sequence[pa.RecordBatch]) -> None:
        self._removed += lines
        self._figures["removed"] += sum(one.num_rows for one in lines)

    def _leave(self, side: str, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._leaving.setdefault(side, []).append(batch)

    def _flush(self, least_bytes: int) -> Iterator[pa.RecordBatch]:
        """What waits, as soon as it is worth a line."""
        for side, waiting in self._leaving.items():
            if sum(one.nbytes for one in waiting) > least_bytes:
                yield self._blob(LEAVES, waiting, side)
                waiting.clear()
        if sum(one.nbytes for one in self._removed) > least_bytes:
            yield self._blob(REMOVED, self._removed)
            self._removed.clear()

    def _blob(self, what: int, batches: Sequence[pa.RecordBatch], side: str | None = None) -> pa.RecordBatch:
        told = packed(batches)
        self._figures["leaving_bytes"] += len(told)
        return self.line(what, told, side)

    def line(self, what: int, said: bytes, side: str | None = None, seq: int | None = None) -> pa.RecordBatch:
        schema = self.program.schema
        own = {"what": what, "seq": seq, "side": side, "said": said}
        return pa.record_batch([pa.array([own.get(f.name)], f.type) for f in schema], schema=schema)


def packed(batches: Sequence[pa.RecordBatch]) -> bytes:
    """Batches of one schema as bytes."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    told: bytes = sink.getvalue().to_pybytes()
    return told


def unpacked(told: bytes) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(told) as reader:
        yield from reader


def plain_account(account: Account) -> dict[str, Any]:
    """Its form as JSON. (dataclasses.asdict counts a Counter's pairs.)"""
    examples = [vars(one) for one in account.examples]
    return {**vars(account), "counts": dict(account.counts), "examples": examples}


def account_of(told: Mapping[str, Any]) -> Account:
    """From its form as JSON."""
    examples = [Example(**one) for one in told["examples"]]
    return Account(**{**told, "counts": Counter(told["counts"]), "examples": examples})


def plain_error(error: LuthierError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}


def error_of(told: Mapping[str, Any]) -> LuthierError:
    """The same error, of the same class where it is one of ours."""
    kind = getattr(errors, told["kind"], LuthierError)
    error: LuthierError = kind(told["message"], remedy=told["remedy"])
    return error


@cache
def versions() -> dict[str, str]:
    """Of everything that may change what a rule says."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in MATTER:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def refuse_others(driver: Mapping[str, str], worker: Mapping[str, str]) -> None:
    """Raises MissingPart where a worker has other versions than the driver: it might say other things of the same rows."""
    odd = [
        f"{name} {worker.get(name, 'is missing')} (here {told})"
        for name, told in driver.items()
        if worker.get(name) != told
    ]
    if odd:
        raise MissingPart(
            f"Spark's workers have other versions than this machine: {', '.join(odd)}.",
            remedy="Give the workers the same environment; docs/spark.md says how.",
        )


def _json(told: Any) -> bytes:
    return json.dumps(told).encode()


def _plain_group(group: Group) -> dict[str, Any]:
    sides = group.sides
    return {
        "rows": [plain_step(step) for step in group.rows],
        "keyed": [plain_step(step) for step in group.keyed],
        "grows": group.grows and plain_step(group.grows),
        "numbers": group.numbers,
        "sides": sides and [sides.spec.plain(), sides.stratify, sides.task.plain(), dict(sides.own)],
        "hidden": group.hidden,
    }


def plain_step(step: Step) -> list[Any]:
    bound = None if step.bound is None else step.bound.plain()
    learnt = None if step.learnt is None else b64encode(packed(_whole(step.learnt))).decode()
    return [step.rule.name, step.settings.plain(), step.hidden, step.number, bound, learnt]


def _whole(table: pa.Table) -> list[pa.RecordBatch]:
    """Of one batch, also where there is no line."""
    return [pa.record_batch([column.combine_chunks() for column in table.columns], schema=table.schema)]


def _group(told: Mapping[str, Any]) -> Group:
    numbers, sides = told["numbers"], told["sides"]
    return Group(
        rows=tuple(_step(*step) for step in told["rows"]),
        keyed=tuple(_step(*step) for step in told["keyed"]),
        grows=told["grows"] and _step(*told["grows"]),
        numbers=None if numbers is None else tuple(numbers),
        sides=sides
        and split.Sides(
            SplitSpec.model_validate(sides[0]), sides[1], TaskSpec.model_validate(sides[2]), sides[3]
        ),
        hidden=told["hidden"],
    )


def _step(
    name: str,
    settings: Mapping[str, Any],
    hidden: bool,
    number: int,
    bound: Mapping[str, Any] | None,
    learnt: str | None,
) -> Step:
    rule = plugin.load("rule", name)
    given: Any = None
    if bound is not None:
        lent = bool(getattr(rule, "models", ()))
        given = Lent.from_plain(rule.spec, bound) if lent else rule.spec.model_validate(bound)
    table = None if learnt is None else pa.Table.from_batches(unpacked(b64decode(learnt)))
    return Step(rule, rule.spec.model_validate(settings), hidden, number, given, table)


def step_of(told: str) -> Step:
    """From the JSON of `plain_step`."""
    return _step(*json.loads(told))


def features(told: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of rows with `seq` and `named`, an id: what a rule wants to know of them, packed. `told` is the step, and what stands in
    the place of ${VAR} in its settings."""
    plain, values = json.loads(told)
    os.environ.update(values)
    step = _step(*plain)
    assert isinstance(step.rule, PairRule | GatherRule)
    for batch in batches:
        if batch.num_rows:
            records = pa.record_batch([batch[f.name].cast(f.type) for f in RECORD], schema=RECORD)
            found = step.rule.features(Opened(records), step.given)
            found = found.append_column("row", batch["seq"].cast(pa.int64()))
            found = found.append_column("id", batch["named"].cast(pa.string()))
            yield pa.record_batch({"said": pa.array([packed([found])], pa.binary())})
