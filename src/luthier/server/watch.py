"""What the server tells of each request once it is over, to whoever watches: metrics, traces, the log, the status page.

    Envelope ──▶ Watch ──▶ observer, observer, ...        an observer that fails is logged, and never costs an answer

No text of a message is in it. Not here: the record of an answer, without which there is no answer (exchange).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luthier.server.exchange import Exchange

logger = logging.getLogger("luthier.server")


@dataclass(frozen=True)
class Seen:
    """`route` is the path as the route table has it, "-" for none of its; `code` that of the error, None where it went well."""

    request_id: str
    method: str
    route: str
    status: int
    code: str | None
    key_id: str | None
    began_s: float  # Unix time
    elapsed_s: float
    exchange: Exchange | None = None
    guarded: Mapping[str, int] = field(default_factory=dict)
    traceparent: str | None = None
    project: str | None = None

    @property
    def served(self) -> tuple[str, str]:
        """(model, release) of an answer; what was never released goes by the short digest of its package."""
        assert self.exchange is not None
        return self.exchange.model, self.exchange.release or self.exchange.package_digest[:12]


Observer = Callable[[Seen], None]


class Beside(Protocol):
    """Something that a server does by the clock beside its answers, and whose failing must be seen. Both are read, and nothing of its
    reasons: who may look at a server's state need not know its places."""

    @property
    def name(self) -> str: ...

    @property
    def ok(self) -> bool:
        """Whether it went well the last time."""

    @property
    def last_s(self) -> float | None:
        """When it last went well, in Unix time."""


class Watch:
    """Called on the event loop: observers are quick and do not wait for anything."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def __call__(self, seen: Seen) -> None:
        for observer in self._observers:
            try:
                observer(seen)
            except Exception:
                logger.exception("%s: an observer failed", seen.request_id)
