"""Start the processes of a parallel run on this machine, pass their events on, and bring their end back.

    the stage ──job.json──▶ torchrun ──▶ luthier.training.worker × N ──events, a line of JSON each──▶ the stage

The stage's own process only listens. A stop by the user becomes a file that workers look for between steps; a worker
whose listener is gone ends by itself, and a new run waits for its lock.

Not here: what the processes do together (training/parallel), and machines of other names (a launcher's work).
Light at import.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from luthier.core import errors
from luthier.core.artifact import Artifact, File
from luthier.core.errors import Interrupted, LuthierError, ModelError, SpecError
from luthier.core.stage import Context, Output
from luthier.store.files import write_atomic

from .method import Method
from .spec import TrainSpec

JOB, STOP, LOG, LOCK = "job.json", "stop", "workers.log", "workers.lock"
MARK = "luthier: "
"""Begins the lines that workers write for the listener; libraries may print others."""
POLL_S = 0.2
TOLD_LINES = 15


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def refuse_unshardable(spec: TrainSpec) -> None:
    """What fsdp cannot do. Raises SpecError."""
    if spec.parallel.kind != "fsdp":
        return
    if spec.adapter.kind != "full":
        raise SpecError(
            f"train.parallel.kind is fsdp, which shards a whole fp32 model, and train.adapter.kind is {spec.adapter.kind}.",
            remedy="Use train.parallel.kind: ddp, or train.adapter.kind: full.",
        )
    if spec.method.load().attach is not Method.attach:
        raise SpecError(
            f"train.parallel.kind is fsdp, and the method {spec.method.name} puts a module of its own on the model.",
            remedy="Use train.parallel.kind: ddp.",
        )


def processes_of(spec: TrainSpec) -> int:
    """How many the spec asks for; without a number one per GPU. Raises SpecError where that is none, or more than there
    are GPUs for."""
    asked = spec.parallel
    if asked.kind == "none":
        return 1
    gpus = _gpus() if spec.device != "cpu" else 0
    if not asked.processes and not gpus:
        raise SpecError(
            f"train.parallel.kind is {asked.kind} without a number of processes, which means one per GPU, and here "
            "training has no GPU.",
            remedy="Name the number (train.parallel.processes: 2, say), or leave train.parallel out.",
        )
    if gpus and (asked.processes or gpus) > gpus:
        raise SpecError(
            f"train.parallel.processes is {asked.processes}, each needs a GPU of its own, and this machine has {gpus}.",
            remedy=f"Lower it to at most {gpus}, leave it out for one per GPU, or set train.device: cpu.",
        )
    return asked.processes or gpus


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def in_processes(
    spec: TrainSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    """The stage, in several processes. Raises what they raise."""
    (scratch / STOP).unlink(missing_ok=True)
    job = {
        "spec": spec.plain(),
        "inputs": {role: asdict(artifact) for role, artifact in inputs.items()},
        "folders": {role: str(at.folder(artifact)) for role, artifact in inputs.items()},
        "paths": {"out": str(out), "scratch": str(scratch), "home": str(at.home), "root": str(at.root)},
        "run": at.run,
        "hourly": at.hourly,
        "listener": os.getpid(),
    }
    write_atomic(scratch / JOB, json.dumps(job).encode())
    processes = processes_of(spec)
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "luthier.training.worker", str(scratch / JOB)]
    with open(scratch / LOG, "wb") as log:
        torchrun = subprocess.Popen(  # noqa: S603
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment_of(processes),
            start_new_session=True,  # Ctrl-C is the listener's to pass on
        )
        try:
            ended = _listen(torchrun, scratch / STOP, at)
        finally:
            if torchrun.poll() is None:
                torchrun.terminate()
                torchrun.wait()
    if "summary" in ended:
        return Output(ended["summary"])
    if "error" in ended:
        raise _error(ended["error"])
    raise _died(torchrun.returncode, scratch / LOG)


def environment_of(processes: int) -> dict[str, str]:
    """Processes on one machine share its threads, unless somebody has said how many each may have."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // processes))
    return {**os.environ, "OMP_NUM_THREADS": threads}


def _listen(torchrun: subprocess.Popen[bytes], stop: Path, at: Context) -> dict[str, Any]:
    """Pass events on until the processes have ended; returns what they ended with."""
    lines: Queue[bytes | None] = Queue()

    def read() -> None:
        assert torchrun.stdout is not None
        for line in torchrun.stdout:
            lines.put(line)
        lines.put(None)

    Thread(target=read, daemon=True).start()
    ended: dict[str, Any] = {}
    while True:
        if not stop.exists():
            try:
                at.check()
            except Interrupted:
                stop.touch()
        try:
            line = lines.get(timeout=POLL_S)
        except Empty:
            continue
        if line is None:
            torchrun.wait()
            return ended
        text = line.decode(errors="replace")
        if not text.startswith(MARK):
            continue
        told = json.loads(text.removeprefix(MARK))
        if "event" in told:
            at.emit(told["event"], **told["data"])
        elif "progress" in told:
            at.progress(*told["progress"], **told["facts"])
        elif "error" not in ended:  # the first is the cause; others follow from it
            ended |= told


_DEATH = "failed (exitcode: "
"""Begins torchrun's own account of the process that ended first."""


def _died(code: int, log: Path) -> ModelError:
    """A process that ended without saying why in our words: by a signal, or with what Python and its libraries print."""
    said, _, account = log.read_text(encoding="utf-8", errors="replace").partition(_DEATH)
    if found := re.match(r"-?\d+", account):
        code = int(found[0])
    lines = [line for line in said.splitlines() if "torch/distributed/" not in line][-TOLD_LINES:]
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit status {code}"
    remedy = f"The whole of what the processes said is in {log}. "
    if code == -signal.SIGKILL:
        remedy = "The system kills a process when memory runs out: lower train.parallel.processes or train.batch.micro_tokens. "
    return ModelError(
        f"a process of this training run {how}"
        + (" and said:\n" + "\n".join(lines) if lines else ", and said nothing before."),
        remedy=f"{remedy}The same command goes on from the last checkpoint.",
    )


def _error(told: Mapping[str, Any]) -> LuthierError:
    """The same error again, of the same kind where the core knows it."""
    kind = getattr(errors, told["kind"], LuthierError)
    if not (isinstance(kind, type) and issubclass(kind, LuthierError)):
        kind = LuthierError
    return kind(told["message"], remedy=told["remedy"])


def artifact_of(plain: Mapping[str, Any]) -> Artifact:
    """The inverse of `asdict`."""
    return Artifact(**{**plain, "files": tuple(File(**one) for one in plain["files"])})
