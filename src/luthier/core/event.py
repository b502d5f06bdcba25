"""An Event is one append-only fact: progress, a metric, an audit entry, a cost. Readings of the ledger
(loss curves, what a run cost, who did what) are made of these and of nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """`subject` is what the fact is about (a run, an artifact's digest); `data` is plain JSON. `time_s` is Unix time."""

    kind: str
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)
    time_s: float = field(default_factory=time.time)
    seq: int | None = None  # given by the ledger


Emit = Callable[[Event], None]
