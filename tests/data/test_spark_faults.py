"""What goes wrong with Spark is told in words, soon, and without a secret; what is stopped is stopped everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import luthier
from luthier.core.errors import DataError, Interrupted, LuthierError, MissingPart, SpecError, StoreError
from luthier.core.spec import resolve
from luthier.core.testing import FakeContext
from luthier.data.engines import spark_faults
from luthier.data.engines.protocol import SparkEngineSpec
from luthier.data.engines.spark_start import JAVA, Options, refuse_unreachable
from luthier.data.prepare import STAGE, PrepareSpec

SOURCE = str(Path(luthier.__file__).parents[1])
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
LACKS = (
    "pyspark is not installed (make setup-optional)"
    if importlib.util.find_spec("pyspark") is None
    else "there is no program `java`"
    if not (shutil.which("java") or os.environ.get("JAVA_HOME"))
    else ""
)
with_spark = pytest.mark.parametrize(
    "there",
    [
        pytest.param(
            None,
            marks=[pytest.mark.spark, pytest.mark.slow, pytest.mark.skipif(bool(LACKS), reason=LACKS or "-")],
        )
    ],
)


def rows(folder: Path, n: int = 40, files: int = 2) -> None:
    folder.mkdir(exist_ok=True)
    for k in range(files):
        told = ({"q": f"question {k} {m}", "a": "yes"} for m in range(n))
        (folder / f"t-{k}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))


def prepared(folder: Path, engine: Any, files: str = "t-*.jsonl", **environ: str) -> None:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir()
    scratch.mkdir()
    data = {"sources": [{"files": files, "map": {"user": "q", "assistant": "a"}}], "engine": engine}
    STAGE.function(
        PrepareSpec.model_validate({"data": data}),
        {},
        out,
        scratch,
        FakeContext(folder, root=folder, environ=environ),
    )


# without Spark


class PythonException(Exception):
    """As pyspark.errors has it."""


PythonException.__module__ = "pyspark.errors.exceptions.captured"


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("ModuleNotFoundError: No module named 'polars'", MissingPart, "workers cannot import polars"),
        ("[PYTHON_VERSION_MISMATCH] 3.11 and 3.12", MissingPart, "another version of Python"),
        ("[PACKAGE_NOT_INSTALLED] Pandas >= 2.2.0 must be installed", MissingPart, r"pandas(.|\n)*luthier\[spark\]"),
        ("[PATH_NOT_FOUND] no such path", StoreError, r"storage s3a://\$\{B\}: \[PATH_NOT_FOUND(.|\n)*every worker"),
        ("cannot make s3a://bucket-7/luthier-1/2", StoreError, r"storage s3a://\$\{B\}: cannot make s3a://\$\{B\}/luthier"),
        ("java.lang.OutOfMemoryError: Java heap space\nat x", StoreError, r"heap space\.\n(.|\n)*spark.executor.memory"),
        ("the key is hunter2", StoreError, r"gave up: the key is \$\{KEY\}\."),
        ("Traceback (most recent call last):\n ZeroDivisionError", PythonException, "Zero"),
    ],
)  # fmt: skip
def test_what_spark_says_becomes_what_to_do(text: str, kind: type[Exception], says: str) -> None:
    environ = {"B": "bucket-7", "KEY": "hunter2"}
    settings = SparkEngineSpec(
        master="spark://x:1", storage="s3a://${B}", options={"spark.hadoop.fs.s3a.secret.key": "${KEY}"}
    )
    options = Options.of(settings, lambda told: resolve(told, environ))
    with pytest.raises(kind, match=says), spark_faults.told("s3a://bucket-7/luthier-1", options.masked):
        raise PythonException(text)


@pytest.mark.parametrize("error", [DataError("ours"), ZeroDivisionError("a defect")])
def test_errors_of_others_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, spark_faults.told():
        raise error
    assert caught.value is error


def test_secrets_are_kept_apart_and_redacted(tmp_path: Path) -> None:
    settings = SparkEngineSpec(
        master="local[2]",
        options={"spark.hadoop.fs.azure.account.key.x": "${KEY}", "spark.a": "b", JAVA: "-Dx=y"},
    )
    options = Options.of(settings, lambda told: resolve(told, {"KEY": "hunter2"}))
    assert "hunter2" not in repr(options)
    assert options.secret == {"spark.hadoop.fs.azure.account.key.x"}
    whole = options.whole("local[2]", tmp_path / "spark.log")
    assert whole["spark.hadoop.fs.azure.account.key.x"] == "hunter2" and whole["spark.a"] == "b"
    assert r"fs\.azure\.account\.key\.x" in whole["spark.redaction.regex"]
    assert "password" in whole["spark.redaction.regex"]  # what Spark redacts of itself
    assert whole[JAVA].startswith("-Dlog4j2") and whole[JAVA].endswith("-Dx=y")
    with pytest.raises(SpecError, match="KEY is not set"):
        Options.of(settings, lambda told: resolve(told, {}))


@pytest.fixture
def port() -> Iterator[int]:
    """One on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    ["spark://127.0.0.1:{}", "sc://127.0.0.1:{}/;token=hunter2", "k8s://https://127.0.0.1:{}"],
)
def test_a_master_that_does_not_answer_is_told_at_once(url: str, port: int) -> None:
    with pytest.raises(StoreError, match=rf"does not answer at 127\.0\.0\.1:{port} \(") as caught:
        refuse_unreachable(url.format(port))
    assert "hunter2" not in str(caught.value)


def test_one_of_several_masters_is_enough(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listens:
        refuse_unreachable(f"spark://127.0.0.1:{port},127.0.0.1:{listens.getsockname()[1]}")
    for quiet in ("local[2]", "yarn", "local-cluster[2,1,1024]"):
        refuse_unreachable(quiet)


@pytest.mark.parametrize("how", ["master", "connect"])
def test_the_stage_tells_it_and_starts_no_java(tmp_path: Path, port: int, how: str) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed (make setup-optional)")
    rows(tmp_path)
    url = {"master": f"spark://127.0.0.1:{port}", "connect": f"sc://127.0.0.1:{port}/;token=${{TOKEN}}"}[how]
    with pytest.raises(LuthierError, match=r"does not answer|no program `java`") as caught:
        prepared(tmp_path, {"spark": {how: url, "storage": str(tmp_path)}}, TOKEN="hunter2")
    assert "hunter2" not in str(caught.value)


def test_what_the_page_tells_to_write_can_be_written() -> None:
    from ruamel.yaml import YAML

    page = (Path(__file__).parents[2] / "docs" / "spark.md").read_text()
    told = [YAML(typ="safe").load(block.partition("```")[0]) for block in page.split("```yaml\n")[1:]]
    engines = [one.get("data", one)["engine"]["spark"] for one in told]
    assert [SparkEngineSpec.model_validate(one).connect is None for one in engines] == [True, True, False]


# with Spark, each in a session of its own


@with_spark
def test_a_worker_that_lacks_a_package_is_told_in_words(tmp_path: Path, there: None) -> None:
    """A folder before all others, in which that package cannot be imported, stands for one that is not there."""
    rows(tmp_path)
    (tmp_path / "lacks").mkdir()
    (tmp_path / "lacks" / "polars.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'polars'\", name='polars')\n"
    )
    path = f"{tmp_path / 'lacks'}{os.pathsep}{SOURCE}"
    options = {"spark.executorEnv.PYTHONPATH": path, JAVA: QUICK}
    with pytest.raises(MissingPart, match=r"workers cannot import polars\.") as caught:
        prepared(tmp_path, {"spark": {"master": "local[2]", "options": options}})
    assert "docs/spark.md" in str(caught.value)


def secretly(folder: Path) -> None:
    """In a process of its own: see what others on this machine can see of Java."""
    import psutil

    seen: list[str] = []

    class Watching(FakeContext):
        def check(self) -> None:
            if not seen:
                for one in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):  # some are gone by now
                        seen.append(" ".join(one.cmdline()))
            super().check()

    options = {
        "spark.eventLog.enabled": "true", "spark.eventLog.compress": "false", "spark.eventLog.dir": (folder / "events").as_uri(),
        "spark.hadoop.fs.azure.account.key.x": "${KEY}", JAVA: QUICK,
    }  # fmt: skip
    data = {
        "sources": [{"files": "${PLACE}/t-*.jsonl", "map": {"user": "q", "assistant": "a"}}],
        "rules": {"quality": ["deduplicate"]},
        "engine": {"spark": {"master": "local[2]", "options": options}},
    }
    (folder / "events").mkdir()
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    at = Watching(folder, root=folder, environ={"KEY": "hunter2", "PLACE": "hidden-place"})
    STAGE.function(PrepareSpec.model_validate({"data": data}), {}, folder / "out", folder / "scratch", at)
    assert any("spark-submit" in one or "SparkSubmit" in one for one in seen)
    (folder / "seen").write_text("\n".join(seen))


def of_its_own(function: str, folder: Path, **more: Any) -> subprocess.Popen[bytes]:
    script = f"import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_spark_faults as t; t.{function}(Path(sys.argv[2]))"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SOURCE}, **more)


@with_spark
def test_nothing_secret_stands_on_a_command_line_or_in_the_event_log(tmp_path: Path, there: None) -> None:
    rows(tmp_path / "hidden-place")
    assert of_its_own("secretly", tmp_path).wait(900) == 0
    logs = [path for path in (tmp_path / "events").rglob("*") if path.is_file()]
    told = "".join(path.read_text(errors="replace") for path in [*logs, tmp_path / "seen"])
    assert "fs.azure.account.key.x" in told and "SparkListenerApplicationEnd" in told
    assert "hunter2" not in told


def endlessly(folder: Path) -> None:
    """A preparation that takes long enough to be stopped, also where whoever runs the tests was started with interrupts ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows(folder, n=20_000, files=6)
    print("begins", flush=True)
    prepared(folder, {"spark": {"master": "local[2]", "options": {JAVA: QUICK}}})


@with_spark
def test_ctrl_c_stops_spark_and_java(tmp_path: Path, there: None) -> None:
    import psutil

    process = of_its_own(
        "endlessly", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"begins\n"
    end = time.monotonic() + 600
    while not any("pyspark.worker" in " ".join(one.cmdline()) for one in _below(process.pid)):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.5)
    others = _below(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    said = process.communicate(timeout=600)[1]
    assert b"KeyboardInterrupt" in said
    gone, alive = psutil.wait_procs(others, timeout=60)
    assert gone and alive == []


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, Interrupted])
def test_what_stopped_it_is_told_where_java_was_stopped_as_well(
    monkeypatch, stopped: type[BaseException]
) -> None:
    """A terminal's Ctrl-C goes to Java, too, which then refuses to be asked to stop."""
    pytest.importorskip("pyspark")
    from luthier.data.engines import spark as engine

    class Gone:
        def addTag(self, tag: str) -> None: ...

        def interruptTag(self, tag: str) -> None:
            raise ConnectionRefusedError("nobody is there")

    class Stopped:
        def check(self) -> None:
            raise stopped("now")

    monkeypatch.setattr(engine, "POLL_S", 0.01)
    session, over = object.__new__(engine.Session), threading.Event()
    session.spark, session._at, session._tag, session._storage = Gone(), Stopped(), "tag", "file:///x"
    session._options = SimpleNamespace(masked=str)
    session._pool = ThreadPoolExecutor(1)
    try:
        with pytest.raises(stopped, match="now"):
            session._wait(lambda: over.wait(20))
    finally:
        over.set()
        session._pool.shutdown()


def _below(pid: int) -> list[Any]:
    import psutil

    found = []
    for one in psutil.Process(pid).children(recursive=True):
        try:
            one.cmdline()
        except psutil.Error:
            continue
        found.append(one)
    return found
