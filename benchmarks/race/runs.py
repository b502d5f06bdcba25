"""One contestant, one process, watched from outside: when each step ended, and the most memory it ever held.

Standard library only, and the process that starts contestants must stay small: Linux counts the parent's memory into a
child's peak until the child has replaced its program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contestants import ALPHA, LEARNING_RATE, RANK, ROWS_PER_STEP, Contestant

HERE = Path(__file__).resolve().parent
PATIENCE_S = 1200


@dataclass(frozen=True)
class Run:
    """`ended_s[k]` is when step k+1 ended, in seconds since the process was started."""

    track: str
    contestant: str
    round: int
    ended_s: list[float]
    losses: list[float]
    tokens: list[int]
    supervised: list[int]
    peak_bytes: int
    load: float  # processes that wanted the processor just before
    failed: str | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """From the end of the first step to the end of the last; None of a run that has no second step."""
        if self.failed or len(self.ended_s) < 2:
            return None
        return sum(self.tokens[1:]) / (self.ended_s[-1] - self.ended_s[0])

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}


def run(
    contestant: Contestant, python: Path, track: Path, steps: int, home: Path, threads: int, round: int = 0
) -> Run:
    """Start it, wait, read what it wrote. A failure is told in `failed`, never raised. `home` is its home folder, which
    keeps what a program caches between runs."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        job, lines = scratch / "job.json", scratch / "lines.jsonl"
        told = {
            "track": str(track),
            "steps": steps,
            "settings": dict(contestant.settings),
            "scratch": str(scratch / "scratch"),
            "rows_per_step": ROWS_PER_STEP,
            "learning_rate": LEARNING_RATE,
            "rank": RANK,
            "alpha": ALPHA,
            "seed": 0,
        }
        (scratch / "scratch").mkdir()
        job.write_text(json.dumps(told))
        log = home / f"{track.name}-{contestant.name}.log"
        load = os.getloadavg()[0]
        with log.open("wb") as output:
            started = time.time()
            process = subprocess.Popen(  # noqa: S603
                [str(python), str(HERE / contestant.script), str(job), str(lines)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(home, threads),
                cwd=scratch,
            )
            status, peak_bytes = _wait(process, started + PATIENCE_S)
        found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        return Run(
            track=track.name,
            contestant=contestant.name,
            round=round,
            ended_s=[one["ended"] - started for one in found],
            losses=[one["loss"] for one in found],
            tokens=[one["tokens"] for one in found],
            supervised=[one["supervised"] for one in found],
            peak_bytes=peak_bytes,
            load=load,
            failed=_failure(status, len(found), steps, log),
        )


def environment(home: Path, threads: int) -> dict[str, str]:
    """The same for everybody. Nothing is fetched, nothing is reported to anyone."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH")}
    return {
        **kept,
        "HOME": str(home),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DISABLE_VERSION_CHECK": "1",  # LLaMA-Factory's, of packages that it does not use here
    }


def _wait(process: subprocess.Popen, deadline: float) -> tuple[int | None, int]:
    """(exit status, or None when it was killed for taking too long; peak of its resident memory)."""
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_maxrss * 1024
        if time.time() > deadline:
            process.kill()
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = -9
            return None, used.ru_maxrss * 1024
        time.sleep(0.05)


def _failure(status: int | None, found: int, steps: int, log: Path) -> str | None:
    if status == 0 and found == steps:
        return None
    if status is None:
        return f"took more than {PATIENCE_S} s"
    said = log.read_text(errors="replace").strip().splitlines() or [""]
    return f"exit status {status} after {found} of {steps} steps: {said[-1][:300]}"


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def other_tokens(one: Run, track: Path) -> str | None:
    """What is wrong when a contestant saw other tokens, or supervised other ones, than the track says; None if nothing."""
    steps = json.loads((track / "rows.json").read_text())[: len(one.tokens)]
    tokens = [sum(len(row["ids"]) for row in rows) for rows in steps]
    supervised = [sum(sum(row["supervised"][1:]) for row in rows) for rows in steps]
    if (one.tokens, one.supervised) == (tokens, supervised):
        return None
    return f"it saw {one.tokens} tokens and learnt {one.supervised}; the track has {tokens} and {supervised}"
