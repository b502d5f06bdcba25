"""A moment as people read it: in UTC, and it says so, so that what two machines print can be held beside each other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def moment(unix_s: float | None, to: Literal["seconds", "minutes"] = "seconds", *, missing: str = "-") -> str:
    """
    >>> moment(0.5), moment(0.5, "minutes"), moment(None)
    ('1970-01-01 00:00:00Z', '1970-01-01 00:00Z', '-')
    """
    if unix_s is None:
        return missing
    return datetime.fromtimestamp(unix_s, UTC).isoformat(" ", to).removesuffix("+00:00") + "Z"
