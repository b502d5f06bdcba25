"""The rows of the next step, read while this one is computed: a memory-mapped file on a slow or distant disk then costs no
time, nor does the order of a new epoch. One thread, one step ahead; the rows are those that the step would have read itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from .rows import Row, Rows


class Order(Protocol):
    def step(self, step: int) -> Sequence[int]:
        """Indices of the rows of a step."""


class Ahead:
    """`take` gives the rows of a step and begins with those of the next, up to the last. Raises what reading raises, when the
    rows are taken. `close` waits for what has begun."""

    def __init__(self, rows: Rows, order: Order, last: int) -> None:
        self._rows, self._order, self._last = rows, order, last
        self._thread: ThreadPoolExecutor | None = None
        self._begun: tuple[int, Future[list[Row]]] | None = None

    def take(self, step: int) -> list[Row]:
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="rows")
        if self._begun is None or self._begun[0] != step:
            self._begin(self._thread, step)
        assert self._begun is not None
        rows = self._begun[1].result()
        self._begun = None
        if step < self._last:
            self._begin(self._thread, step + 1)
        return rows

    def close(self) -> None:
        """Safe to repeat."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = self._begun = None

    def _begin(self, thread: ThreadPoolExecutor, step: int) -> None:
        self._begun = step, thread.submit(self._read, step)

    def _read(self, step: int) -> list[Row]:
        return [self._rows[i] for i in self._order.step(step)]
