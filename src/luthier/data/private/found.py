"""A span that holds private data, and which of several that overlap is the one."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from . import KINDS


@dataclass(frozen=True, slots=True)
class Found:
    """`value` is the canonical form, equal for all ways to write one thing. `checked`: has a check digit, or a form as
    telling. `sure` is False for what counts only where the same value is sure elsewhere in the record."""

    start: int
    end: int
    kind: str
    value: str
    checked: bool = False
    sure: bool = True


def settle(candidates: Iterable[Found], known: Set[tuple[str, str]] = frozenset()) -> list[Found]:
    """By place, without overlaps: checked beats pattern, longer beats shorter, then the earlier and the kind first in KINDS.

    >>> phone, card = Found(0, 9, "phone", "1"), Found(2, 6, "card", "2", checked=True)
    >>> [one.kind for one in settle([phone, card])], settle([Found(0, 9, "phone", "1", sure=False)])
    (['card'], [])
    """
    order = {kind: n for n, kind in enumerate(KINDS)}
    wanted = [one for one in candidates if one.sure or (one.kind, one.value) in known]
    if len(wanted) < 2:
        return wanted
    wanted.sort(
        key=lambda one: (
            not one.checked,
            one.start - one.end,
            one.start,
            order.get(one.kind, len(order)),
            one.kind,
            one.value,
        )
    )
    taken = bytearray(max(one.end for one in wanted))
    kept = []
    for one in wanted:
        if taken.find(1, one.start, one.end) < 0:
            taken[one.start : one.end] = b"\1" * (one.end - one.start)
            kept.append(one)
    return sorted(kept, key=lambda one: one.start)
