"""What a stage may use of the world: the run it works for, the ledger, the user's eyes, and the user's wish to stop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luthier.core.artifact import Artifact
from luthier.core.errors import Interrupted
from luthier.core.event import Event
from luthier.core.spec import resolve
from luthier.core.units import Money
from luthier.store import Store

from .acting import Actor, local

if TYPE_CHECKING:
    from .openlineage import Sender


class Watch(Protocol):
    """Whoever looks on: the command line's progress bars, or nobody."""

    def event(self, event: Event) -> None: ...

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None: ...


class Silent:
    """Nobody looks on."""

    def event(self, event: Event) -> None:
        pass

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None:
        pass


@dataclass
class RunContext:
    """core.stage.Context over a store. `stop` may be set by a signal handler or another thread at any time."""

    store: Store
    run: str
    root: Path
    environ: Mapping[str, str]
    watch: Watch = field(default_factory=Silent)
    stop: threading.Event = field(default_factory=threading.Event)
    hourly: Money | None = None
    name: str = ""  # what the recipe calls it
    about: Mapping[str, Any] = field(default_factory=dict)  # what the recipe says of its dataset
    lineage: Sender | None = None
    actor: Actor = field(default_factory=local)

    @property
    def home(self) -> Path:
        return self.store.home

    def emit(self, kind: str, **data: Any) -> Event:
        (event,) = self.store.ledger.append(Event(kind, self.run, data))
        self.watch.event(event)
        return event

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        self.watch.progress(what, done, total, facts)

    def check(self) -> None:
        if self.stop.is_set():
            raise Interrupted(
                "stopped; what was finished is kept.", remedy="Run the same command again to go on from here."
            )

    def folder(self, artifact: Artifact) -> Path:
        return self.store.folder(artifact)

    def secret(self, text: str) -> str:
        return resolve(text, self.environ)

    def close(self) -> None:
        """After the last step: what was to be told to others is on its way, or is known to be lost."""
        if self.lineage is not None and (lost := self.lineage.close()):
            self.emit("warning", about="openlineage", message=lost)
