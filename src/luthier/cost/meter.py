"""What a stage really took, what a run's events add up to, and how far the forecast was from it.

    with Meter() as meter: ...work...
    meter.figures()   {"seconds", "cpu_seconds", "peak_bytes"}

Memory is the resident memory of the whole process while the stage ran, not the stage's own share: the machine must
have that much. Memory of a GPU is not in it.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from luthier.core.event import Event
from luthier.core.units import Money

from .forecast import forecast
from .prices import Prices

SAMPLE_EVERY_S = 0.05
LATE_BYTES = 4 << 20
"""By less than this the kernel's figure may rise without anything new: it adds up what each processor counts, and late."""
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


class Meter:
    """Measures the block it surrounds. May be nested; not to be entered twice.

    The kernel keeps the process's highest resident memory: when the block raised it, the peak is exact. Otherwise
    the peak lies below an earlier one and is the highest of samples taken twenty times a second.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="luthier-meter", daemon=True)

    def __enter__(self) -> Meter:
        import psutil

        self._process = psutil.Process()
        self._began, self._cpu_before, self._highest_before = (
            time.monotonic(),
            _cpu_seconds(),
            _highest_bytes(),
        )
        self._look()
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = time.monotonic() - self._began
        self.cpu_seconds = _cpu_seconds() - self._cpu_before
        self._done.set()
        self._sampler.join()
        self._look()
        if (highest := _highest_bytes()) > self._highest_before + LATE_BYTES:
            self.peak_bytes = highest

    def figures(self) -> dict[str, float]:
        """Wall seconds, processor seconds of this process and its ended children, and peak resident bytes."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_bytes": self.peak_bytes}

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_EVERY_S):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _highest_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES


@dataclass(frozen=True)
class Actual:
    """What was taken, of the steps that were counted. None: no event says it.

    `by_step` are seconds; `lost_seconds`, contained in `seconds`, went into attempts that did not finish.
    """

    seconds: float | None
    cpu_seconds: float | None
    lost_seconds: float
    by_step: dict[str, float]
    peak_bytes: int | None
    steps: int | None
    tokens: int | None
    money: Money | None
    basis: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As the report wants it; `money` is [amount, currency]."""
        return {
            "seconds": self.seconds,
            "training_seconds": self.by_step.get("model"),
            "peak_bytes": self.peak_bytes,
            "steps": self.steps,
            "tokens": self.tokens,
            "money": list(self.money) if self.money else None,
            "basis": list(self.basis),
        }


def actual(
    events: Iterable[Event], machine: str, count: int, prices: Prices, steps: Collection[str] | None = None
) -> Actual:
    """What the events of one or more runs add up to. `steps` keeps it to some steps of the line (None: all).

    An attempt that was cut off took at least the time from its start to its run's last event: it was paid for too.
    """
    runs: dict[str, list[Event]] = {}
    for event in events:
        runs.setdefault(event.subject, []).append(event)
    spent = [one for run in runs.values() for one in _attempts(run) if steps is None or one.step in steps]
    finished = [one for one in spent if one.figures]
    by_step: dict[str, float] = {}
    for one in spent:
        by_step[one.step] = by_step.get(one.step, 0.0) + one.seconds
    learned = {e.data["step"]: e.data["tokens"] for run in runs.values() for e in run if e.kind == "step"}
    seconds = sum(by_step.values()) if spent else None
    cost = forecast(seconds, machine, count, prices)
    return Actual(
        seconds=seconds,
        cpu_seconds=sum(one.figures["cpu_seconds"] for one in finished) if finished else None,
        lost_seconds=sum(one.seconds for one in spent if not one.figures),
        by_step=by_step,
        peak_bytes=max((one.figures["peak_bytes"] for one in finished), default=None),
        steps=len(learned) or None,
        tokens=sum(learned.values()) or None,
        money=cost.money,
        basis=cost.basis,
    )


@dataclass(frozen=True)
class _Attempt:
    """`figures` are empty where the attempt did not finish."""

    step: str
    seconds: float
    figures: Mapping[str, Any]


def _attempts(run: Sequence[Event]) -> Iterator[_Attempt]:
    began: dict[str, float] = {}
    for event in run:
        if event.kind == "stage.started":
            began[str(event.data["step"])] = event.time_s
        elif event.kind == "stage.finished":
            step = str(event.data["step"])
            began.pop(step, None)
            yield _Attempt(step, event.data["seconds"], event.data)
    end = max(event.time_s for event in run)
    yield from (_Attempt(step, end - since, {}) for step, since in began.items())


def error(forecast: float | None, actual: float | None) -> float | None:
    """The forecast's relative error, (forecast − actual) / actual: above zero when the forecast was too high.

    None when one of them is not known, or when a share of nothing would be asked for.

    >>> error(90, 100), error(110, 100)
    (-0.1, 0.1)
    >>> error(0, 0), error(1, 0), error(None, 100)
    (0.0, None, None)
    """
    if forecast is None or actual is None:
        return None
    if actual == 0:
        return 0.0 if forecast == 0 else None
    return (forecast - actual) / actual
