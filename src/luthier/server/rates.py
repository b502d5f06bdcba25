"""How many requests one key may make in a time: a bucket of tokens that fills evenly. In memory of one process, from its start on.

60/min      a burst of 60, and one more each second
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from luthier.core.errors import SpecError
from luthier.server.errors import ApiError

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
MOST_BUCKETS = 10_000
_FORM = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)", re.ASCII)


@dataclass(frozen=True)
class Rate:
    requests: int
    per_s: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Raises SpecError.

        >>> Rate.parse("60/min")
        Rate(requests=60, per_s=60.0)
        """
        match = _FORM.fullmatch(text.replace(" ", ""))
        if match is None:
            raise SpecError(f"{text!r} is no rate.", remedy="Write requests per s, min or h, such as 60/min.")
        return cls(int(match[1]), _UNITS[match[2]])


class Rates:
    """A bucket for each key, or for each project. `clock` gives seconds."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Key -> (requests that are left, when that was); only keys that opened the server come here."""

    def take(self, key_id: str, who: str = "The key") -> dict[str, str]:
        """The headers that tell what is left. Raises ApiError 429, with the same headers, where nothing is."""
        now_s, most = self._clock(), float(self._rate.requests)
        if len(self._buckets) >= MOST_BUCKETS:
            self._forget_full(now_s)
        left, then_s = self._buckets.get(key_id, (most, now_s))
        left = min(most, left + (now_s - then_s) * most / self._rate.per_s)
        passes = left >= 1
        left -= passes
        self._buckets[key_id] = (left, now_s)
        each_s = self._rate.per_s / most
        told = {
            "x-ratelimit-limit-requests": str(self._rate.requests),
            "x-ratelimit-remaining-requests": str(int(left)),
            "x-ratelimit-reset-requests": f"{math.ceil((most - left) * each_s)}s",
        }
        if not passes:
            wait_s = max(1, math.ceil((1 - left) * each_s))
            message = f"{who} {key_id} has made its {self._rate.requests} requests for now; the next is free in {wait_s} s."
            raise ApiError(429, "rate_limit_exceeded", message, headers={**told, "retry-after": str(wait_s)})
        return told

    def _forget_full(self, now_s: float) -> None:
        """Those that have filled again since say nothing that a new one would not."""
        self._buckets = {
            key: (left, then_s)
            for key, (left, then_s) in self._buckets.items()
            if now_s - then_s < self._rate.per_s
        }
