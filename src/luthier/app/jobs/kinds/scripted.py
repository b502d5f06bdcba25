"""A job that does what its wish says: sleeps, finishes steps, fails, dies. Public, as every stand-in: whoever writes a launcher, a budget
or a page for jobs needs one that is quick and does not need a model.

{"steps": 5, "step_s": 0.1, "deaf": false, "result": {...},
 "fails": [{"attempt": 1, "step": 3, "how": "kill" | "defect" | "data" | "memory"}]}

Every step is entered into the journal with a line of the story, so an attempt goes on where the last one was stopped or killed. A second
process at the same job is noticed: `files/held` is locked from beginning to end, and who finds it locked leaves `files/doubled`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from luthier.app.jobs.attempt import Attempt
from luthier.core.errors import DataError, Interrupted

STEPS = 3
STEP_S = 0.05


def run(at: Attempt) -> Mapping[str, Any]:
    wish = at.job.wish
    steps, step_s = int(wish.get("steps", STEPS)), float(wish.get("step_s", STEP_S))
    with open(at.folder / "held", "a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (at.folder / "doubled").touch()
        for number in range(1, steps + 1):
            at.step(f"step-{number}", partial(_work, at, number, step_s), message=f"Finished step {number}")
            at.watch.progress("steps", number, steps, {})
    return {"steps": steps, "attempt": at.job.attempts, **wish.get("result", {})}


def _work(at: Attempt, number: int, step_s: float) -> Mapping[str, Any]:
    for one in at.job.wish.get("fails", ()):
        if one["step"] == number and one.get("attempt", 1) == at.job.attempts:
            _fail(one["how"])
    until = time.monotonic() + step_s
    while (left_s := until - time.monotonic()) > 0:
        if at.stop.wait(min(left_s, 0.05)) and not at.job.wish.get("deaf"):
            raise Interrupted("stopped as asked.")
        time.sleep(0.01 if at.stop.is_set() else 0)
    return {"number": number, "pid": os.getpid()}


def _fail(how: str) -> None:
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "data":
            raise DataError("the rows are not what they should be.", remedy="Look at them.")
        case "memory":
            raise MemoryError
        case _:
            raise RuntimeError("a defect")
