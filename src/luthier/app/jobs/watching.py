"""What a running job lets others see: the line's events as lines of its story, figures of its steps, progress and the time left.

Messages are written at once, figures and progress once a second: each write is a transaction. What waited when a process was killed is
still in the project's own ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.artifact import canonical
from luthier.core.event import Event
from luthier.store.jobs import told

EVERY_S = 1.0
MOST_WAITING = 200
METRICS = ("step", "validation")
WARNINGS = ("warning", "fallback", "checkpoint.damaged", "tokens.damaged", "prepared.damaged")
MESSAGES: Mapping[str, str] = {
    "stage.started": "Began the step {step}",
    "stage.finished": "Finished the step {step}",
    "stage.known": "The step {step} was done before",
    "checkpoint": "Saved a checkpoint at step {step}",
    "resumed": "Goes on from the checkpoint of step {step} of {of}",
    "trial.started": "Began trial {number}",
    "trial.finished": "Finished trial {number}",
    "asked": "Asked another model {requests} times",
}
Write = Callable[[list[Event], Mapping[str, Any] | None], None]


class JobWatch:
    """app.context.Watch that writes with `write(events, progress)`."""

    def __init__(self, job: str, write: Write, clock: Callable[[], float] = time.time) -> None:
        self._job, self._write, self._clock = job, write, clock
        self._lock = threading.Lock()
        self._waiting: list[Event] = []
        self._progress: dict[str, Any] | None = None
        self._written_s = 0.0
        self._began: dict[str, tuple[float, float]] = {}
        self._forecast: tuple[float, float] | None = None

    def event(self, event: Event) -> None:
        with self._lock:
            if event.kind == "forecast" and event.data.get("seconds") is not None:
                self._forecast = (self._clock(), float(event.data["seconds"]))
            if (found := self._line(event)) is None:
                return
            self._waiting.append(found)
            figures = found.data["type"] == "metrics"
            if not figures or len(self._waiting) >= MOST_WAITING or self._late():
                self._flush()

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None:
        now = self._clock()
        with self._lock:
            since_s, first = self._began.setdefault(what, (now, done))
            if done < first:  # it began anew
                since_s, first = self._began[what] = (now, done)
            self._progress = {
                "what": what,
                "done": done,
                "total": total,
                **left(done - first, done, total, now - since_s),
            }
            if self._forecast is not None:
                at_s, seconds = self._forecast
                self._progress["left_in_all_s"] = round(max(0.0, seconds - (now - at_s)), 1)
            if self._late():
                self._flush()

    def tell(self, event: Event) -> None:
        """A line of the kind's own; what waited stands before it."""
        with self._lock:
            self._waiting.append(event)
            self._flush()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def _late(self) -> bool:
        return self._clock() - self._written_s >= EVERY_S

    def _flush(self) -> None:
        if self._waiting or self._progress is not None:
            self._write(self._waiting, self._progress)
            self._waiting, self._progress = [], None
        self._written_s = self._clock()

    def _line(self, event: Event) -> Event | None:
        data = _plain(event.data)
        if event.kind in METRICS:
            word = "Step" if event.kind == "step" else "Validation at step"
            step = data.get("step")
            return told(self._job, word if step is None else f"{word} {step}", type="metrics", data=data)
        if event.kind in WARNINGS:
            said = data.get("message") or data.get("reason") or event.kind
            return told(self._job, str(said), level="warn", data={"kind": event.kind})
        if (form := MESSAGES.get(event.kind)) is None:
            return None
        known = {name: data.get(name, "?") for name in ("step", "of", "number", "requests")}
        return told(self._job, form.format(**known), data={"kind": event.kind, **data})


def left(did: float, done: float, total: float | None, took_s: float) -> dict[str, Any]:
    """The share that is done and the seconds left, by what was done since this process began with it.

    >>> left(10, 40, 100, 5.0)
    {'share': 0.4, 'left_s': 30.0}
    >>> left(0, 0, None, 5.0)
    {}
    """
    if not total or total <= 0:
        return {}
    found: dict[str, Any] = {"share": round(min(1.0, done / total), 4)}
    if did > 0:
        found["left_s"] = round(max(0.0, total - done) * took_s / did, 1)
    return found


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Without what has no plain form; a figure that is no number is left out."""
    found = {}
    for name, value in data.items():
        try:
            canonical(value)
        except (TypeError, ValueError):
            continue
        found[name] = value
    return found
