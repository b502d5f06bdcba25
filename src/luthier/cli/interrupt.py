"""Ctrl-C and SIGTERM: the first asks the work to stop at its next safe point, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from luthier.core.errors import Interrupted


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """An Event that the signals set. What was there before is put back."""
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise Interrupted(
                "stopped at once; the last checkpoint is kept.",
                remedy="Run the same command again to go on from there.",
            )
        stop.set()
        say(
            f"{signal.Signals(number).name}: stopping at the next safe point and keeping what is done (again: stop at once)"
        )

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
