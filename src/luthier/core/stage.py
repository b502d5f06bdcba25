"""A Stage is a function (spec, inputs, context) -> Artifact, with a name and a version.

Caching, resume and lineage are this one mechanism: the key follows from kind, spec, version and parents; if the
catalog holds the key, the artifact is returned and nothing runs. Otherwise the stage works in a private folder
that survives a crash (so that it can go on from its own checkpoints), and the folder is committed as a whole.

Raise `version` whenever the same spec and parents would give other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .artifact import Artifact
from .event import Event
from .units import Money


class Context(Protocol):
    """What a stage may use of the world; `luthier.app` provides it."""

    @property
    def home(self) -> Path:
        """LUTHIER_HOME."""

    @property
    def root(self) -> Path:
        """Where relative paths in a spec start: the recipe's folder. Never part of an identity."""

    @property
    def run(self) -> str:
        """The run this work belongs to."""

    @property
    def hourly(self) -> Money | None:
        """What an hour of the machines costs that this run pays for; None: nobody needs it, or it is not known."""

    def emit(self, kind: str, **data: Any) -> Event:
        """Append a fact about this run to the ledger and show it."""

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        """Say how far a piece of work is; shown, not recorded. `total` None: not known."""

    def check(self) -> None:
        """Raise Interrupted if the user asked to stop. Called at safe points."""

    def folder(self, artifact: Artifact) -> Path:
        """A read-only folder with the artifact's files, verified."""

    def secret(self, text: str) -> str:
        """Put the environment's values in place of ${VAR}. The result must never be recorded."""


@dataclass(frozen=True)
class Output:
    """What a stage's function returns: figures for lists. The files are what it left in its `out` folder."""

    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """`function(spec, inputs, out, scratch, at) -> Output`.

    spec     a Spec of the stage's own folder
    inputs   role -> Artifact
    out      an empty folder; what is in it at the end is the artifact
    scratch  a folder that outlives a crash and is removed after the commit; checkpoints live here
    at       the Context
    """

    kind: str
    version: int
    function: Callable[..., Output]
