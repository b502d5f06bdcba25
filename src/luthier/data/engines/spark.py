"""The Spark engine: parts are read and rules run in the executors, keys are decided by Spark SQL, files are written here.

    parts ─ mapInArrow ─▶ rows and keys, kept ─┬─ decisions (Spark SQL over keys)
                                               └─ join ─ mapInArrow ─▶ rows and keys, kept ─ ... ─▶ rows leave, packed

What a task does is in spark_worker; this is the only file that imports pyspark. What is kept stands as Parquet in
`storage`, so a lost worker takes no answer with it, and Spark never sees a plan longer than one step (with kept frames that
refer to each other it spent minutes on planning alone). Everything is a function of the sources, so a task that is repeated
gives what it gave before. Accounts, removed lines and errors are lines of the tasks' output.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from luthier.core.errors import LuthierError, MissingPart, SpecError, StoreError, missing_part
from luthier.data.connectors.protocol import Part
from luthier.data.plan import Group, Step
from luthier.data.reading import Job, divided
from luthier.data.records import RECORD
from luthier.data.report import Account
from luthier.data.rules.rule import GatherRule

from . import spark_worker
from .decide import decide
from .gather import AllFeatures, features_of_all, learn
from .group import run_group
from .protocol import At, Look, SparkEngineSpec
from .spark_faults import told
from .spark_start import SQL, Options, refuse_unreachable, workers_python
from .spark_worker import ACCOUNTS, COUNTS, DECIDED, FAILED, KEY, LEAVES, PARTS, REMOVED, ROW, Program

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

POLL_S = 0.2
LINES_AT_ONCE = 10_000
COLLECT_BYTES = 64_000_000  # what is smaller comes in one answer; more comes partition by partition
MOST_TASKS = 10_000
PART_BYTES = 32_000_000  # a task of seconds to minutes, whatever the rules
TYPES = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.bool_(): "boolean",
}


@dataclass(frozen=True)
class Rows:
    """Rows that tasks will have: what they start from, what to do with it, whose accounts that adds to. `used` may
    be removed once that is done. `came` is how many lines the tasks get: parts, or rows."""

    start: DataFrame
    program: Program
    ledger: tuple[Sequence[Account], ...]
    used: tuple[Kept, ...] = ()
    came: int = 0

    def then(self, group: Group, accounts: Sequence[Account]) -> Rows:
        groups = (*self.program.groups, (group, len(self.ledger)))
        return replace(self, program=replace(self.program, groups=groups), ledger=(*self.ledger, accounts))


@dataclass(frozen=True)
class Kept:
    """A frame that is read from where it stands."""

    frame: DataFrame
    path: str


class SparkEngine:
    """protocol.Engine. Raises StoreError where Spark gives up, MissingPart where something is not installed."""

    write_errors: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(self, settings: SparkEngineSpec, at: At) -> None:
        self._settings, self._at = settings, at
        self._look: Look | None = None
        self._total_bytes = 0

    @cached_property
    def _session(self) -> Session:
        """Started when there is something to do."""
        return Session(self._settings, self._at)

    # protocol.Engine

    def read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Rows:
        self._total_bytes = sum(part.size_bytes for _, part in work)
        work = divided(work, PART_BYTES, self._counts)
        frame, program = self._spread(work)
        return Rows(frame, program, ([account],), came=len(work))

    def run(self, group: Group, frame: Rows | None, accounts: Sequence[Account], look: Look) -> Rows | None:
        """None where no row is left."""
        if frame is None:
            return None
        frame = frame.then(group, accounts)
        if not group.needs_keys and group.learns is None:
            return frame
        keys = run_group(group, pa.RecordBatch.from_pylist([], RECORD)).keys.schema
        keys = pa.schema([pa.field(f"{KEY}{one.name}", one.type) for one in keys])
        kept, figures = self._work(frame, keys, look)
        if figures["leaving_bytes"]:
            for what, side, batch in self._leaving(kept, figures):
                if what == REMOVED:
                    self._at.discard(batch)
                else:
                    look.held(batch, side)
        if not figures["rows"]:
            return None
        if group.learns is not None:
            return self._learnt(group.learns, kept, accounts[-1], look)
        tables = Tables(self._session, kept.frame, keys.names)

        def again(step: Step, wanted: pa.Table) -> Iterator[pa.RecordBatch]:
            return self._features(step, wanted, kept, tables)

        sql = decide(group, tables, accounts, look, again, self._at.work / "pairs")
        decided = tables.frame(sql).selectExpr(
            "row", "id AS d_id", "CAST(step AS BIGINT) AS step", "reason", "side AS d_side"
        )
        records = kept.frame.where(f"what = {ROW}").select("seq", *RECORD.names)
        start = records.join(decided, records["seq"] == decided["row"])
        start = start.select("seq", *RECORD.names, *DECIDED.names)
        versions = spark_worker.versions()
        rest = accounts[len(group.rows) :]
        program = Program(carry=(group, 0), versions=versions)
        return Rows(start, program, (rest,), (kept, *tables.kept), figures["rows"])

    def _features(self, step: Step, wanted: pa.Table, kept: Kept, tables: Tables) -> Iterator[pa.RecordBatch]:
        """What a rule of pairs wants to know of some rows, worked out where they are."""
        tables.put("pair_wanted", wanted)
        rows = kept.frame.where(f"what = {ROW}").select("seq", *RECORD.names)
        asked = tables.frame("SELECT row, id AS named FROM pair_wanted")
        return self._featured(step, rows.join(asked, rows["seq"] == asked["row"]).drop("row"))

    def _learnt(self, step: Step, kept: Kept, account: Account, look: Look) -> Rows:
        """AllFeatures come here, what they teach goes where the rows are."""
        rows = kept.frame.where(f"what = {ROW}").select("seq", *RECORD.names)
        features = AllFeatures(self._at.work / "features", self._at.check)
        rule = step.rule
        assert isinstance(rule, GatherRule)
        with account.clock():
            if rule.of == "held":
                for batch in look.held_rows():
                    features.add(features_of_all(step, batch))
            else:
                for batch in self._featured(step, rows.withColumn("named", rows["id"])):
                    features.add(batch)
            told = learn(step, features, account)
        applied = Group(rows=(replace(step, learnt=told),))
        program = Program(groups=((applied, 0),), versions=spark_worker.versions())
        return Rows(rows, program, ([account],), (kept,))

    def _featured(self, step: Step, rows: DataFrame) -> Iterator[pa.RecordBatch]:
        """Of rows with `seq` and `named`."""
        values = self._at.values([Group(rows=(step,))])
        task = partial(spark_worker.features, json.dumps([spark_worker.plain_step(step), values]))
        found = self._session.keep(rows.mapInArrow(task, "said binary"))
        for line in self._session.draw(found.frame, COLLECT_BYTES + 1):
            yield from spark_worker.unpacked(bytes(line["said"]))
        self._session.remove(found.path)

    def rows(self, frame: Rows | None) -> Iterator[pa.RecordBatch]:
        if frame is None:
            return
        look = self._look
        assert look is not None
        kept, figures = self._work(frame, None, look)
        for what, side, batch in self._leaving(kept, figures):
            if what == REMOVED:
                self._at.discard(batch)
            elif side == "train":
                yield batch
            else:
                look.held(batch, side)

    def close(self) -> None:
        if "_session" in self.__dict__:
            self._session.close()

    # tasks

    def _spread(self, work: Sequence[tuple[Job, Part]]) -> tuple[DataFrame, Program]:
        """The table of parts, and the jobs that they belong to."""
        jobs: list[Job] = []
        parts: list[tuple[int, int, int, str]] = []
        for n, (job, part) in enumerate(work):
            if not jobs or jobs[-1] is not job:
                jobs.append(job)
            parts.append((n, len(jobs) - 1, part.size_bytes, json.dumps(part.at)))
        return self._session.spread(parts), Program(jobs=jobs, versions=spark_worker.versions())

    def _counts(self, job: Job, parts: Sequence[Part]) -> list[int]:
        """reading.count_part of each, in tasks."""
        if not parts:
            return []
        frame, program = self._spread([(job, part) for part in parts])
        schema = ", ".join(f"{one.name} {_type(one.type)}" for one in COUNTS)
        lines = self._session.collect(frame.mapInArrow(partial(spark_worker.count, program.text()), schema))
        self._raise([(line["seq"], bytes(line["failed"])) for line in lines if line["failed"]])
        return [line["lines"] for line in sorted(lines, key=lambda line: line["seq"])]

    def _raise(self, failed: Sequence[tuple[int, bytes]]) -> None:
        """The error of the first row."""
        if failed:
            raise spark_worker.error_of(json.loads(min(failed)[1]))

    def _work(self, frame: Rows, keys: pa.Schema | None, look: Look) -> tuple[Kept, dict[str, int]]:
        """Let tasks run; their output, kept, and its figures added up."""
        self._look = look
        groups = [group for group, _ in frame.program.groups]
        program = replace(frame.program, keys=keys, values=self._at.values(groups))
        schema = ", ".join(f"`{one.name}` {_type(one.type)}" for one in program.schema)
        task = partial(spark_worker.work, program.text())
        reading = bool(program.jobs)
        seen = (lambda share: look.seen(int(share * self._total_bytes), None)) if reading else None
        kept = self._session.keep(frame.start.mapInArrow(task, schema), seen)
        told = kept.frame.where(f"what >= {ACCOUNTS}").select("what", "seq", "said")
        lines = self._session.collect(told)
        self._raise([(line["seq"], bytes(line["said"])) for line in lines if line["what"] == FAILED])
        figures = {"came": 0, "rows": 0, "leaving_bytes": 0, "removed": 0}
        for line in lines:
            found = json.loads(bytes(line["said"]))
            for name in figures:
                figures[name] += found[name]
            for n, accounts in found["accounts"].items():
                for one, whole in zip(accounts, frame.ledger[int(n)], strict=False):
                    whole.add(spark_worker.account_of(one))
        self._session.refuse_lost(frame.came - figures["came"])
        self._session.remove(*(one.path for one in frame.used))
        if reading:
            look.seen(self._total_bytes, frame.ledger[0][0].rows_in)
        return kept, figures

    def _leaving(self, kept: Kept, figures: dict[str, int]) -> Iterator[tuple[int, str, pa.RecordBatch]]:
        told = kept.frame.where(f"what IN ({LEAVES}, {REMOVED})").select("what", "side", "said")
        left_bytes = figures["leaving_bytes"]
        for line in self._session.draw(told, figures["leaving_bytes"]):
            left_bytes -= len(line["said"])
            for batch in spark_worker.unpacked(bytes(line["said"])):
                yield line["what"], line["side"], batch
        self._session.refuse_lost(left_bytes)


class Tables:
    """decide.Tables over Spark: what is asked for more than once is kept. Names stay until they are given again, or the session
    ends: through Spark Connect a frame looks them up when it is worked out, not when it is made."""

    def __init__(self, session: Session, rows: DataFrame, keys: Sequence[str]) -> None:
        self._session = session
        self.columns = ["row", *(name.removeprefix(KEY) for name in keys)]
        self.kept: list[Kept] = []
        columns = [f"`{name}` AS {name.removeprefix(KEY)}" for name in keys]
        self._name("keys", rows.where(f"what = {ROW}").selectExpr("seq AS row", *columns))

    def frame(self, sql: str) -> DataFrame:
        return self._session.sql(sql)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(line) for line in self._session.collect(self.frame(sql))]

    def view(self, name: str, sql: str) -> None:
        self._name(name, self.frame(sql))

    def keep(self, name: str, sql: str) -> None:
        self.kept.append(self._session.keep(self.frame(sql)))
        self._name(name, self.kept[-1].frame)

    def insert(self, name: str, sql: str) -> None:
        """Beside what is there, which is not written again."""
        before = self._session.spark.table(name)
        self.kept.append(self._session.keep(self.frame(sql)))
        self._name(name, before.union(self.kept[-1].frame))

    def put(self, name: str, table: pa.Table) -> None:
        self._name(name, self._session.brought(table))

    def stream(self, sql: str) -> Iterator[pa.RecordBatch]:
        frame = self.frame(sql)
        lines = self._session.draw(frame, COLLECT_BYTES + 1)
        while some := list(islice(lines, LINES_AT_ONCE)):
            columns = zip(*some, strict=True)
            yield pa.record_batch(
                {name: list(told) for name, told in zip(frame.columns, columns, strict=True)}
            )

    def _name(self, name: str, frame: DataFrame) -> None:
        frame.createOrReplaceTempView(name)


class Session:
    """A session of Spark, ours or one that is there already, and how to wait for it."""

    def __init__(self, settings: SparkEngineSpec, at: At) -> None:
        self._settings, self._at = settings, at
        self._options = Options.of(settings, at.secret)
        self._ours = False
        self._kept = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="spark")
        self._tag = f"luthier-{uuid.uuid4().hex}"
        storage = at.secret(settings.storage) if settings.storage else (at.work / "spark").as_uri()
        self._storage = f"{storage.rstrip('/')}/luthier-{uuid.uuid4().hex}"
        try:
            with self._told():
                self.spark = self._start()
            with told(self._storage, self._options.masked, storing=True):
                self._make_storage()
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Where it closes because something failed, that is what is told, not what then fails here."""
        failing = sys.exc_info()[0] is not None
        self._pool.shutdown(wait=False, cancel_futures=True)
        with suppress(Exception) if failing else nullcontext():
            try:
                with self._told():
                    self.remove(self._storage)
            finally:
                self._end()

    def _end(self) -> None:
        """Let go of Spark, and of Java where it is ours."""
        if not self._ours:
            return
        try:
            if hasattr(self, "spark"):
                with self._told():
                    self.spark.stop()
        finally:
            if not self._settings.connect:
                _end_java()

    def _told(self) -> AbstractContextManager[None]:
        return told(self._storage, self._options.masked)

    def _make_storage(self) -> None:
        """Here and at once, so that a wrong one is told before anything is read. A server of Spark Connect makes it as it
        writes."""
        if not self._settings.connect:
            there, system = self._place(self._storage)
            system.mkdirs(there)

    def _place(self, path: str) -> tuple[Any, Any]:
        """A path as Java knows it, and its file system."""
        context: Any = self.spark.sparkContext
        there = context._jvm.org.apache.hadoop.fs.Path(path)
        return there, there.getFileSystem(context._jsc.hadoopConfiguration())

    # frames

    def spread(self, parts: Sequence[tuple[int, int, int, str]]) -> DataFrame:
        """A task for each part, or for several where there are very many."""
        from pyspark.sql.functions import broadcast

        with self._told():
            table = self.spark.createDataFrame(
                list(parts), ", ".join(f"{f.name} {_type(f.type)}" for f in PARTS)
            )
            numbers = self.spark.range(0, len(parts), 1, min(len(parts), MOST_TASKS))
            return numbers.join(broadcast(table), numbers["id"] == table["seq"]).select(*PARTS.names)

    def brought(self, table: pa.Table) -> DataFrame:
        """A table of ours, of whole numbers and texts."""
        schema = ", ".join(f"`{one.name}` {_type(one.type)}" for one in table.schema)
        with self._told():
            return self.spark.createDataFrame([tuple(line.values()) for line in table.to_pylist()], schema)

    def sql(self, sql: str) -> DataFrame:
        with self._told():
            return self.spark.sql(sql)

    def keep(self, frame: DataFrame, seen: Callable[[float], None] | None = None) -> Kept:
        """Work it out, once."""
        self._kept += 1
        path = f"{self._storage}/{self._kept}"
        schema = frame.schema
        self._wait(lambda: frame.write.parquet(path), seen)
        with self._told():
            return Kept(self.spark.read.schema(schema).parquet(path), path)

    def remove(self, *paths: str) -> None:
        for path in paths:
            if self._settings.connect:
                _removed(path)
                continue
            there, system = self._place(path)
            system.delete(there, True)

    def refuse_lost(self, lost: int) -> None:
        """Raises StoreError where something that a task did cannot be read back, which would else be rows that vanish."""
        if lost:
            where = self._options.masked(self._storage.rpartition("/")[0])
            raise StoreError(
                f"Not all that Spark's workers write into {where} can be read from here.",
                remedy="`storage` must be one folder or URL that this machine and every worker share.",
            )

    def collect(self, frame: DataFrame) -> list[Any]:
        """All its lines: for few."""
        found: list[Any] = self._wait(frame.collect)
        return found

    def draw(self, frame: DataFrame, size_bytes: int) -> Iterator[Any]:
        """Its lines, in bounded memory: those of a kept frame, one partition after the other."""
        if size_bytes <= COLLECT_BYTES:
            yield from self.collect(frame)
            return
        lines = self._wait(lambda: frame.toLocalIterator(prefetchPartitions=True))
        while (line := self._wait(lambda: next(lines, None))) is not None:
            yield line

    def _wait(self, action: Callable[[], Any], seen: Callable[[float], None] | None = None) -> Any:
        """Do it in another thread, so that a user can stop it."""

        def tagged() -> Any:
            self.spark.addTag(self._tag)
            return action()

        with self._told():
            running: Future[Any] = self._pool.submit(tagged)
            try:
                while True:
                    try:
                        return running.result(POLL_S)
                    except TimeoutError:
                        if running.done():
                            raise
                        self._at.check()
                        if seen:
                            seen(self._share())
            except (LuthierError, KeyboardInterrupt):
                with suppress(
                    Exception
                ):  # a terminal's Ctrl-C has ended Java as well: what stopped us is told, not that
                    self.spark.interruptTag(self._tag)
                raise

    def _share(self) -> float:
        """How much of the running stages is done, 0..1; 0 where that cannot be told."""
        if self._settings.connect:
            return 0.0
        tracker = self.spark.sparkContext.statusTracker()
        stages = [tracker.getStageInfo(n) for n in tracker.getActiveStageIds()]
        done = [(one.numCompletedTasks, one.numTasks) for one in stages if one]
        return sum(n for n, _ in done) / max(sum(n for _, n in done), 1)

    # starting

    def _start(self) -> SparkSession:
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            extra = "spark-connect" if self._settings.connect else "spark"
            raise missing_part("pyspark", extra, "the engine spark") from None
        if self._settings.connect:
            url = self._at.secret(self._settings.connect)
            refuse_unreachable(url)
            self._ours = True
            return _configured(SparkSession.builder.remote(url), SQL | dict(self._options.values)).create()
        if session := SparkSession.getActiveSession():
            return self._within(session)
        return self._own(SparkSession)

    def _within(self, session: SparkSession) -> SparkSession:
        """A session beside one that is there, on its cluster and with its workers."""
        master = session.conf.get("spark.master", None)
        if master != self._settings.master:
            raise SpecError(
                f"a Spark session runs here already, on {master}, and the engine's master is {self._settings.master}.",
                remedy="Stop that session (spark.stop()), or write its master.",
            )
        own = session.newSession()
        for name, value in (SQL | dict(self._options.values)).items():
            if own.conf.get(name, None) == value:
                continue
            try:
                own.conf.set(name, value)
            except Exception:
                raise SpecError(
                    f"{name} cannot be set in the Spark session that runs here already.",
                    remedy="Set it where that session is started, and take it out of the engine's options.",
                ) from None
        return own

    def _own(self, kind: type[SparkSession]) -> SparkSession:
        from pyspark import SparkConf, SparkContext

        assert self._settings.master is not None
        if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
            raise MissingPart(
                "Spark needs Java 17 or newer, and there is no program `java`.",
                remedy="Install it, for example: apt-get install openjdk-17-jre-headless; or name a Spark Connect server.",
            )
        refuse_unreachable(self._settings.master)
        wanted = self._options.whole(self._settings.master, self._at.work / "spark.log")
        self._ours = True
        with workers_python(wanted.get("spark.pyspark.python")):
            # Java's command line, which everyone on this machine can read, has nothing secret on it
            public = [(name, value) for name, value in wanted.items() if name not in self._options.secret]
            SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False).setAll(public))
            return _configured(kind.builder, wanted).getOrCreate()


def _configured(builder: Any, options: dict[str, str]) -> Any:
    for name, value in options.items():
        builder = builder.config(name, value)
    return builder


def _removed(path: str) -> None:
    """What a server of Spark Connect wrote: it cannot be asked to remove anything, so this machine does, where it can."""
    from fsspec.core import url_to_fs

    try:
        system, there = url_to_fs(path.replace("s3a://", "s3://", 1))
        system.rm(there, recursive=True)
    except (
        ImportError,
        ValueError,
        OSError,
    ):  # no driver, no right or nothing there: docs/spark.md says what then remains
        return


def _end_java() -> None:
    """What comes after the rows needs the memory; another session starts with settings of its own."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    if gateway is None:
        return
    gateway.shutdown()
    if process := getattr(gateway, "proc", None):
        process.stdin.close()
        process.wait(30)
    SparkContext._gateway = SparkContext._jvm = None


def _type(kind: pa.DataType) -> str:
    """As Spark writes it.

    >>> _type(pa.list_(pa.struct([("role", pa.string())])))
    'array<struct<role:string>>'
    """
    if pa.types.is_list(kind):
        return f"array<{_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{one.name}:{_type(one.type)}' for one in kind)}>"
    return TYPES[kind]
