"""HOME/queue.yaml: what a host gives to jobs, and how they take turns. Optional; read when a server starts.

capacity: {cores: 14, memory: 100 GiB, gpus: 2}     # default: the whole machine
at_once: 4                                          # jobs on this host; default: its GPUs, or 1
projects:
  default: {at_once: 2}
  proj_0123: {at_once: 6, weight: 3}                # three times the share of others
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from luthier.core.spec import Spec, parse, read_yaml
from luthier.core.units import Bytes, Seconds


class CapacitySpec(Spec):
    """What jobs may have of a host together. What is left out is what the machine has."""

    cores: int | None = Field(default=None, ge=1)
    """Processor cores."""
    memory: Bytes | None = None
    """Main memory, for example `100 GiB`."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs; the first ones."""


class ProjectShareSpec(Spec):
    at_once: int | None = Field(default=None, ge=1)
    """How many of the project's jobs run at the same time, on all hosts together; without it as many as fit."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of what is used, beside the others'."""


class QueueSpec(Spec):
    """How jobs take turns."""

    capacity: CapacitySpec = CapacitySpec()
    """What this host gives to jobs."""
    at_once: int | None = Field(default=None, ge=1)
    """How many jobs this host runs at the same time; without it as many as it has GPUs, or one. A job that does not say what it
    needs gets this part of the host."""
    projects: dict[str, ProjectShareSpec] = Field(default={})
    """Shares by a project's id; `default` is everybody else's."""
    ageing: Seconds = Field(default=3600.0, gt=0)
    """Each such time of waiting counts as one more of priority, so that nobody waits for ever."""
    memory_of_use: Seconds = Field(default=86_400.0, gt=0)
    """How long what a project has used counts against its share; half of it after half of this."""
    patience: Seconds = Field(default=900.0, gt=0)
    """How long smaller jobs may pass one that does not fit yet."""
    grace: Seconds = Field(default=120.0, gt=0)
    """How long an attempt may take to save and stop before it is killed."""
    first_wait: Seconds = Field(default=10.0, gt=0)
    """Before the second attempt; it doubles each time."""
    longest_wait: Seconds = Field(default=600.0, gt=0)
    """Before any attempt."""
    launcher: str = "local"
    """Where jobs run."""

    def share_of(self, project: str) -> ProjectShareSpec:
        return self.projects.get(project) or self.projects.get("default") or ProjectShareSpec()


@dataclass(frozen=True)
class Host:
    """What a host has for jobs. `gpus`: their names, as CUDA_VISIBLE_DEVICES takes them."""

    name: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    at_once: int


def read_queue(path: Path) -> QueueSpec:
    """The default where there is no file. Raises SpecError."""
    from luthier.app.recipe import read_written

    if not path.exists():
        return QueueSpec()
    remedy = "docs/jobs.md explains every key."
    tree = read_yaml(read_written(path), path.name)
    return QueueSpec() if tree.value is None else parse(QueueSpec, tree, remedy)


def host_of(spec: QueueSpec, name: str, environ: Mapping[str, str]) -> Host:
    """This machine, as far as it is given to jobs."""
    import psutil

    found = _gpus(environ)
    gpus = found if spec.capacity.gpus is None else found[: spec.capacity.gpus]
    return Host(
        name, spec.capacity.cores or len(os.sched_getaffinity(0)), int(spec.capacity.memory or psutil.virtual_memory().total),
        gpus, spec.at_once or max(1, len(gpus)),
    )  # fmt: skip


def _gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(one.strip() for one in named.split(",") if one.strip() not in ("", "-1"))
    return tuple(str(n) for n in range(len(list(Path("/dev").glob("nvidia[0-9]*")))))
