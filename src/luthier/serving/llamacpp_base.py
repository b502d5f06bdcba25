"""One base in one llama.cpp process, and all adapters that are served over it.

    Base.join(adapter)  ─▶ a process that knows it too is started beside the old one, which ends after its last answer
    Base.seat(...)      ─▶ a stream of the process: which one, and room for its tokens
    killed              ─▶ answers under way are lost, a new process is started by itself, health says so

llama.cpp knows adapters from its start on, each by its place in a list. Every request says the scale of every adapter: what is left
out would keep what an earlier request set, and read a cache that another adapter made (ggml-org/llama.cpp#26207).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.models.llamacpp import Answered, Gone, Launch, Process, watch
from luthier.serving.backend import Unwanted
from luthier.serving.engine import Cancelled, Health, Unavailable

logger = logging.getLogger("luthier.serving")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
_POLL_S = 0.2


@dataclass
class _Running:
    """One process, the answers under way in it, and what each stream read last: who reads the same again finds it there."""

    process: Process
    under_way: int = 0
    left: int = 0  # tokens of keys and values that nobody has asked for
    free: list[int] = field(default_factory=list)
    read: dict[int, tuple[_Whose, Sequence[int]]] = field(default_factory=dict)
    retired: bool = False


_Whose = tuple[Path | None, str]
"""Adapter and salt: what another has read there is not used again."""


@dataclass
class Seat:
    """A stream of a process, held by one answer. `again`: what lies in it may be used; `read`: what lies in it is this answer's own."""

    process: Process
    stream: int
    lora: list[dict[str, float]]
    again: bool
    read: bool = False

    def ask(self, body: Mapping[str, Any]) -> Any:
        with _told():
            told = self.process.post("/completion", self._mine(body))
        self.again = self.read = True
        return told

    def stream_of(self, body: Mapping[str, Any], unwanted: Unwanted) -> Generator[Any, None, None]:
        """Raises Cancelled once nobody wants it, Unavailable where the process went away."""
        with _told(), closing(self.process.stream("/completion", self._mine(body), unwanted)) as told:
            for chunk in told:
                self.again = self.read = True
                yield chunk
        if unwanted():
            raise Cancelled

    def _mine(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {**body, "id_slot": self.stream, "lora": self.lora, "cache_prompt": self.again}


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Gone:
        raise Unavailable(
            "The engine's process ended in the middle of this answer.",
            remedy="Ask again: it is being started anew.",
        ) from None
    except Answered as error:
        raise ModelError(f"llama.cpp does not answer: {error}.", remedy="Report this.") from None


class Base:
    """`context`: the longest conversation. Each method may be called from any thread."""

    def __init__(
        self, model: Path, *, context: int, streams: int, tokens: int, threads: int | None = None
    ) -> None:
        self.model, self.context, self.streams = model, context, streams
        self.tokens = max(tokens, context)
        self._threads = threads
        self._adapters: list[Path] = []  # in the order in which they joined, so that places stay
        self._users: dict[Path | None, int] = {}
        self._running: _Running | None = None
        self._fault = "not loaded"
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # who waits for a stream
        self._counting = threading.Lock()  # never held for long, so that nobody who leaves waits for a start
        self._starting = threading.Lock()

    def join(self, adapter: Path | None) -> None:
        """Raises ModelError where the process does not start; who joined before is answered as before."""
        with self._counting:
            self._users[adapter] = self._users.get(adapter, 0) + 1
        try:
            with self._starting:
                if self._running is not None and (adapter is None or adapter in self._adapters):
                    return
                more = [] if adapter is None or adapter in self._adapters else [adapter]
                adapters = [*self._adapters, *more]
                fresh = self._started(adapters)
                self._adapters = adapters
                self._swap(fresh)
        except BaseException:
            self.leave(adapter)
            raise

    def leave(self, adapter: Path | None) -> None:
        """The process ends with the last one, even while it is still being started; an adapter that nobody uses stays until then."""
        with self._counting:
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter]
            if self._users:
                return
        with self._starting:
            if not self._users:
                self._adapters, self._fault = [], "not loaded"
                self._swap(None)

    @property
    def pid(self) -> int | None:
        running = self._running
        return None if running is None else running.process.pid

    def health(self) -> Health:
        running = self._running
        ready = running is not None and running.process.alive
        return Health(ready, "ready" if ready else self._fault)

    @contextmanager
    def seat(
        self,
        adapter: Path | None,
        prompt_ids: Sequence[int],
        tokens: int,
        unwanted: Unwanted,
        cache_salt: str = "",
    ) -> Iterator[Seat]:
        """A stream with room for `tokens`, prompt and answer. Waits for it, behind whoever came before, so that short answers never
        keep a long one out; raises Cancelled, Unavailable."""
        whose = (adapter, cache_salt)
        running, stream, again = self._taken(whose, prompt_ids, tokens, unwanted)
        places = running.process.launch.adapters
        lora = [{"id": n, "scale": float(one == adapter)} for n, one in enumerate(places)]
        seat = Seat(running.process, stream, lora, again)
        try:
            yield seat
        finally:
            with self._changed:
                running.under_way -= 1
                running.left += tokens
                running.free.append(stream)
                if seat.read:  # else what lies there may be another's, or half of each
                    running.read[stream] = (whose, prompt_ids)
                done = running.retired and not running.under_way
                self._changed.notify_all()
            if done:
                running.process.stop()

    def _taken(
        self, whose: _Whose, prompt_ids: Sequence[int], tokens: int, unwanted: Unwanted
    ) -> tuple[_Running, int, bool]:
        """The last: whether what lies in the stream is this one's to use."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                running = self._fitting(ticket, tokens, unwanted)
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
            stream = max(running.free, key=lambda one: _alike(running.read.get(one), whose, prompt_ids))
            running.free.remove(stream)
            running.left -= tokens
            running.under_way += 1
            read = running.read.pop(stream, None)
            return running, stream, read is not None and read[0] == whose

    def _fitting(self, ticket: object, tokens: int, unwanted: Unwanted) -> _Running:
        """Once it is the ticket's turn and there is room."""
        while True:
            running = self._running
            if running is None:
                raise Unavailable(
                    f"The engine does not answer: {self._fault}.", remedy="Ask again in a moment."
                )
            if self._line[0] is ticket and running.free and running.left >= tokens:
                return running
            if unwanted():
                raise Cancelled
            self._changed.wait(_POLL_S)

    # -- processes ------------------------------------------------------------------------------------------------------

    def _started(self, adapters: Sequence[Path]) -> _Running:
        launch = Launch(self.model, self.tokens, self.streams, tuple(adapters), self._threads)
        process = Process(launch)
        process.start(unwanted=lambda: not self._users)
        return _Running(process, left=self.tokens, free=list(range(self.streams)))

    def _swap(self, fresh: _Running | None) -> None:
        with self._changed:
            old, self._running = self._running, fresh
            idle = old is not None and not old.under_way
            if old is not None:
                old.retired = True
            self._changed.notify_all()
        if fresh is not None:
            watch(fresh.process, lambda status: self._ended(fresh, status))
        if idle and old is not None:
            old.process.stop()

    def _ended(self, running: _Running, status: int) -> None:
        """In the watching thread: bring it back, unless somebody wished it gone."""
        with self._changed:
            if running.retired or self._running is not running:
                return
            self._running = None
            self._fault = f"its process ended ({_plain(status)}) and is started anew"
            self._changed.notify_all()
        logger.warning("llama.cpp: %s", self._fault)
        running.process.stop()
        pause = FIRST_PAUSE_S
        while True:
            with self._starting:
                if not self._users or self._running is not None:
                    return
                try:
                    self._swap(self._started(self._adapters))
                    logger.warning("llama.cpp: it answers again")
                    return
                except Gone:  # with its last user; who has joined meanwhile starts it
                    return
                except ModelError as error:
                    self._fault = f"its process does not start: {error.message}"
                    logger.error("llama.cpp: %s", error.message)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _alike(read: tuple[_Whose, Sequence[int]] | None, whose: _Whose, ids: Sequence[int]) -> int:
    """How many first tokens a stream has read already; -1: it has read others, whose work would be lost."""
    if read is None:
        return 0
    if read[0] != whose:
        return -1
    same = next(
        (n for n, (a, b) in enumerate(zip(read[1], ids, strict=False)) if a != b), min(len(read[1]), len(ids))
    )
    return same or -1


def _plain(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
