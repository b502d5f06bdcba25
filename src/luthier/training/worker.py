"""One process of a parallel run: the stage, as torchrun starts it. `python -m luthier.training.worker JOB`.

The first process speaks for all: it tells events, writes checkpoints and the result. Any of them tells its errors.
Not for people: training/launch starts it and listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from luthier.core.artifact import Artifact
from luthier.core.errors import Interrupted, LuthierError
from luthier.core.event import Event
from luthier.core.units import Money

from .launch import LOCK, MARK, STOP, artifact_of
from .spec import TrainSpec
from .train import train


@dataclass
class WorkerContext:
    """A core.stage.Context whose events go to the listener; only the first process has any to tell."""

    home: Path
    root: Path
    run: str
    rank: int
    listener: int
    stop: Path
    folders: Mapping[str, Path] = field(default_factory=dict)
    hourly: Money | None = None

    def emit(self, kind: str, **data: Any) -> Event:
        if self.rank == 0:
            say({"event": kind, "data": data})
        return Event(kind, self.run, data)

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        if self.rank == 0:
            say({"progress": [what, done, total], "facts": facts})

    def check(self) -> None:
        if not psutil.pid_exists(self.listener):
            os._exit(1)  # nobody would hear how it ends
        if self.rank == 0 and self.stop.exists():
            raise Interrupted("stopped by the user.", remedy="Run the same command again to go on from here.")

    def folder(self, artifact: Artifact) -> Path:
        return self.folders[artifact.digest]

    def secret(self, text: str) -> str:
        return text  # training reads no secrets


def say(told: Mapping[str, Any]) -> None:
    """One write, so that the lines of several processes do not mix."""
    sys.stdout.write(MARK + json.dumps(told) + "\n")
    sys.stdout.flush()


def main(path: str) -> int:
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    paths = {name: Path(where) for name, where in job["paths"].items()}
    inputs = {role: artifact_of(plain) for role, plain in job["inputs"].items()}
    folders = {inputs[role].digest: Path(where) for role, where in job["folders"].items()}
    rank = int(os.environ["RANK"])
    stop = paths["scratch"] / STOP
    hourly = Money(*job["hourly"]) if job["hourly"] else None
    at = WorkerContext(paths["home"], paths["root"], job["run"], rank, job["listener"], stop, folders, hourly)
    with open(paths["scratch"] / LOCK, "w", encoding="utf-8") as lock:
        if rank == 0:  # processes of a run whose listener died may still be at their last step
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            output = train(TrainSpec.model_validate(job["spec"]), inputs, paths["out"], paths["scratch"], at)
        except LuthierError as error:
            kind = type(error).__name__
            say({"error": {"kind": kind, "message": error.message, "remedy": error.remedy}})
            return 1
    if rank == 0:
        say({"summary": dict(output.summary)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
