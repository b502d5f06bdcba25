"""What an engine is: it carries out a plan over rows that it may keep where it likes, in any order and any batches.

    read ─▶ frame ─▶ run(group) ─▶ frame ─▶ ... ─▶ rows

What is the same for every engine is no engine's business: `reading.read_part` makes records of a part, `group.run_group`
runs row rules, `decide.decide` asks the questions over keys, `group.carry_out` applies the answers. So every engine leaves
the same rows, the same accounts and the same reasons. Files are written by who calls (preparation).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from luthier.core.errors import SpecError
from luthier.core.spec import Spec, references
from luthier.core.units import Bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.connectors.protocol import Part, Secret
    from luthier.data.plan import Group
    from luthier.data.reading import Job
    from luthier.data.report import Account
    from luthier.data.rules.primitives import Ask

MASTER = re.compile(r"local(\[[^\]]+\])?|local-cluster\[\d+,\d+,\d+\]|(spark|k8s)://.+|yarn")
Frame = Any
"""Rows somewhere: opaque, and to be used once."""


class Look(Protocol):
    """What the caller wants to see on the way, and may refuse."""

    def seen(self, done_bytes: int, rows: int | None) -> None:
        """How far the reading is; None: how many rows that were is not known yet."""

    def settle(self, ask: Ask, rows: str) -> None:
        """The table of rows that are about to be divided; it has a column `label`."""

    def held(self, batch: pa.RecordBatch, side: str) -> None:
        """Rows of a side that is held out: they go no further."""

    def held_rows(self) -> Iterator[pa.RecordBatch]:
        """All that have been held out so far, for a rule that learns from them."""


class Engine(Protocol):
    """Made for one preparation. Raises DataError for what a row is not supposed to be; `write_errors` are what a full disk
    raises."""

    write_errors: ClassVar[tuple[type[Exception], ...]]

    def read(self, work: Sequence[tuple[Job, Part]], account: Account, look: Look) -> Frame:
        """The records of all parts."""

    def run(self, group: Group, frame: Frame, accounts: Sequence[Account], look: Look) -> Frame:
        """The rows after a group, where it divides them those of train. `accounts` are of the group's steps, and of the
        sides if it has any, and are added to at the latest when the rows are drawn."""

    def rows(self, frame: Frame) -> Iterator[pa.RecordBatch]:
        """The rows, in bounded memory."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(frozen=True)
class At:
    """Where an engine works: `work` is a folder of its own, `discard` keeps the lines (reading.LINES) of what is removed or changed, `check` looks
    whether to stop, `secret` puts values in the place of ${VAR}."""

    work: Path
    discard: Callable[[pa.RecordBatch], None]
    check: Callable[[], None]
    secret: Secret

    def values(self, groups: Iterable[Group]) -> dict[str, str]:
        """What rules' settings refer to by ${VAR}, for processes that have another environment."""
        written = json.dumps([step.settings.plain() for group in groups for step in group.steps])
        found = {}
        for name in references(written):
            try:
                found[name] = self.secret(f"${{{name}}}")
            except SpecError:  # the rule that needs it will say so
                continue
        return found


@dataclass(frozen=True)
class EngineKind:
    """A line of the plugin table: `spec` is what a recipe may say of it, `make` loads it."""

    name: str
    about: str
    spec: type[Spec]
    make: Callable[[Any, At], Engine]


class LocalEngineSpec(Spec):
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """How many processes read and run the rules. `auto`: for large sources one for each core, at most 8; for small ones none beside this one."""
    memory: Bytes = 1_000_000_000
    """How much memory the keys of all rows may take before they go to disk, with what other processes hold; this process needs some 400 MB beside it."""


class SparkEngineSpec(Spec):
    master: str | None = None
    """Where Spark runs: `local[4]` for this machine, or the URL of a cluster such as `spark://host:7077`."""
    connect: str | None = None
    """The URL of a Spark Connect server, `sc://host:15002`, in place of `master`. ${VAR} is filled in when it is used."""
    storage: str | None = None
    """A folder or URL that this machine and every worker can read and write: what is worked out between two steps stands
    there, and is removed in the end. Not needed for `local` masters."""
    options: dict[str, str] = Field(default_factory=dict)
    """Settings of the session as Spark names them, such as `spark.executor.memory`. ${VAR} is filled in when it is used."""

    @property
    def here(self) -> bool:
        """Whether everything runs on this machine."""
        return (self.master or "").startswith("local")

    @model_validator(mode="after")
    def _one_place(self) -> SparkEngineSpec:
        if (self.master is None) == (self.connect is None):
            given = "both are given" if self.master else "neither is given"
            raise ValueError(f"Spark is reached by `master` or by `connect`, and {given}; write one of them")
        if self.master is not None and not MASTER.fullmatch(self.master):
            raise ValueError(
                f"{self.master!r} is no master that Spark knows; write local[4], spark://host:7077, yarn or k8s://https://host:443"
            )
        if odd := [name for name in self.options if not name.startswith("spark.")]:
            raise ValueError(f"{odd[0]!r} is no setting of Spark, whose names all begin with `spark.`")
        if self.connect is not None and not self.connect.startswith("sc://"):
            raise ValueError(f"{self.connect!r} is no URL of a Spark Connect server; it begins with sc://")
        if self.storage is None and not (self.master or "").startswith("local"):
            raise ValueError(
                f"{self.master or self.connect} needs `storage`: a folder or URL that every worker can read and write"
            )
        return self


def _local(settings: Any, at: At) -> Engine:
    from .local import LocalEngine

    return LocalEngine(settings, at)


local = EngineKind("local", "This machine, in bounded memory.", LocalEngineSpec, _local)


def _spark(settings: Any, at: At) -> Engine:
    from .spark import SparkEngine

    return SparkEngine(settings, at)


spark = EngineKind("spark", "Apache Spark 4, on this machine or a cluster.", SparkEngineSpec, _spark)
