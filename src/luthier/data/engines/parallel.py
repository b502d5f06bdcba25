"""The local engine with several processes: they read and run the rules, this one keeps the keys and writes the files.

    parts ─ pool ─▶ chunks of rows and keys on disk ─┬─ decisions, by DuckDB over keys
                                                     └─ pool ─▶ chunks ─ ... ─▶ rows leave

Groups whose rules need no keys are only noted, and run with the next that does. A row's number is its place in the order of
parts, so every answer is what one process gives (local.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from luthier.data.connectors.protocol import Part
from luthier.data.plan import Group, Step
from luthier.data.reading import Job, count_part, divided
from luthier.data.records import RECORD
from luthier.data.report import Account

from .chores import chunk_files, read
from .decide import decide
from .group import run_group
from .keys import Keys
from .pool import Pool
from .protocol import At, LocalEngineSpec, Look
from .spark_worker import KEY, REMOVED, Program, account_of, error_of, plain_step, unpacked
from .spool import Spool

Batches = Iterator[pa.RecordBatch]

PART_BYTES = 16_000_000
"""About what a process reads at once."""
LEAST_BYTES = 24_000_000
"""Sources of less are quicker read by one process: others take a second or two to start."""
MOST_WORKERS = 8
WORKER_BYTES = 1_000_000_000
"""What should be free on the machine for each."""
HELD_BYTES = 250_000_000
"""What each holds while the keys are decided; that much less is left for these."""


def workers_for(settings: LocalEngineSpec, work: Sequence[tuple[Job, Part]]) -> int:
    """How many processes; 1 means that there is no other."""
    if settings.workers != "auto":
        return settings.workers
    if sum(part.size_bytes for _, part in work) < LEAST_BYTES:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST_WORKERS, _free_bytes() // WORKER_BYTES))


def _free_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return MOST_WORKERS * WORKER_BYTES
    told = dict(line.split(":", 1) for line in lines)
    return int(told["MemAvailable"].split()[0]) * 1024


@dataclass(frozen=True)
class Rows:
    """Rows that the pool will have: the tasks to begin with, what to do then, whose accounts that adds to. `folder` goes when
    it is done; `sizes` are the bytes that each task reads, of tasks that read."""

    tasks: Sequence[dict[str, Any]]
    program: Program
    ledger: tuple[Sequence[Account], ...]
    folder: Path | None = None
    sizes: Sequence[int] = ()

    def then(self, group: Group, accounts: Sequence[Account]) -> Rows:
        groups = (*self.program.groups, (group, len(self.ledger)))
        return replace(self, program=replace(self.program, groups=groups), ledger=(*self.ledger, accounts))


@dataclass(frozen=True)
class Chunk:
    """Rows in a file; the first of them is number `start`."""

    path: Path
    start: int
    rows: int


class Spread:
    """protocol.Engine, for large data."""

    def __init__(self, settings: LocalEngineSpec, at: At, workers: int) -> None:
        self._settings, self._at = settings, at
        self._pool = Pool(workers, at.check)
        self._keys_bytes = max(settings.memory - workers * HELD_BYTES, settings.memory // 4)
        self._steps = 0
        self._look: Look | None = None

    def read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Rows:
        self._look = look
        jobs: list[Job] = []
        tasks: list[dict[str, Any]] = []
        sizes: list[int] = []
        for n, (job, part) in enumerate(divided(work, PART_BYTES, self._counts)):
            if not jobs or jobs[-1] is not job:
                jobs.append(job)
            line = {"seq": n, "job": len(jobs) - 1, "size_bytes": part.size_bytes, "at": json.dumps(part.at)}
            if not tasks or sizes[-1] + part.size_bytes > PART_BYTES:  # small files go together
                tasks.append({"parts": []})
                sizes.append(0)
            tasks[-1]["parts"].append(line)
            sizes[-1] += part.size_bytes
        return Rows(tasks, Program(jobs=jobs), ([account],), sizes=sizes)

    def _counts(self, job: Job, parts: Sequence[Part]) -> list[int]:
        found = []
        for part in parts:
            self._at.check()
            found.append(count_part(job, part))
        return found

    def run(self, group: Group, frame: Rows, accounts: Sequence[Account], look: Look) -> Rows:
        frame = frame.then(group, accounts)
        if not group.needs_keys:
            return frame
        self._look = look
        folder = self._folder()
        keys = run_group(group, pa.RecordBatch.from_pylist([], RECORD)).keys.schema
        table = Keys(folder, self._keys_bytes)
        chunks: list[Chunk] = []
        start = 0
        for into, answer in self._work(
            frame, folder, pa.schema([pa.field(f"{KEY}{one.name}", one.type) for one in keys])
        ):
            for n, rows in enumerate(answer["chunks"]):
                rows_path, keys_path = chunk_files(into, n)
                for batch in read(keys_path):
                    table.add(batch)
                keys_path.unlink()
                chunks.append(Chunk(rows_path, start, rows))
                start += rows
            for side, batch in self._leaving(into, answer):
                look.held(batch, side)
        tasks = []
        if table.ready():

            def again(step: Step, wanted: pa.Table) -> Batches:
                return self._features(step, wanted, chunks, folder)

            decisions = table.decisions(decide(group, table, accounts, look, again, folder))
            for chunk in chunks:
                decided = chunk.path.with_suffix(".decided")
                told = decisions.take(chunk.rows)
                spool = Spool(decided, told.schema)
                spool.write(told)
                spool.close()
                tasks.append({"rows": str(chunk.path), "decided": str(decided)})
        rest = accounts[len(group.rows) :]
        return Rows(tasks, Program(carry=(group, 0)), (rest,), folder)

    def _features(self, step: Step, wanted: pa.Table, chunks: Sequence[Chunk], folder: Path) -> Batches:
        """What a rule of pairs wants to know of some rows."""
        numbers, at = wanted["row"].to_numpy(), 0
        tasks: list[dict[str, Any]] = []
        for n, chunk in enumerate(chunks):
            end = int(numbers.searchsorted(chunk.start + chunk.rows))
            if end > at:
                asked = Spool(folder / f"{n}.wanted", wanted.schema)
                for batch in wanted.slice(at, end - at).to_batches():
                    asked.write(batch)
                asked.close()
                tasks.append({"do": "features", "into": str(folder / f"{n}.features"), "rows": str(chunk.path), "wanted": str(asked.path), "start": chunk.start})  # fmt: skip
            at = end
        program = json.dumps(plain_step(step))
        for task, answer in zip(tasks, self._pool.run(program, tasks), strict=True):
            Path(task["wanted"]).unlink()
            if answer["told"]:
                yield from read(Path(task["into"]))
                Path(task["into"]).unlink()

    def rows(self, frame: Rows) -> Batches:
        look = self._look
        assert look is not None
        for into, answer in self._work(frame, self._folder(), None):
            for side, batch in self._leaving(into, answer):
                if side == "train":
                    yield batch
                else:
                    look.held(batch, side)
        self._pool.close()  # sorting the files needs the memory

    def close(self) -> None:
        self._pool.close()

    def _folder(self) -> Path:
        self._steps += 1
        folder = self._at.work / f"step-{self._steps}"
        folder.mkdir(parents=True)
        return folder

    def _work(
        self, frame: Rows, folder: Path, keys: pa.Schema | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Let the pool do it; (where its files are, the answer) of each task, in order. Raises the first task's error."""
        look = self._look
        assert look is not None
        program = replace(
            frame.program, keys=keys, values=self._at.values(g for g, _ in frame.program.groups)
        )
        tasks = [{"do": "work", "into": str(folder / f"{n}"), **task} for n, task in enumerate(frame.tasks)]
        done_bytes = 0
        for n, answer in enumerate(self._pool.run(program.text(), tasks)):
            if "failed" in answer:
                raise error_of(answer["failed"])
            for number, accounts in answer["accounts"].items():
                for one, whole in zip(accounts, frame.ledger[int(number)], strict=False):
                    whole.add(account_of(one))
            if frame.sizes:
                done_bytes += frame.sizes[n]
                look.seen(done_bytes, frame.ledger[0][0].rows_in)
            else:
                Path(tasks[n]["rows"]).unlink()
                Path(tasks[n]["decided"]).unlink()
            yield tasks[n]["into"], answer
        if frame.folder is not None:
            shutil.rmtree(frame.folder)

    def _leaving(self, into: str, answer: dict[str, Any]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """(side, rows) that go no further; lines are told on the way."""
        if not answer["told"]:
            return
        path = Path(f"{into}.told")
        for line in read(path):
            for batch in unpacked(line["said"][0].as_py()):
                if line["what"][0].as_py() == REMOVED:
                    self._at.discard(batch)
                else:
                    yield line["side"][0].as_py(), batch
        path.unlink()
