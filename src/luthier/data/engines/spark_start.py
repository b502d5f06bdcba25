"""What a session of Spark is started with: options, its log, the workers' Python, and which of all that is secret.
Nothing here imports pyspark."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import luthier
from luthier.core.errors import StoreError
from luthier.core.spec import references
from luthier.data.connectors.protocol import Secret

from .protocol import SparkEngineSpec

PATIENCE_S = 5.0
JAVA = "spark.driver.extraJavaOptions"
REDACTED = "spark.redaction.regex"
ALWAYS_REDACTED = "(?i)secret|password|token|access[.]?key"  # Spark's own default
SQL = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "5000",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
}
RUN = {
    "spark.task.maxFailures": "8",
    "spark.stage.maxConsecutiveAttempts": "10",
    "spark.executorEnv.POLARS_MAX_THREADS": "1",  # a task has one core
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


@dataclass(frozen=True)
class Options:
    """Of a recipe, with values in the place of ${VAR}. `secret` names those that referred to any, `hidden` maps each value to
    how it is written."""

    values: Mapping[str, str] = field(repr=False)
    secret: frozenset[str]
    hidden: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, settings: SparkEngineSpec, secret: Secret) -> Options:
        written = [settings.connect or "", settings.storage or "", *settings.options.values()]
        names = sorted({name for text in written for name in references(text)})
        hidden = {secret(f"${{{name}}}"): f"${{{name}}}" for name in names}
        values = {name: secret(value) for name, value in settings.options.items()}
        return cls(values, frozenset(n for n, v in settings.options.items() if references(v)), hidden)

    def masked(self, text: str) -> str:
        """Without what a variable holds."""
        for value in sorted(filter(None, self.hidden), key=len, reverse=True):
            text = text.replace(value, self.hidden[value])
        return text

    def whole(self, master: str, log: Path) -> dict[str, str]:
        """All settings of a session of ours."""
        ours = SQL | RUN | (_here(master) if master.startswith("local") else {}) | dict(self.values)
        ours[JAVA] = f"{_logged(log)} {self.values.get(JAVA, '')}".strip()
        # the event log tells Hadoop's settings once more, under their own names
        names = sorted(name.removeprefix("spark.hadoop.") for name in self.secret)
        redacted = [ours.get(REDACTED, ALWAYS_REDACTED), *map(re.escape, names)]
        return {**ours, REDACTED: "|".join(redacted), "spark.master": master, "spark.app.name": "luthier"}


def refuse_unreachable(url: str) -> None:
    """Raises StoreError where nobody listens at a master's or a server's URL: Spark itself would try for minutes."""
    scheme, _, rest = url.removeprefix("k8s://").partition("://")
    usual = {"spark": 7077, "sc": 15002, "https": 443, "http": 80}
    if scheme not in usual:
        return
    reasons = []
    for address in rest.partition("/")[0].split(","):
        try:
            place = urlsplit(f"//{address}")
            with socket.create_connection((place.hostname or "", place.port or usual[scheme]), PATIENCE_S):
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{address} ({getattr(error, 'strerror', None) or error})")
    raise StoreError(
        f"Spark does not answer at {', '.join(reasons)}.",
        remedy="Check host and port, that it runs, and that this machine may reach it.",
    )


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


def _logged(path: Path) -> str:
    """What Spark has to say goes into a file, which stays where it is when something fails."""
    settings = path.with_suffix(".properties")
    settings.write_text(
        "rootLogger.level = warn\nrootLogger.appenderRef.file.ref = file\nappender.file.type = File\n"
        f"appender.file.name = file\nappender.file.fileName = {path}\n"
        "appender.file.layout.type = PatternLayout\nappender.file.layout.pattern = %d %p %c{1}: %m%n%ex\n"
    )
    return f"-Dlog4j2.configurationFile={settings.as_uri()}"


@contextmanager
def workers_python(python: str | None) -> Iterator[None]:
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
