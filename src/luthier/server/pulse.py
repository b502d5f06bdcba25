"""The last minutes, second by second and release by release, for the status page. In memory, bounded, gone with the process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.server.router import Router
from luthier.server.watch import Beside, Seen

SECONDS = 300
MOST_RELEASES = 20
_NONE = "none"  # requests that ended without an answer


@dataclass
class Second:
    """Sums over what ended in it."""

    requests: int = 0
    errors: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    latency_s: float = 0.0
    first_token_s: float = 0.0
    first_tokens: int = 0


class Pulse:
    """An observer (`watch`). `clock` gives Unix time."""

    def __init__(
        self, models: Router, clock: Callable[[], float] = time.time, beside: Sequence[Beside] = ()
    ) -> None:
        self._models = models
        self._beside = beside
        self._clock = clock
        self._began_s = clock()
        self._seconds: deque[tuple[int, dict[str, Second]]] = deque()

    def __call__(self, seen: Seen) -> None:
        if seen.exchange is None and (seen.code is None or not seen.route.startswith("/v1/")):
            return
        now = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append((now, {}))
            self._forget(now)
        here = self._seconds[-1][1]
        name = _NONE if seen.exchange is None else " · ".join(dict.fromkeys(seen.served))
        if name not in here and len(here) >= MOST_RELEASES:
            name = "other"
        one = here.setdefault(name, Second())
        one.requests += 1
        one.errors += seen.code is not None
        if seen.exchange is not None:
            one.tokens_in += seen.exchange.prompt_tokens
            one.tokens_out += seen.exchange.completion_tokens
            one.latency_s += seen.exchange.latency_s
            if seen.exchange.first_token_s is not None:
                one.first_token_s += seen.exchange.first_token_s
                one.first_tokens += 1

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] <= now - SECONDS:
            self._seconds.popleft()

    def plain(self) -> dict[str, Any]:
        """`seconds`: [{"at": Unix time, "of": {release: sums}}], oldest first, those without requests left out."""
        now = int(self._clock())
        self._forget(now)
        return {
            "now": now,
            "up_s": round(self._clock() - self._began_s),
            "span_s": SECONDS,
            "models": [
                {
                    "name": name,
                    "release": model.version,
                    "engine": model.by,
                    "ready": model.engine.health().ready,
                    "waiting": model.admission.waiting,
                    "in_flight": model.admission.active,
                    "slots": model.engine.slots,
                }
                for name, model in self._models.loaded()
            ],
            "beside": [{"name": one.name, "ok": one.ok, "last_s": one.last_s} for one in self._beside],
            "seconds": [
                {"at": at, "of": {name: asdict(one) for name, one in of.items()}} for at, of in self._seconds
            ],
        }
