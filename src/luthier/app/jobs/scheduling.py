"""Whose turn it is: pure rules over what waits and what runs.

1. Order: priority, and one more for each `ageing` of waiting; among equals the project that has had least of its share; then who came first.
2. A project has at most `at_once` jobs at the same time.
3. A job starts where its cores, memory and GPUs are free on this host.
4. One that is first and does not fit has others of lower priority stopped, if that makes room: the lowest first, the youngest of those.
   They save a checkpoint, go back into the queue, and the attempt does not count.
5. One that does not fit is passed by smaller ones for `patience`; then what becomes free is kept for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.units import show_bytes
from luthier.store.attempts import AttemptRow, Choice, Queue
from luthier.store.jobs import Job

from .queue_spec import Host, QueueSpec

A_TURN_S = 600.0
"""What a job that starts now counts as used, for the next choice in the same pass."""


@dataclass(frozen=True)
class Wants:
    cores: int
    memory_bytes: int
    gpus: int


@dataclass
class _Free:
    """What is left of the host while a choice is made; `coming`: what jobs that are stopping will leave."""

    cores: int
    memory_bytes: int
    gpus: list[str]
    places: int
    coming: list[Wants] = field(default_factory=list)

    def fits(self, wants: Wants, more: Sequence[Wants] = ()) -> bool:
        return (
            self.places + len(more) > 0
            and self.cores + sum(one.cores for one in more) >= wants.cores
            and self.memory_bytes + sum(one.memory_bytes for one in more) >= wants.memory_bytes
            and len(self.gpus) + sum(one.gpus for one in more) >= wants.gpus
        )

    def take(self, wants: Wants) -> list[str]:
        self.cores -= wants.cores
        self.memory_bytes -= wants.memory_bytes
        self.places -= 1
        given, self.gpus = self.gpus[: wants.gpus], self.gpus[wants.gpus :]
        return given


def wants_of(job: Job, host: Host) -> Wants:
    """What it asks for; what it does not say is its part of the host."""
    said = job.resources
    return Wants(
        int(said.get("cores", _part_of(host))),
        int(said.get("memory_bytes", 0)),
        gpus_wanted(said, host),
    )


def _part_of(host: Host) -> int:
    """The cores of a job that says nothing."""
    return max(1, host.cores // host.at_once)


def gpus_wanted(said: Mapping[str, Any], host: Host) -> int:
    """One where nothing is said and the host has some."""
    return int(said.get("gpus", min(1, len(host.gpus))))


def choose(queue: Queue, host: Host, spec: QueueSpec, used: Mapping[str, float], now_s: float) -> Choice:
    """`used`: core-seconds of late, by project."""
    here = [(job, attempt) for job, attempt in queue.running if attempt.handle.get("host") == host.name]
    free = _free(here, host)
    had = {project: seconds / spec.share_of(project).weight for project, seconds in used.items()}
    counts = _counts(queue.running)
    start: dict[str, dict[str, object]] = {}
    stop: dict[str, str] = {}
    waits: dict[str, str] = {}
    kept = False
    waiting = deque(sorted(queue.waiting, key=lambda one: _order(one, spec, had, now_s)))
    while waiting:
        job = waiting.popleft()
        wants, share = wants_of(job, host), spec.share_of(job.project)
        if share.at_once is not None and counts.get(job.project, 0) >= share.at_once:
            waits[job.id] = f"its project has {share.at_once} jobs running, as many as it may"
        elif (why := _never(wants, host)) is not None:
            waits[job.id] = why
        elif kept:
            waits[job.id] = "what is free is kept for a job that has waited longer"
        elif free.fits(wants):
            start[job.id] = {"host": host.name, "gpus": free.take(wants), "cores": wants.cores}
            counts[job.project] = counts.get(job.project, 0) + 1
            had[job.project] = had.get(job.project, 0.0) + A_TURN_S * wants.cores / share.weight
            waiting = deque(sorted(waiting, key=lambda one: _order(one, spec, had, now_s)))
        else:
            victims = [] if free.fits(wants, free.coming) else _victims(job, wants, free, here, stop, host)
            for victim in victims:
                stop[victim.id] = f"the job {job.id} has a higher priority and needs the room"
                free.coming.append(wants_of(victim, host))
            patient = now_s - job.created_s < spec.patience
            kept = bool(free.coming and free.fits(wants, free.coming)) or not patient
            waits[job.id] = _short(wants, free)
    return Choice(start, stop, waits)


def usage(
    rows: Sequence[tuple[str, Mapping[str, Any], float, float | None]],
    host: Host,
    spec: QueueSpec,
    now_s: float,
) -> dict[str, float]:
    """Core-seconds by project, of the cores that each attempt was given (its handle); what lies half of `memory_of_use` back counts half.

    >>> usage([("p", {"cores": 2}, 0.0, 10.0)], Host("here", 4, 0, (), 1), QueueSpec(), 10.0)
    {'p': 20.0}
    """
    found: dict[str, float] = {}
    half_s = spec.memory_of_use / 2
    for project, handle, began_s, ended_s in rows:
        until = now_s if ended_s is None else ended_s
        seconds = max(0.0, until - began_s) * float(handle.get("cores", _part_of(host)))
        found[project] = found.get(project, 0.0) + seconds * 0.5 ** (max(0.0, now_s - until) / half_s)
    return found


def _order(job: Job, spec: QueueSpec, had: Mapping[str, float], now_s: float) -> tuple[float, float, int]:
    aged = job.priority + math.floor(max(0.0, now_s - job.created_s) / spec.ageing)
    return (-aged, had.get(job.project, 0.0), job.seq or 0)


def _counts(running: Sequence[tuple[Job, AttemptRow]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for job, _ in running:
        found[job.project] = found.get(job.project, 0) + 1
    return found


def _free(here: Sequence[tuple[Job, AttemptRow]], host: Host) -> _Free:
    taken = {gpu for _, attempt in here for gpu in attempt.handle.get("gpus", ())}
    all_of = [wants_of(job, host) for job, _ in here]
    return _Free(
        host.cores - sum(one.cores for one in all_of),
        host.memory_bytes - sum(one.memory_bytes for one in all_of),
        [gpu for gpu in host.gpus if gpu not in taken],
        host.at_once - len(here),
        [wants_of(job, host) for job, attempt in here if attempt.state == "stopping"],
    )


def _victims(
    job: Job, wants: Wants, free: _Free, here: Sequence[tuple[Job, AttemptRow]], stop: Mapping[str, str], host: Host
) -> list[Job]:  # fmt: skip
    """The fewest of the lowest that make room; none where all of them would not."""
    lower = [
        (one, attempt) for one, attempt in here
        if one.priority < job.priority and attempt.state != "stopping" and one.id not in stop
    ]  # fmt: skip
    lower.sort(key=lambda pair: (pair[0].priority, -pair[1].created_s))
    found: list[Job] = []
    for one, _ in lower:
        found.append(one)
        if free.fits(wants, [*free.coming, *(wants_of(victim, host) for victim in found)]):
            return [
                victim for victim in found if not free.fits(wants, [*free.coming, *(wants_of(o, host) for o in found if o is not victim)])
            ] or found  # fmt: skip
    return []


def _never(wants: Wants, host: Host) -> str | None:
    for name, asked, there in (("cores", wants.cores, host.cores), ("GPUs", wants.gpus, len(host.gpus))):
        if asked > there:
            return f"it asks for {asked} {name}, and this host gives {there} to jobs"
    if wants.memory_bytes > host.memory_bytes:
        return f"it asks for {show_bytes(wants.memory_bytes)} of memory, and this host gives {show_bytes(host.memory_bytes)} to jobs"
    return None


def _short(wants: Wants, free: _Free) -> str:
    if free.places <= 0:
        return "as many jobs run here as may"
    if free.cores < wants.cores:
        return f"it needs {wants.cores} cores, and {max(0, free.cores)} are free"
    if len(free.gpus) < wants.gpus:
        return f"it needs {wants.gpus} GPUs, and {len(free.gpus)} are free"
    return f"it needs {show_bytes(wants.memory_bytes)} of memory, and {show_bytes(max(0, free.memory_bytes))} are free"
