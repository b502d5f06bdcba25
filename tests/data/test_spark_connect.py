"""Through a server of Spark Connect, which this test starts: the same bytes, and nothing left in the storage."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import luthier

SOURCE = str(Path(luthier.__file__).parents[1])
LACKS = next(
    (
        f"{name} is not installed (make setup-optional)"
        for name in ("pyspark", "grpc", "google.rpc")
        if importlib.util.find_spec(name.partition(".")[0]) is None
    ),
    "" if shutil.which("java") or os.environ.get("JAVA_HOME") else "there is no program `java`",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    import pyspark

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    settings = {
        "spark.master": "local[2]", "spark.connect.grpc.binding.port": str(port), "spark.ui.enabled": "false",
        "spark.connect.grpc.binding.address": "127.0.0.1", "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1", "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PYTHONPATH": SOURCE, "spark.sql.shuffle.partitions": "2",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    kind = "org.apache.spark.sql.connect.service.SparkConnectServer"
    environ = {**os.environ, "PYTHONPATH": SOURCE, "PYSPARK_PYTHON": sys.executable}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            [submit, *words, "--class", kind, "spark-internal"],
            stdout=log,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
    end = time.monotonic() + 300
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "server.log").read_text()
        time.sleep(0.5)
    yield f"sc://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.skipif(bool(LACKS), reason=LACKS or "-")
def test_a_server_of_spark_connect_gives_the_same_bytes(tmp_path: Path, server: str) -> None:
    """The client is a process of its own, which never has Java."""
    script = (
        "import sys, psutil; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_spark as t\n"
        "folder = Path(sys.argv[2]); data = t.planted(folder, 300, 3)\n"
        "engine = {'spark': {'connect': sys.argv[3], 'storage': str(folder / 'between')}}\n"
        "t.same(t.prepared(folder, data, engine, t.CLASSIFY), t.prepared(folder, data, task=t.CLASSIFY))\n"
        "assert psutil.Process().children() == []\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path), server],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
        check=False,
    )
    assert told.returncode == 0, told.stdout.decode()
    assert list((tmp_path / "between").iterdir()) == []
    assert json.loads((tmp_path / "out-0" / "dataset.json").read_text())["counts"]["train"] > 20
