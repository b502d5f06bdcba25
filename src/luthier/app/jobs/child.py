"""The process that runs one attempt: `python -m luthier.app.jobs.child FOLDER NUMBER FENCE`.

    lock the job's folder ─▶ is it still my turn? ─▶ say who I am ─▶ run the kind ─▶ leave the last word ─▶ end

It outlives the server that launched it and knows nothing of it. It decides nothing about the job: its last word is a file, and the
reconciler turns that into the job's state, once. SIGTERM, and what is asked for in the records, set `stop`; where another attempt has
taken over, it ends at once, with all that it has started. Exit status: 0 for every last word that was left.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import Interrupted, LuthierError, SpecError, Stale
from luthier.core.event import Event
from luthier.core.testing import fault
from luthier.store.files import write_atomic
from luthier.store.jobs import FORMAT, Job, told

from . import logs
from .ends import failure
from .entitled import still_allowed
from .launchers import processes
from .launchers.local import LOST_THE_RACE, hold
from .watching import JobWatch

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.site import Site

TURN_S = 2.0
"""How long the lock is waited for: whoever looks whether it is free holds it for a moment."""
BEAT_S = 1.0
TAKEN_OVER = 76
logger = logging.getLogger("luthier.jobs")


@dataclass
class Here:
    """attempt.Attempt in this process."""

    site: Site
    job: Job
    number: int
    fence: int
    app: App
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.watch = JobWatch(self.job.id, self._write)
        self._done = self.site.store.attempts.steps(self.job.id)

    def tell(
        self, message: str, *, level: Literal["info", "warn", "error"] = "info", type: Literal["message", "metrics"] = "message",
        data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.watch.tell(told(self.job.id, message, level=level, type=type, data=data))

    def step(
        self, name: str, work: Callable[[], Mapping[str, Any]], *, message: str | None = None
    ) -> Mapping[str, Any]:
        if name in self._done:
            return self._done[name]
        if self.stop.is_set():
            raise Interrupted("stopped as asked; the steps that were finished are kept.")
        found = work()
        self.watch.flush()
        fault("child.step")
        lines = (
            []
            if message is None
            else [told(self.job.id, message, data={"step": name, "attempt": self.number})]
        )
        self.site.store.attempts.write(
            self.job.id, self.fence, told=lines, step=(name, found), now_s=time.time()
        )
        fault("child.stepped")
        self._done[name] = found
        return found

    def _write(self, events: list[Event], progress: Mapping[str, Any] | None) -> None:
        self.site.store.attempts.write(
            self.job.id, self.fence, told=events, progress=progress, now_s=time.time()
        )


def main(argv: list[str]) -> int:
    folder, number, fence = Path(argv[0]), int(argv[1]), int(argv[2])
    mine = folder / str(number)
    lock = _turn(folder)
    if lock is None:
        return LOST_THE_RACE
    fault("child.locked")
    if (mine / "end").exists():
        return LOST_THE_RACE
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle = {
        "pid": os.getpid(), "started": processes.started_at(os.getpid()), "boot": processes.boot(), "attempt": number, "fence": fence,
        "killed_for_memory": processes.killed_for_memory(),
    }  # fmt: skip
    write_atomic(mine / "handle", json.dumps(handle).encode())
    fault("child.handle")
    try:
        end = _run(folder, number, fence, handle, stop)
    except Stale:
        return TAKEN_OVER
    fault("child.end")
    write_atomic(mine / "end", json.dumps(end).encode())
    fault("child.ended")
    return 0


def _turn(folder: Path) -> int | None:
    until = time.monotonic() + TURN_S
    while (lock := hold(folder)) is None and time.monotonic() < until:
        time.sleep(0.05)
    return lock


def _run(
    folder: Path, number: int, fence: int, handle: Mapping[str, Any], stop: threading.Event
) -> dict[str, Any]:
    """The last word. Raises Stale."""
    from luthier.app.acting import Actor
    from luthier.app.site import Site
    from luthier.core import plugin

    try:
        site = Site.open()
        job, _ = site.store.attempts.began(folder.name, fence, handle, time.time())
        fault("child.began")
        if job.format > FORMAT:
            raise SpecError(
                f"this job was written by a newer Luthier (format {job.format}; this one knows {FORMAT}).",
                remedy="Upgrade this host: pip install -U luthier",
            )
        files = folder / "files"
        files.mkdir(exist_ok=True)
        actor = Actor(f"key:{job.key_id}" if job.key_id else job.by, {"user": job.by})
        at = Here(site, job, number, fence, site.app_of(job.project, actor), files, stop)
        with LookedAfter(at, folder):
            still_allowed(site, job)
            work = plugin.load("job", job.kind)
            result = work(at)
            at.watch.flush()
        return {"state": "succeeded", "result": dict(result), "time_s": time.time()}
    except Stale:
        raise
    except Interrupted as stopped:
        if stop.is_set():
            return {"state": "stopped", "time_s": time.time()}
        return {**failure(stopped), "time_s": time.time()}
    except BaseException as error:
        if not isinstance(error, LuthierError):
            logger.exception("the attempt failed")
        else:
            logger.error("%s", error)
        return {**failure(error), "time_s": time.time()}


class LookedAfter:
    """A thread that touches the handle, keeps the log bounded, and hears what is asked for in the records."""

    def __init__(self, at: Here, folder: Path) -> None:
        self._at, self._folder = at, folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="looked after", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        at, number = self._at, self._at.number
        while not self._over.wait(BEAT_S):
            try:
                os.utime(self._folder / str(number) / "handle")
                logs.turn(self._folder, number)
                asked = at.site.store.attempts.asked(at.job.id, at.fence)
            except (OSError, LuthierError) as error:  # the records may be away for a while; the work goes on
                logger.warning("could not look: %s", error)
                continue
            except Exception:  # who does not look any more never hears that the work is to stop
                logger.exception("could not look")
                continue
            if asked == "stop":
                at.stop.set()
            elif asked == "stale":
                logger.error("another attempt has taken over; this process ends")
                processes.kill(processes.marked(os.environ.get(processes.MARK, "")))
                os._exit(TAKEN_OVER)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(main(sys.argv[1:]))
