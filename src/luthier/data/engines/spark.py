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
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

import luthier
from luthier.core.errors import LuthierError, MissingPart, SpecError, StoreError, missing_part
from luthier.core.spec import references
from luthier.data.connectors.protocol import Part
from luthier.data.plan import Group, Step
from luthier.data.reading import Job
from luthier.data.records import RECORD
from luthier.data.report import Account
from luthier.data.rules.rule import GatherRule

from . import spark_worker
from .decide import decide
from .gather import AllFeatures, features_of_all, learn
from .group import run_group
from .protocol import At, Look, SparkEngineSpec
from .spark_worker import ACCOUNTS, DECIDED, FAILED, KEY, LEAVES, PARTS, REMOVED, ROW, Program

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

POLL_S = 0.2
LINES_AT_ONCE = 10_000
COLLECT_BYTES = 64_000_000  # what is smaller comes in one answer; more comes partition by partition
MOST_TASKS = 10_000
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
    be removed once that is done."""

    start: DataFrame
    program: Program
    ledger: tuple[Sequence[Account], ...]
    used: tuple[Kept, ...] = ()

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
        self._session = Session(settings, at)
        self._look: Look | None = None
        self._total_bytes = 0

    # protocol.Engine

    def read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Rows:
        self._total_bytes = sum(part.size_bytes for _, part in work)
        jobs: list[Job] = []
        parts: list[tuple[int, int, int, str]] = []
        for n, (job, part) in enumerate(work):
            if not jobs or jobs[-1] is not job:
                jobs.append(job)
            parts.append((n, len(jobs) - 1, part.size_bytes, json.dumps(part.at)))
        program = Program(jobs=jobs, versions=spark_worker.versions())
        return Rows(self._session.spread(parts), program, ([account],))

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
        with Tables(self._session, kept.frame, keys.names) as tables:

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
        return Rows(start, Program(carry=(group, 0), versions=versions), (rest,), (kept, *tables.kept))

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
        with account.clock():
            if isinstance(step.rule, GatherRule) and step.rule.of == "held":
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
        values = self._values([Group(rows=(step,))])
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
        self._session.close()

    # tasks

    def _work(self, frame: Rows, keys: pa.Schema | None, look: Look) -> tuple[Kept, dict[str, int]]:
        """Let tasks run; their output, kept, and its figures added up."""
        self._look = look
        groups = [group for group, _ in frame.program.groups]
        program = replace(frame.program, keys=keys, values=self._values(groups))
        schema = ", ".join(f"`{one.name}` {_type(one.type)}" for one in program.schema)
        task = partial(spark_worker.work, program.text())
        reading = bool(program.jobs)
        seen = (lambda share: look.seen(int(share * self._total_bytes), None)) if reading else None
        kept = self._session.keep(frame.start.mapInArrow(task, schema), seen)
        told = kept.frame.where(f"what >= {ACCOUNTS}").select("what", "seq", "said")
        lines = self._session.collect(told)
        failed = [(line["seq"], bytes(line["said"])) for line in lines if line["what"] == FAILED]
        if failed:
            raise spark_worker.error_of(json.loads(min(failed)[1]))
        figures = {"rows": 0, "leaving_bytes": 0, "removed": 0}
        for line in lines:
            found = json.loads(bytes(line["said"]))
            for name in figures:
                figures[name] += found[name]
            for n, accounts in found["accounts"].items():
                for one, whole in zip(accounts, frame.ledger[int(n)], strict=False):
                    whole.add(spark_worker.account_of(one))
        self._session.remove(*(one.path for one in frame.used))
        if reading:
            look.seen(self._total_bytes, frame.ledger[0][0].rows_in)
        return kept, figures

    def _leaving(self, kept: Kept, figures: dict[str, int]) -> Iterator[tuple[int, str, pa.RecordBatch]]:
        told = kept.frame.where(f"what IN ({LEAVES}, {REMOVED})").select("what", "side", "said")
        for line in self._session.draw(told, figures["leaving_bytes"]):
            for batch in spark_worker.unpacked(bytes(line["said"])):
                yield line["what"], line["side"], batch

    def _values(self, groups: Sequence[Group]) -> dict[str, str]:
        """What rules' settings refer to, so that the workers need no environment."""
        written = json.dumps([step.settings.plain() for group in groups for step in group.steps])
        found = {}
        for name in references(written):
            try:
                found[name] = self._at.secret(f"${{{name}}}")
            except SpecError:  # the rule that needs it will say so
                continue
        return found


class Tables:
    """decide.Tables over Spark: what is asked for more than once is kept."""

    def __init__(self, session: Session, rows: DataFrame, keys: Sequence[str]) -> None:
        self._session = session
        self.columns = ["row", *(name.removeprefix(KEY) for name in keys)]
        self.kept: list[Kept] = []
        self._named: list[str] = []
        columns = [f"`{name}` AS {name.removeprefix(KEY)}" for name in keys]
        self._name("keys", rows.where(f"what = {ROW}").selectExpr("seq AS row", *columns))

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        """Names go, frames stay."""
        for name in self._named:
            self._session.spark.catalog.dropTempView(name)

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
        self.keep(name, f"SELECT * FROM {name} UNION ALL {sql}")

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
        self._named.append(name)


class Session:
    """A session of Spark, ours or one that is there already, and how to wait for it."""

    def __init__(self, settings: SparkEngineSpec, at: At) -> None:
        self._settings, self._at = settings, at
        self._ours = False
        self._kept = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="spark")
        with _told():
            self.spark = self._start()
        storage = at.secret(settings.storage) if settings.storage else (at.work / "spark").as_uri()
        self._storage = f"{storage.rstrip('/')}/luthier-{uuid.uuid4().hex}"
        self._tag = f"luthier-{uuid.uuid4().hex}"

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with _told():
            self.remove(self._storage)
            if self._ours:
                self.spark.stop()
        if self._ours and not self._settings.connect:
            _end_java()

    # frames

    def spread(self, parts: Sequence[tuple[int, int, int, str]]) -> DataFrame:
        """A task for each part, or for several where there are very many."""
        from pyspark.sql.functions import broadcast

        with _told():
            table = self.spark.createDataFrame(
                list(parts), ", ".join(f"{f.name} {_type(f.type)}" for f in PARTS)
            )
            numbers = self.spark.range(0, len(parts), 1, min(len(parts), MOST_TASKS))
            return numbers.join(broadcast(table), numbers["id"] == table["seq"]).select(*PARTS.names)

    def brought(self, table: pa.Table) -> DataFrame:
        """A table of ours, of whole numbers and texts."""
        schema = ", ".join(f"`{one.name}` {_type(one.type)}" for one in table.schema)
        with _told():
            return self.spark.createDataFrame([tuple(line.values()) for line in table.to_pylist()], schema)

    def sql(self, sql: str) -> DataFrame:
        with _told():
            return self.spark.sql(sql)

    def keep(self, frame: DataFrame, seen: Callable[[float], None] | None = None) -> Kept:
        """Work it out, once."""
        self._kept += 1
        path = f"{self._storage}/{self._kept}"
        schema = frame.schema
        self._wait(lambda: frame.write.parquet(path), seen)
        with _told():
            return Kept(self.spark.read.schema(schema).parquet(path), path)

    def remove(self, *paths: str) -> None:
        """What is kept there. Through Spark Connect that cannot be asked for: only a folder of this machine is removed."""
        for path in paths:
            if self._settings.connect:
                shutil.rmtree(path.removeprefix("file://"), ignore_errors=True)
                continue
            context: Any = self.spark.sparkContext
            there = context._jvm.org.apache.hadoop.fs.Path(path)
            there.getFileSystem(context._jsc.hadoopConfiguration()).delete(there, True)

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

        with _told():
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
        options = {name: self._at.secret(value) for name, value in self._settings.options.items()}
        if self._settings.connect:
            self._ours = True
            builder = SparkSession.builder.remote(self._at.secret(self._settings.connect))
            return _configured(builder, _SQL | options).create()
        if session := SparkSession.getActiveSession():
            own = session.newSession()
            for name, value in _SQL.items():
                own.conf.set(name, value)
            return own
        return self._own(SparkSession, options)

    def _own(self, kind: type[SparkSession], options: dict[str, str]) -> SparkSession:
        assert self._settings.master is not None
        if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
            raise MissingPart(
                "Spark needs Java 17 or newer, and there is no program `java`.",
                remedy="Install it, for example: apt-get install openjdk-17-jre-headless; or name a Spark Connect server.",
            )
        master = self._settings.master
        here = master.startswith("local")
        wanted = _SQL | _RUN | _log(self._at.work / "spark.log") | (_here(master) if here else {}) | options
        self._ours = True
        with _kept(wanted.get("spark.pyspark.python")):
            return _configured(kind.builder.master(master).appName("luthier"), wanted).getOrCreate()


_SQL = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "5000",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
}
_RUN = {
    "spark.task.maxFailures": "8",
    "spark.stage.maxConsecutiveAttempts": "10",
    "spark.executorEnv.POLARS_MAX_THREADS": "1",  # a task has one core
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def _here(master: str) -> dict[str, str]:
    """For Spark on this machine: nothing of it listens beyond, and workers are this very Python."""
    digits = "".join(
        sign for sign in master.partition("[")[2].partition("]")[0].split(",")[0] if sign.isdigit()
    )
    cores = int(digits) if digits and not master.startswith("local-cluster") else os.cpu_count() or 1
    found = str(Path(luthier.__file__).parents[1])
    return {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(
            [found, *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "spark.sql.shuffle.partitions": str(2 * cores),
    }


def _log(path: Path) -> dict[str, str]:
    """What Spark has to say goes into a file, which stays where it is when something fails."""
    settings = path.with_suffix(".properties")
    settings.write_text(
        "rootLogger.level = warn\nrootLogger.appenderRef.file.ref = file\nappender.file.type = File\n"
        f"appender.file.name = file\nappender.file.fileName = {path}\n"
        "appender.file.layout.type = PatternLayout\nappender.file.layout.pattern = %d %p %c{1}: %m%n%ex\n"
    )
    return {"spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={settings.as_uri()}"}


def _configured(builder: Any, options: dict[str, str]) -> Any:
    for name, value in options.items():
        builder = builder.config(name, value)
    return builder


@contextmanager
def _kept(python: str | None) -> Iterator[None]:
    """While a session starts: the workers' Python stands in the environment (Spark looks nowhere else), and our answer to
    Ctrl-C, in whose place Spark puts its own, comes back after it."""
    main = threading.current_thread() is threading.main_thread()
    answer = signal.getsignal(signal.SIGINT)
    before = os.environ.get("PYSPARK_PYTHON")
    if python:
        os.environ["PYSPARK_PYTHON"] = python
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, answer)
        if python:
            os.environ.pop("PYSPARK_PYTHON")
            os.environ.update({"PYSPARK_PYTHON": before} if before else {})


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


@contextmanager
def _told() -> Iterator[None]:
    """Spark's errors in few words, without a stack of another language."""
    try:
        yield
    except LuthierError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pyspark", "py4j", "grpc") and not isinstance(
            error, OSError
        ):
            raise
        text = str(error)
        if "PYTHON_VERSION_MISMATCH" in text:
            raise MissingPart(
                "Spark's workers run another version of Python than this machine.",
                remedy="Give the workers the same environment; docs/spark.md says how.",
            ) from None
        if "No module named 'luthier'" in text:
            raise MissingPart(
                "Spark's workers cannot import luthier.",
                remedy="Give the workers the same environment; docs/spark.md says how.",
            ) from None
        defect = type(error).__name__ in ("AnalysisException", "ParseException", "PySparkTypeError")
        if defect or "Traceback (most recent call last)" in text:  # of ours, not of Spark's
            raise
        raise StoreError(
            f"Spark gave up: {text.splitlines()[0][:300] if text else type(error).__name__}.",
            remedy="Check the master's URL, the workers and their memory; spark.log in the stage's scratch folder says more.",
        ) from None


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
