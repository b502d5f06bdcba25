"""Requests that were refused for want of a right, summed up for the audit trail: a stranger who tries a million keys makes one entry a
minute and not a million.

An observer (`watch`). Not here: what an entry looks like and where it is kept (the app).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from luthier.server.watch import Seen

logger = logging.getLogger("luthier.server")

EVERY_S = 60.0
MOST = 500
"""Different ones between two entries; what is more counts as `OTHERS`."""
STATUSES = (401, 403)


class Denied(NamedTuple):
    """`route` as the table has it; `key_id` None: no valid key was sent. `project`: in which the key asked, where there are projects."""

    code: str
    method: str
    route: str
    key_id: str | None
    project: str | None = None


OTHERS = Denied("others", "-", "-", None)


class Denials:
    """As a context manager: sums are told every `every_s` seconds, and what is left at the end. `tell` is called in a thread of its own
    and may take its time; where it fails, the sums are kept for the next time."""

    def __init__(self, tell: Callable[[Mapping[Denied, int]], object], every_s: float = EVERY_S) -> None:
        self._tell = tell
        self._every_s = every_s
        self._counts: Counter[Denied] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="denials", daemon=True)

    def __call__(self, seen: Seen) -> None:
        if seen.status not in STATUSES:
            return
        one = Denied(seen.code or "", seen.method, seen.route, seen.key_id, seen.project)
        with self._lock:
            self._counts[one if one in self._counts or len(self._counts) < MOST else OTHERS] += 1

    def __enter__(self) -> Denials:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.flush()

    def flush(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            self._tell(counts)
        except Exception:
            logger.exception("what was denied could not be entered into the audit trail")
            with self._lock:
                self._counts.update(counts)
