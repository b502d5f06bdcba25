"""Threads in which the platform works, divided by what may be slow, so that none of it takes the threads in which models are asked.

    COMMON     records: short, and what everything else here uses
    VERBS      App's verbs that are answered at once
    RECIPES    what people wrote as YAML, a megabyte of which takes seconds to read
    GRADING, HOOKS, LOGINS      what another machine or a model may draw out: where the lane is full, the answer is 429 at once

Of one process, as its threads are. Not here: who may ask how often (rates).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from luthier.server.errors import ApiError

AGAIN_S = 2


class Lane:
    """`waiting`: how many may stand behind those that are being done."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._name, self._most = name, threads + waiting
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"platform-{name}")
        self._lock = threading.Lock()
        self._count = 0

    async def run(self, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Raises ApiError 429, and what `work` raises."""
        with self._lock:
            if self._count >= self._most:
                message = f"As much of this ({self._name}) is being done as is done at once. Try again soon."
                raise ApiError(429, "too_busy", message, headers={"retry-after": str(AGAIN_S)})
            self._count += 1
        context = contextvars.copy_context()
        try:
            future = self._threads.submit(context.run, partial(work, *given, **named))
        except BaseException:
            self._gone()
            raise
        future.add_done_callback(self._gone)  # also of what nobody waits for any more
        return await asyncio.wrap_future(future)

    def _gone(self, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._count -= 1


class Slots:
    """How many of something each project may have at once. `what`: for the answer to one more."""

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most = what, most
        self._lock = threading.Lock()
        self._taken: Counter[str | None] = Counter()

    @contextmanager
    def of(self, project: str | None) -> Iterator[None]:
        """Raises ApiError 429."""
        with self._lock:
            if self._taken[project] >= self._most:
                message = f"This project has {self._most} {self._what} under way already. Try again soon."
                raise ApiError(429, "too_busy", message, headers={"retry-after": str(AGAIN_S)})
            self._taken[project] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[project] -= 1
                self._taken += Counter()  # forgets those at nought


COMMON = Lane("records", 32, 1_000)
VERBS = Lane("verbs", 16, 64)
RECIPES = Lane("recipes", 4, 64)
GRADING = Lane("graders", 4, 0)
HOOKS = Lane("webhook tests", 4, 0)
LOGINS = Lane("logins", 16, 64)
UPLOADS, DOWNLOADS = Slots("uploads", 8), Slots("downloads", 8)
"""Of files; of those on their way with a verb too."""
