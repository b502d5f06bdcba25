"""Processes of this machine that work on tasks side by side. A task is plain data and a function of files, so it may be done
again, by another process; what it makes stands in files, so little goes through the pipes.

    parent                                child: python -m luthier.data.engines.pool
      {"program": "..."}              ─▶    kept for the tasks that follow
      {"do": "work", "into": ..., ..} ─▶    chores.CHORES[do](program, task)
      ◀─ {"done": ..} or {"fault": ..} or {"bug": "..."}

Answers come in the order of the tasks, whoever was quicker. A process that dies, as when the system takes its memory back, has
its task done once more by a new one; a second death is an error. They end with their parent: nobody writes to them any more.

Not here: what a task does (chores), and which there are (parallel).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

from luthier.core.errors import StoreError

POLL_S = 0.2
AHEAD = 2  # tasks that a process has: one at hand, and one so that it need not wait for us
TRIES = 2


class Pool:
    """`check` looks whether to stop; it raises, and the processes are then ended by `close`."""

    def __init__(self, size: int, check: Callable[[], None]) -> None:
        self._size, self._check = size, check
        self._children: list[_Child] = []

    def run(self, program: str, tasks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The answers, in order. Raises StoreError where a process died twice over one task."""
        left = deque((n, 1, task) for n, task in enumerate(tasks))
        answers: dict[int, dict[str, Any]] = {}
        turn, total = 0, len(left)
        while len(self._children) < min(self._size, total):
            self._children.append(_Child())
        for child in self._children:
            child.say({"program": program})
        while turn < total:
            for ahead in range(1, AHEAD + 1):  # first each has one, then each has another
                for child in self._children:
                    if left and len(child.tasks) < ahead:
                        child.give(left.popleft())
            while turn not in answers:
                self._check()
                self._listen(answers, left, program)
                if left and turn not in answers:
                    break
            else:
                yield answers.pop(turn)
                turn += 1

    def _listen(self, answers: dict[int, Any], left: deque[_Given], program: str) -> None:
        """Whatever is said within a moment."""
        heard, _, _ = select.select([child.ear for child in self._children], [], [], POLL_S)
        for place, child in enumerate(self._children):
            if child.ear in heard:
                try:
                    answers.update(child.hear())
                except EOFError:
                    told = child.stop()
                    _refuse_again(child, told)
                    again = [(n, tries + (k == 0), task) for k, (n, tries, task) in enumerate(child.tasks)]
                    left.extendleft(reversed(again))
                    self._children[place] = _Child()
                    self._children[place].say({"program": program})

    def close(self) -> None:
        for child in self._children:
            child.stop()
        self._children = []


_Given = tuple[int, int, dict[str, Any]]
"""A task's number, which try it is, and the task."""


class _Child:
    """The parent's side of one process."""

    def __init__(self) -> None:
        path = os.pathsep.join(place for place in sys.path if place)
        alone = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "LUTHIER_POOL": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "luthier.data.engines.pool"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **alone},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._into, self.ear = self._process.stdin, self._process.stdout.fileno()
        self._held = bytearray()
        self.tasks: deque[_Given] = deque()

    def say(self, told: dict[str, Any]) -> None:
        try:
            self._into.write(json.dumps(told).encode() + b"\n")
            self._into.flush()
        except OSError:  # it has died, and who listens will hear so
            pass

    def give(self, task: _Given) -> None:
        self.tasks.append(task)
        self.say(task[2])

    def hear(self) -> dict[int, dict[str, Any]]:
        """Answers by the numbers of their tasks. Raises EOFError where it has died."""
        found = os.read(self.ear, 1 << 20)
        if not found:
            raise EOFError
        *lines, rest = (self._held + found).split(b"\n")
        self._held = bytearray(rest)
        told = {self.tasks.popleft()[0]: json.loads(line) for line in lines}
        for one in told.values():
            if "bug" in one:
                raise RuntimeError(f"in a process of the local engine:\n{one['bug']}")
        return told

    def stop(self) -> int:
        """Its exit code."""
        self._process.kill()
        code = self._process.wait()
        with contextlib.suppress(OSError):
            self._into.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


def _refuse_again(child: _Child, code: int) -> None:
    if child.tasks and child.tasks[0][1] >= TRIES:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"gave up (exit {code})"
        raise StoreError(
            f"a process of the local engine {how} twice over the same rows.",
            remedy="That is how a system ends processes when memory is short: set fewer workers, as in "
            "data.engine: {local: {workers: 1}}, or give it more memory.",
        )


def _serve() -> None:
    """The child: one task after another until nobody writes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is none of the protocol
    lines: SimpleQueue[bytes | None] = SimpleQueue()
    Thread(target=_hear, args=[lines], daemon=True).start()
    from .chores import CHORES

    program = ""
    for line in iter(lines.get, None):
        told = json.loads(line)
        if "program" in told:
            program = told["program"]
            continue
        try:
            answer = CHORES[told.pop("do")](program, **told)
        except Exception:
            answer = {"bug": traceback.format_exc()}
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()


def _hear(lines: SimpleQueue[bytes | None]) -> None:
    """At once, so that the parent never waits for us with a task while we wait for it with an answer."""
    for line in sys.stdin.buffer:
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    _serve()
