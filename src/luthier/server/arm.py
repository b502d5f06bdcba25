"""One loaded version of a name: who is still being answered by it, whether it answers at all, and its end."""

from __future__ import annotations

import logging
import threading
import time

from luthier.core.errors import LuthierError
from luthier.server.served import ServedModel
from luthier.serving.engine import Cancelled, Message, Request

logger = logging.getLogger("luthier.server")

PROMPT = "Hello. Is anybody there?"
SMOKE_S = 120.0
SMOKE_CHUNKS = 16
"""So many pieces of an answer are enough to know that it can."""


class Arm:
    """`ref` is a version (name@3). `begin` and `end` enclose each request; `retire` closes the engine after the last of them."""

    def __init__(self, ref: str, model: ServedModel) -> None:
        self.ref = ref
        self.model = model
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._leases = 0
        self._retired = False

    @property
    def leases(self) -> int:
        return self._leases

    def begin(self) -> bool:
        """Whether it may still be asked."""
        with self._lock:
            if self._retired:
                return False
            self._leases += 1
            return True

    def end(self) -> None:
        with self._lock:
            self._leases -= 1
            last = self._retired and self._leases == 0
        if last:
            self._close_soon()

    def retire(self) -> None:
        """Nothing more is asked of it. Returns at once; `closed` tells when its memory is free."""
        with self._lock:
            if self._retired:
                return
            self._retired = True
            idle = self._leases == 0
        if idle:
            self._close_soon()

    def _close_soon(self) -> None:
        # the last answer ends on the event loop, where nothing may take long
        threading.Thread(target=self._close, name=f"close-{self.ref}", daemon=True).start()

    def _close(self) -> None:
        try:
            self.model.threads.shutdown(wait=True)
            self.model.engine.close()
        except Exception:
            logger.exception("%s could not be closed", self.ref)
        finally:
            self.closed.set()


def smoke(model: ServedModel, limit_s: float = SMOKE_S) -> None:
    """Ask it one thing, which also warms it up: a model that cannot answer this is not let near anybody. Raises whatever it raises,
    LuthierError where it says nothing in time."""
    until_s = time.monotonic() + limit_s
    late = lambda: time.monotonic() > until_s  # noqa: E731
    request = Request((Message("user", PROMPT),), temperature=0.0, seed=0)
    chunks = model.engine.generate(request, late)
    seen, ended = 0, False
    try:
        for chunk in chunks:
            seen += 1
            if chunk.finish is not None or seen >= SMOKE_CHUNKS:
                ended = True
                break
            if late():
                break
    except Cancelled:
        pass
    finally:
        chunks.close()
    if not ended:
        raise LuthierError(f"it did not answer a first question within {limit_s:g} s")
    if not (health := model.engine.health()).ready:
        raise LuthierError(f"it is not ready after a first question: {health.detail}")
