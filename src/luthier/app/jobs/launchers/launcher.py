"""The port to machines: six verbs, each safe to repeat, because whoever called them last may have died in the middle.

A launcher knows attempts by (job, number) alone, so it finds what an earlier process launched. It decides nothing: what becomes of a job
is the reconciler's. It is made by `make(site)`, which its line in the plugin table names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from luthier.core.units import Money
from luthier.store.jobs import Job


@dataclass(frozen=True)
class Launch:
    """One attempt to be run. `folder` is the job's and outlives attempts; `gpus` are the names of those that it may use, and no others; `cores`
    what its threads should keep to."""

    job: str
    number: int
    fence: int
    folder: Path
    cores: int = 1
    gpus: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """What every process of it can be told by."""
        return f"{self.job}/{self.number}"


@dataclass(frozen=True)
class Status:
    """absent: nothing was launched, or nobody knows of it any more. `end`: what the attempt itself left as its last word, once that is
    there; `why`: what the system says of one that left none. `seen_s`: when it was last known to live."""

    state: Literal["absent", "alive", "dead"]
    end: Mapping[str, Any] | None = None
    why: str | None = None
    seen_s: float | None = None
    handle: Mapping[str, Any] = field(default_factory=dict)


class Launcher(Protocol):
    """Thread-safe."""

    @property
    def name(self) -> str: ...

    @property
    def host(self) -> str:
        """Where it launches. Attempts are driven by reconcilers with a launcher of the same host alone."""
        ...

    def price(self, job: Job) -> Money | None:
        """What an hour of such a job costs there; None where nobody has said."""
        ...

    def submit(self, launch: Launch) -> None:
        """See to it that this attempt runs, or has run. Two calls, by two processes, make one."""
        ...

    def reattach(self, launch: Launch) -> bool:
        """Whether it runs there, whoever launched it."""
        ...

    def status(self, launch: Launch) -> Status: ...

    def stop(self, launch: Launch, *, now: bool = False) -> None:
        """Ask it to save and end; `now`: end it with all that it has started. Nothing where it is gone."""
        ...

    def logs(self, launch: Launch, *, lines: int, containing: str | None = None) -> list[str]:
        """The last lines that it wrote, or the last that contain a word, oldest first."""
        ...
