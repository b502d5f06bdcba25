"""Stand-ins for tests, public because plug-in authors need them too: a Context that only remembers, and fault points.

A fault point is a named place in code that writes. In production it costs one dictionary look-up; a test arms it
to raise or to kill the process at its k-th passing, so that "what if it dies exactly here" is a loop, not a wish.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .artifact import Artifact, canonical
from .event import Event
from .spec import resolve
from .units import Money

_armed: dict[str, Callable[[], None]] = {}


def fault(name: str) -> None:
    """Pass the fault point `name`: nothing happens unless a test armed it."""
    if _armed and (action := _armed.get(name)):
        action()


@contextmanager
def arm(name: str, error: BaseException | None = None, at_pass: int = 1) -> Iterator[None]:
    """Make the `at_pass`-th passing of `name` raise `error`, or kill the process with SIGKILL when it is None."""
    count = 0

    def action() -> None:
        nonlocal count
        count += 1
        if count == at_pass:
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise error

    _armed[name] = action
    try:
        yield
    finally:
        del _armed[name]


@dataclass
class FakeContext:
    """A core.stage.Context without a store: events are kept in a list, artifacts' folders in a dictionary."""

    home: Path
    run: str = "run-test"
    root: Path = Path()
    folders: dict[str, Path] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    stop_after_checks: int | None = None
    hourly: Money | None = None

    def emit(self, kind: str, **data: Any) -> Event:
        canonical(data)  # as the ledger does: refuses NaN and what has no plain form
        event = Event(kind, self.run, data)
        self.events.append(event)
        return event

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        pass

    def check(self) -> None:
        if self.stop_after_checks is not None:
            self.stop_after_checks -= 1
            if self.stop_after_checks < 0:
                from .errors import Interrupted

                raise Interrupted("stopped by the user.", remedy="Run the same command again to go on.")

    def folder(self, artifact: Artifact) -> Path:
        return self.folders[artifact.digest]

    def secret(self, text: str) -> str:
        return resolve(text, self.environ)
