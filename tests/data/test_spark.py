"""Spark gives what one process gives, byte for byte. What a task does is tested without Spark; the rest needs pyspark and Java."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import luthier
from luthier.core.errors import DataError, Interrupted, LuthierError, MissingPart, SpecError, StoreError
from luthier.core.testing import FakeContext
from luthier.data.connectors import connect
from luthier.data.engines import spark_worker
from luthier.data.engines.group import run_group
from luthier.data.engines.spark_worker import ACCOUNTS, FAILED, LEAVES, PARTS, REMOVED, ROW, Program, work
from luthier.data.mapping import Layout
from luthier.data.plan import plan_of
from luthier.data.prepare import STAGE, PrepareSpec
from luthier.data.reading import Job, read_part
from luthier.data.records import RECORD
from luthier.data.shapes import Shape
from luthier.data.spec import DataSpec, MapSpec, RulesSpec, SourceSpec, SplitSpec
from luthier.data.split import Sides

LACKS = (
    "pyspark is not installed (pip install 'luthier[spark]')"
    if importlib.util.find_spec("pyspark") is None
    else "there is no program `java`"
    if not (shutil.which("java") or os.environ.get("JAVA_HOME"))
    else ""
)
needs_spark = [pytest.mark.spark, pytest.mark.skipif(bool(LACKS), reason=LACKS or "there")]

CLASSIFY = {"kind": "classify"}
RULES = {
    "quality": ["normalize", "drop_empty", {"length": {"min": 8}}, "deduplicate"],
    "quantity": [{"held_out": {"ngram": 2, "share": 0}}, "balance"],
}
HERE = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.pyspark.python": sys.executable,
    "spark.executorEnv.PYTHONPATH": str(Path(luthier.__file__).parents[1]),
}


def planted(folder: Path, rows: int = 1500, files: int = 6) -> dict[str, Any]:
    """Two sources with maps of their own: rows to repair, empty, short, equal and bad ones, groups, uneven labels."""
    chance = random.Random(5)
    words = [f"word{k}" for k in range(300)] + ["Grüße", "naïve", "日本", "\u200b", "é"]

    def row(n: int) -> dict[str, Any]:
        text = " ".join(chance.choices(words, k=chance.randint(1, 30)))
        text = {0: "  \u200b ", 1: f"  {text}\t ", 2: "no"}.get(n % 23, text)
        label = chance.choice(["billing", "billing", "billing", "login", "other"])
        return {
            "body": text,
            "queue": None if n % 101 == 7 else label,
            "customer": f"c{chance.randint(0, rows // 4)}",
        }

    found = [row(n) for n in range(rows)]
    for n in range(0, rows, 19):
        found[n] = found[max(0, n - 31)]
    for n in range(0, rows, 37):  # the same words of another customer
        found[n] = {**found[max(0, n - 5)], "queue": "other", "customer": f"d{n % 60}"}
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(files):
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in found[k::files]]
        (folder / f"tickets-{k}.jsonl").write_text("".join(lines), encoding="utf-8")
    with open(folder / "old.csv", "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["subject", "text", "kind"])
        writer.writerows(
            [f"old {n % 150}", found[n]["body"], chance.choice(["login", "other"])] for n in range(0, rows, 5)
        )
    tickets = {"user": "body", "label": "queue", "group": "customer", "on_bad_row": "set_aside"}
    old = {"user": "{subject}: {text}", "label": "kind", "on_bad_row": "set_aside"}
    return {
        "sources": [
            {"files": "tickets-*.jsonl", "map": tickets},
            {"files": "old.csv", "map": old, "weight": 2},
        ],
        "rules": RULES,
    }


class Progress(FakeContext):
    """Calls `then` once, as soon as something is read."""

    then: Callable[[], None] | None = None

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        if done and self.then:
            then, self.then = self.then, None
            then()


def prepared(
    folder: Path,
    data: dict[str, Any],
    engine: Any = "local",
    task: Any = None,
    then: Callable[[], None] | None = None,
    **context: Any,
) -> dict[str, bytes]:
    """Every file of the dataset, as bytes."""
    for n in range(100):
        out, scratch = folder / f"out-{n}", folder / f"scratch-{n}"
        if not out.exists():
            break
    out.mkdir()
    scratch.mkdir()
    at = Progress(folder, root=folder, **context)
    at.then = then
    spec = PrepareSpec.model_validate({"task": task or {}, "data": {**data, "engine": engine}})
    STAGE.function(spec, {}, out, scratch, at)
    assert list(scratch.iterdir()) == []
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    for name in ("rules.json", "dataset.json"):
        assert json.loads(one[name]) == json.loads(other[name])
    assert one == other


# what a task does, without Spark


def job(
    folder: Path, lines: str = '{"q": "how do I log in?", "a": "With your name."}\n'
) -> tuple[Job, pa.RecordBatch]:
    """A source, and the line of the table of its parts."""
    (folder / "t.jsonl").write_text(lines)
    source = SourceSpec(files="${NAME}.jsonl")
    shape = Shape("map", MapSpec(user="q", assistant="a"), 1.0, "")
    layout = Layout.of(shape, None, None, classify=False, source="t", weight=1.0)

    def secret(text: str) -> str:
        return text.replace("${NAME}", "t")

    [part] = connect(source, folder, secret).parts()
    table = {"seq": 3, "job": 0, "size_bytes": part.size_bytes, "at": json.dumps(part.at)}
    return Job.of(source, folder, layout, secret, hidden=False), pa.RecordBatch.from_pylist([table], PARTS)


def lines_of(program: Program, *batches: pa.RecordBatch) -> list[dict[str, Any]]:
    return [line for batch in work(program.text(), iter(batches)) for line in batch.to_pylist()]


def test_a_task_reads_a_part_without_the_environment_and_tells_its_accounts(tmp_path: Path) -> None:
    reads, table = job(
        tmp_path, "".join(json.dumps({"q": f"question {n}", "a": "yes"}) + "\n" for n in range(3))
    )

    def plan(*rules: Any) -> Program:
        """Everything up to the keys of one group."""
        [group] = plan_of(RulesSpec.model_validate({"quality": list(rules)}), Sides(SplitSpec(), False))
        keys = run_group(group, pa.RecordBatch.from_pylist([], RECORD)).keys.schema
        keys = pa.schema([pa.field(f"key_{one.name}", one.type) for one in keys])
        return Program(jobs=[reads], groups=[(group, 1)], keys=keys)

    removed, accounts = lines_of(plan({"length": {"max": 9}}), table)
    assert (removed["what"], accounts["what"]) == (REMOVED, ACCOUNTS)
    assert [line.num_rows for line in spark_worker.unpacked(removed["said"])] == [3]
    read, length = (json.loads(accounts["said"])["accounts"][n][0] for n in "01")
    assert (read["rows_out"], length["rows_in"], length["removed"]) == (3, 3, 3)
    rows = [line for line in lines_of(plan(), table) if line["what"] == ROW]
    assert [row["seq"] - (3 << 40) for row in rows] == [0, 1, 2]
    assert [row["messages"][0]["content"] for row in rows] == [f"question {n}" for n in range(3)]
    [whole] = list(
        read_part(
            reads, connect(reads.source, tmp_path, lambda text: text.replace("${NAME}", "t")).parts()[0]
        )
    )
    leaving, _ = lines_of(Program(jobs=[reads]), table)
    assert leaving["what"] == LEAVES and leaving["side"] == "train"
    assert list(spark_worker.unpacked(leaving["said"])) == [whole.records]


def test_an_error_in_a_task_is_the_same_error_in_the_driver(tmp_path: Path) -> None:
    reads, table = job(tmp_path, '{"q": "a", "a": "b"}\n{"q": \n')
    *_, line = lines_of(Program(jobs=[reads]), table)
    assert line["what"] == FAILED
    error = spark_worker.error_of(json.loads(line["said"]))
    with pytest.raises(DataError) as local:
        list(
            read_part(
                reads, connect(reads.source, tmp_path, lambda text: text.replace("${NAME}", "t")).parts()[0]
            )
        )
    assert type(error) is DataError and str(error) == str(local.value)


def test_other_versions_on_a_worker_are_refused_in_words(tmp_path: Path) -> None:
    reads, table = job(tmp_path)
    [line] = lines_of(
        Program(jobs=[reads], versions={**spark_worker.versions(), "numpy": "0.1", "x": "7"}), table
    )
    error = spark_worker.error_of(json.loads(line["said"]))
    assert isinstance(error, MissingPart)
    assert "numpy" in error.message and "(here 0.1), x is missing (here 7)" in error.message


def test_the_engine_is_no_part_of_what_a_dataset_is() -> None:
    one = DataSpec.model_validate({"sources": [{"files": "x"}]})
    other = DataSpec.model_validate(
        {"sources": [{"files": "x"}], "engine": {"spark": {"master": "local[2]"}}}
    )
    assert one.plain() == other.plain()


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({}, "neither is given"),
        ({"master": "local", "connect": "sc://x"}, "both are given"),
        ({"connect": "http://x", "storage": "/x"}, "begins with sc://"),
        ({"master": "spark://x:7077"}, "needs `storage`"),
        ({"master": "http://x:7077", "storage": "/x"}, "no master that Spark knows"),
        ({"master": "local[two"}, "no master that Spark knows"),
        ({"master": "local", "options": {"executor.memory": "1g"}}, "begin with `spark.`"),
    ],
)
def test_where_spark_is_must_be_said_once(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DataSpec.model_validate({"sources": [{"files": "x"}], "engine": {"spark": wish}})


# with Spark


LOCAL = {"spark": {"master": "local[2]"}}


@pytest.fixture(params=[pytest.param(0, marks=needs_spark)])
def here(spark_here: None) -> Any:
    return LOCAL


def test_spark_gives_the_bytes_that_one_process_gives(tmp_path: Path, here: Any) -> None:
    data = planted(tmp_path)
    one = prepared(tmp_path, data, task=CLASSIFY)
    figures = {entry["rule"]: entry for entry in json.loads(one["rules.json"])}
    assert all(
        figures[name]["removed"]
        for name in ("read", "drop_empty", "length", "deduplicate", "split", "balance")
    )
    assert figures["normalize"]["changed"]
    same(prepared(tmp_path, data, here, CLASSIFY), one)


def test_rows_of_every_shape_and_named_ids_come_back_as_they_went(tmp_path: Path, here: Any) -> None:
    rows = [
        {
            "prompt": f"question {n}\0" if n % 9 else "",
            "chosen": f"good {n} é\u0301 \U0001f600",
            "rejected": f"bad {n}" if n % 5 else "",
            "key": n,
        }
        for n in range(120)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "notes.txt").write_text("".join(f"paragraph {n}\n\n" for n in range(80)))
    data = {
        "sources": [
            {
                "files": "pairs.jsonl",
                "map": {"user": "prompt", "chosen": "chosen", "rejected": "rejected", "id": "key"},
            },
            {"files": "notes.txt"},
        ],
        "rules": {"quality": ["drop_empty", "normalize"]},
        "split": {"test": 0.2, "validation": 0},
    }
    same(prepared(tmp_path, data, here), prepared(tmp_path, data))


@pytest.mark.parametrize(
    ("line", "task", "more"),
    [
        (
            '{"body": "abc", "queue": "strange"}',
            {"kind": "classify", "labels": ["login", "other", "billing"]},
            {},
        ),
        ('{"body": "abc", ', CLASSIFY, {"on_bad_row": "refuse"}),
        ('{"body": "abc", "queue": null}', CLASSIFY, {"on_bad_row": "refuse"}),
        ('{"body": "abc", "queue": "login", "customer": "c7"}', CLASSIFY, {"id": "customer"}),
    ],
)
def test_a_bad_row_is_told_in_the_same_words(
    tmp_path: Path, here: Any, line: str, task: Any, more: dict[str, Any]
) -> None:
    for k in range(4):
        good = "".join(
            json.dumps({"body": f"text {k} {n}", "queue": ["login", "other"][n % 2]}) + "\n"
            for n in range(50)
        )
        (tmp_path / f"t-{k}.jsonl").write_text(good.replace('"}', f'", "customer": "r{k}"}}', 0))
    with open(tmp_path / "t-1.jsonl", "a") as out:
        out.write(line + "\n")
    with open(tmp_path / "t-3.jsonl", "a") as out:
        out.write(line + "\n" * 3 + "{\n" if "id" not in more else line + "\n")
    if "id" in more:  # every other row gets a name of its own
        for k in range(4):
            path = tmp_path / f"t-{k}.jsonl"
            told = [json.loads(one) for one in path.read_text().splitlines()]
            path.write_text(
                "".join(json.dumps({"customer": f"{k} {n}", **one}) + "\n" for n, one in enumerate(told))
            )
    mapped = {"user": "body", "label": "queue", "on_bad_row": "set_aside", **more}
    data = {"sources": [{"files": "t-*.jsonl", "map": mapped}]}
    with pytest.raises(DataError) as one:
        prepared(tmp_path, data, task=task)
    with pytest.raises(DataError) as other:
        prepared(tmp_path, data, here, task)
    assert str(other.value) == str(one.value)
    assert "Traceback" not in str(other.value)


def test_large_files_are_read_in_pieces_by_all(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.data.engines import spark

    data = planted(tmp_path, 400, files=2)
    lines = (tmp_path / "tickets-1.jsonl").read_text("utf-8").splitlines()
    lines[100:100] = ["", "{broken", ""]
    (tmp_path / "tickets-1.jsonl").write_text("\n".join(lines), "utf-8")
    rows = [
        {**json.loads(line), "body": f"again {n} " + "x" * 200}
        for n, line in enumerate(lines)
        if line.startswith('{"')
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=100, compression=None)
    data["sources"].append({"files": "t.parquet", "map": data["sources"][0]["map"]})
    parts = []
    monkeypatch.setattr(spark, "PART_BYTES", 12_000)
    monkeypatch.setattr(
        spark.Session,
        "spread",
        lambda self, told, real=spark.Session.spread: parts.append(told) or real(self, told),
    )
    one = prepared(tmp_path, data, task=CLASSIFY)
    same(prepared(tmp_path, data, here, CLASSIFY), one)
    counted, read = parts
    files = {json.loads(part[3])["place"] for part in counted}
    assert len(counted) > 3 and files == {
        "tickets-0.jsonl",
        "tickets-1.jsonl",
    }  # a footer says what row groups hold
    assert len(read) == len(counted) + 1 + 2  # old.csv; 200 rows of 200 signs and more, two row groups
    origins = pq.read_table(pa.BufferReader(one["removed.parquet"]))["origin"].to_pylist()
    assert "tickets-1.jsonl:102" in origins
    refuse = [{**source, "map": {**source["map"], "on_bad_row": "refuse"}} for source in data["sources"]]
    with pytest.raises(DataError) as local:
        prepared(tmp_path, {**data, "sources": refuse}, task=CLASSIFY)
    with pytest.raises(DataError) as there:
        prepared(tmp_path, {**data, "sources": refuse}, here, CLASSIFY)
    assert str(there.value) == str(local.value)


@pytest.mark.parametrize("storage", ["/proc/no/such/folder", "s3a://bucket/between"])
def test_a_storage_that_spark_cannot_use_is_told_in_words(tmp_path: Path, here: Any, storage: str) -> None:
    engine = {"spark": {**here["spark"], "storage": storage}}
    with pytest.raises(StoreError, match=rf"cannot use its storage {storage}: .*\n.*every worker"):
        prepared(tmp_path, planted(tmp_path, 60, 2), engine, CLASSIFY)


def test_output_of_a_worker_that_cannot_be_read_back_is_noticed(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster whose workers write to disks of their own."""
    from luthier.data.engines import spark

    def keep(self: Any, frame: Any, seen: Any = None, real: Any = spark.Session.keep) -> Any:
        kept = real(self, frame, seen)
        lost = min(Path(kept.path.removeprefix("file:")).glob("part-*.parquet"))
        lost.unlink()
        lost.with_name(f".{lost.name}.crc").unlink()
        return spark.Kept(self.spark.read.schema(kept.frame.schema).parquet(kept.path), kept.path)

    monkeypatch.setattr(spark.Session, "keep", keep)
    with pytest.raises(StoreError, match=r"Not all that Spark's workers write into .* can be read"):
        prepared(tmp_path, planted(tmp_path, 60, 2), here, CLASSIFY)


def test_settings_of_a_session_that_runs_already_are_not_ignored(tmp_path: Path, here: Any) -> None:
    engine = {"spark": {**here["spark"], "options": {"spark.executor.memory": "9g"}}}
    with pytest.raises(
        SpecError, match=r"spark\.executor\.memory cannot be set in the Spark session that runs"
    ):
        prepared(tmp_path, planted(tmp_path, 60, 2), engine, CLASSIFY)


def test_what_a_rule_says_of_a_row_is_told_in_the_same_words(tmp_path: Path, here: Any) -> None:
    data = planted(tmp_path, 120, 2)
    data["rules"] = {"quality": [{"weight": {"expression": "0 - len(user)"}}]}
    with pytest.raises(DataError) as one:
        prepared(tmp_path, data, task=CLASSIFY)
    with pytest.raises(DataError) as other:
        prepared(tmp_path, data, here, CLASSIFY)
    assert str(other.value) == str(one.value)


def test_when_no_row_is_left_that_is_told_in_the_same_words(tmp_path: Path, here: Any) -> None:
    data = {**planted(tmp_path, 60, 2), "rules": {"quality": [{"length": {"min": 10_000}}, "deduplicate"]}}
    with pytest.raises(DataError) as one:
        prepared(tmp_path, data, task=CLASSIFY)
    with pytest.raises(DataError) as other:
        prepared(tmp_path, data, here, CLASSIFY)
    assert str(other.value) == str(one.value)


def test_secrets_are_put_in_here_and_other_versions_are_refused(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(tmp_path / "hidden-place", 60, 2)
    mapped = {"user": "body", "label": "queue", "on_bad_row": "set_aside"}
    data = {"sources": [{"files": "${PLACE}/tickets-*.jsonl", "map": mapped}]}
    environ = {"PLACE": "hidden-place"}
    files = prepared(tmp_path, data, here, CLASSIFY, environ=environ)
    same(files, prepared(tmp_path, data, task=CLASSIFY, environ=environ))
    assert not any(b"hidden-place" in told for told in files.values())
    with pytest.raises(SpecError, match="PLACE is not set"):
        prepared(tmp_path, data, here, CLASSIFY)
    monkeypatch.setattr(spark_worker, "versions", lambda: {"polars": "0.0.1"})
    with pytest.raises(MissingPart, match=r"other versions than this machine: polars .* \(here 0\.0\.1\)"):
        prepared(tmp_path, data, here, CLASSIFY, environ=environ)


def test_a_user_can_stop_it(tmp_path: Path, here: Any) -> None:
    with pytest.raises(Interrupted):
        prepared(tmp_path, planted(tmp_path, 200, 2), here, CLASSIFY, stop_after_checks=1)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., dict[str, bytes]]]:
    """A preparation in a process of its own: an engine with a session of its own, which leaves nothing running."""

    def run(data: dict[str, Any], engine: Any) -> dict[str, bytes]:
        script = (
            "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_spark as t\n"
            "told = json.loads(sys.argv[2]); found = t.prepared(Path(told['folder']), told['data'], told['engine'], t.CLASSIFY)\n"
            "out = Path(told['folder']) / 'alone'; out.mkdir()\n"
            "[(out / name).write_bytes(raw) for name, raw in found.items()]\n"
            "import psutil; assert psutil.Process().children() == []\n"
        )
        told = json.dumps({"folder": str(tmp_path), "data": data, "engine": engine})
        done = subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent), told],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "PYTHONPATH": HERE["spark.executorEnv.PYTHONPATH"]},
        )
        assert done.returncode == 0, done.stderr
        return {path.name: path.read_bytes() for path in sorted((tmp_path / "alone").iterdir())}

    yield run


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.skipif(bool(LACKS), reason=LACKS or "there")
@pytest.mark.parametrize("master", ["local[2]", "local-cluster[2,1,1024]"])
def test_a_session_of_its_own_gives_the_same_bytes_and_leaves_nothing(
    tmp_path: Path, alone: Callable[..., dict[str, bytes]], master: str
) -> None:
    data = planted(tmp_path, 3000)
    same(alone(data, {"spark": {"master": master}}), prepared(tmp_path, data, task=CLASSIFY))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A standalone master with two workers of one core each, every one a process group of its own."""
    import pyspark

    program = Path(pyspark.__file__).parent / "bin" / "spark-class"
    started: list[subprocess.Popen[bytes]] = []
    port = free_port()

    def start(*words: str) -> None:
        log = open(tmp_path / f"daemon-{len(started)}.log", "wb")  # noqa: SIM115
        environ = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1"}
        started.append(
            subprocess.Popen([program, *words], stdout=log, stderr=log, env=environ, start_new_session=True)
        )

    master = ("--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")
    start("org.apache.spark.deploy.master.Master", *master)
    wait_for(lambda: answers(port))
    for n in range(2):
        own = (
            "--host",
            "127.0.0.1",
            "--cores",
            "1",
            "--memory",
            "1g",
            "--webui-port",
            "0",
            "--work-dir",
            f"{tmp_path}/w{n}",
        )
        start("org.apache.spark.deploy.worker.Worker", *own, f"spark://127.0.0.1:{port}")
    wait_for(lambda: (tmp_path / "daemon-0.log").read_text().count("Registering worker") == 2)
    try:
        yield f"spark://127.0.0.1:{port}", started[1:]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def wait_for(ready: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it does not start"
        time.sleep(0.2)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.skipif(bool(LACKS), reason=LACKS or "there")
def test_a_worker_that_is_killed_changes_nothing(
    tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    master, workers = cluster
    data = planted(tmp_path, 3000, files=12)
    killed = []

    def kill() -> None:
        killed.append(workers[0].pid)
        os.killpg(workers[0].pid, signal.SIGKILL)

    options = {**HERE, "spark.executor.memory": "600m", "spark.sql.shuffle.partitions": "4"}
    engine = {"spark": {"master": master, "storage": str(tmp_path / "between"), "options": options}}
    found = prepared(tmp_path, data, engine, CLASSIFY, then=kill)
    assert killed and workers[0].wait() == -signal.SIGKILL
    same(found, prepared(tmp_path, data, task=CLASSIFY))
    assert list((tmp_path / "between").iterdir()) == []


def test_errors_of_ours_are_ours_again() -> None:
    for kind in (LuthierError, DataError, MissingPart):
        error = spark_worker.error_of(spark_worker.plain_error(kind("what", remedy="how")))
        assert type(error) is kind and str(error) == "what\n  → how"


@pytest.mark.model
@pytest.mark.parametrize(
    "engine", [pytest.param({"spark": {"master": "local[2]", "options": HERE}}, marks=needs_spark)]
)
def test_a_model_is_asked_by_the_workers_of_this_machine(tmp_path: Path, engine: Any) -> None:
    """Here and not beside the rule, because two Sparks in one process are one too many."""
    from luthier.core.artifact import Artifact
    from luthier.models.testing import tiny_model

    tiny, asked = tiny_model(tmp_path / "tiny"), Artifact("model", "k", {}, 1, {}, ())
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"q": f"What is {n}?", "a": f"It is {n % 7}"}) + "\n" for n in range(30))
    )
    rules = {
        "quality": ["deduplicate"],
        "relevance": [{"difficulty": {"model": "tiny", "range": [0, None], "n": 20}}],
    }
    data = {"sources": [{"files": "rows.jsonl", "map": {"user": "q", "assistant": "a"}}], "rules": rules}
    found = []
    for name, one in (("here", "local"), ("spark", engine)):
        home, out, scratch = (tmp_path / f"{name}-{what}" for what in ("home", "out", "scratch"))
        for folder in (home, out, scratch):
            folder.mkdir()
        at = FakeContext(home, root=tmp_path, folders={asked.digest: tiny})
        spec = PrepareSpec.model_validate({"data": {**data, "engine": one}})
        STAGE.function(spec, {"asked.0": asked}, out, scratch, at)
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0] == found[1]
