"""What a budget leaves: whole millionths, months in UTC, holds and alerts. Pure: no clock, no records.

    amount  =  used  +  held  +  left          used: metered; held: promised to jobs that still run; left may be below zero

A job is let in where its whole forecast fits beside what was used and promised; what it uses is taken out of its own promise first, and
only beyond that from what is left. So the sum of what was promised and used never exceeds the amount by a forecast. Money is counted in
the currency it is written in and never changed into another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

from luthier.core.errors import SpecError

MICRO: Final = 1_000_000
LARGEST_MICRO: Final = 10**18
"""A trillion units; sums of several stay below 64 bits."""
TOKENS, GPU_HOURS, MONEY = "tokens", "gpu_hours", "money:"
UNPRICED: Final = "unpriced_answers"
"""Answers of served models of which nobody knows what they cost. Counted in reports; no budget can be of it."""
ALERTS: Final = (0.5, 0.8, 1.0)
"""Where nobody says otherwise: told at half, at four fifths and when it is used up."""

_MONEY = re.compile(r"money:[A-Z]{3}")
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


def check_unit(unit: str, *, counted: bool = False) -> str:
    """`counted`: what reports know and budgets do not, too. Raises SpecError.

    >>> check_unit("money:EUR"), check_unit("unpriced_answers", counted=True)
    ('money:EUR', 'unpriced_answers')
    """
    if unit not in (TOKENS, GPU_HOURS, *((UNPRICED,) if counted else ())) and not _MONEY.fullmatch(unit):
        raise SpecError(
            f"there is no unit {unit[:40]!r}.",
            remedy="Write tokens, gpu_hours, or money: and a currency, as in money:EUR.",
        )
    return unit


def micro(amount: float | str | Decimal) -> int:
    """Whole millionths, the nearest. Raises SpecError for what is no amount.

    >>> micro(1.5), micro("0.000001")
    (1500000, 1)
    """
    try:
        found = (Decimal(str(amount)) * MICRO).to_integral_value(ROUND_HALF_EVEN)
        within = 0 <= found <= LARGEST_MICRO
    except InvalidOperation:
        within = False
    if not within:
        raise SpecError(
            f"{str(amount)[:40]!r} is not an amount.",
            remedy=f"Write a number from 0 to {LARGEST_MICRO // MICRO:,}.",
        )
    return int(found)


def plain(amount_micro: int) -> float:
    return amount_micro / MICRO


def show(amount_micro: int, unit: str) -> str:
    """
    >>> show(1_500_000, "money:EUR"), show(-2_000_000, "tokens"), show(1_250_000, "gpu_hours")
    ('1.50 EUR', '-2 tokens', '1.25 GPU hours')
    """
    value = Decimal(amount_micro) / MICRO
    if unit.startswith(MONEY):
        return f"{value:,.2f} {unit.removeprefix(MONEY)}"
    return f"{value:,.0f} tokens" if unit == TOKENS else f"{value:,.2f} GPU hours"


def month_of(time_s: float) -> str:
    """
    >>> month_of(0), month_of(1_795_996_799)
    ('1970-01', '2026-11')
    """
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m")


def check_month(month: str) -> str:
    if not _MONTH.fullmatch(month):
        raise SpecError(f"{month[:20]!r} is no month.", remedy="Write it as 2026-11.")
    return month


@dataclass(frozen=True)
class Standing:
    """A budget as it stands."""

    amount_micro: int
    used_micro: int
    held_micro: int

    @property
    def left_micro(self) -> int:
        return self.amount_micro - self.used_micro - self.held_micro

    def lets_in(self, wanted_micro: int) -> bool:
        """Whether so much more may be promised. Nothing is let in where nothing is left, however little it wants.

        >>> Standing(10, 4, 6).lets_in(0), Standing(10, 4, 5).lets_in(1), Standing(10, 4, 5).lets_in(2)
        (False, True, False)
        """
        return 0 < self.left_micro >= wanted_micro


def outstanding(held_micro: int, metered_micro: int) -> int:
    """What of a promise is not used yet.

    >>> outstanding(10, 4), outstanding(10, 12)
    (6, 0)
    """
    return max(held_micro - metered_micro, 0)


def grown(held_micro: int, metered_micro: int, chunk_micro: int) -> int | None:
    """What must be promised to a job before it may go on; None: it is within its promise. It is asked for while a tenth of the last
    chunk is left, so that use between two looks is covered too.

    >>> grown(100, 80, 50), grown(100, 96, 50), grown(0, 120, 50)
    (None, 146, 170)
    """
    if metered_micro < held_micro and outstanding(held_micro, metered_micro) > chunk_micro // 10:
        return None
    return metered_micro + max(chunk_micro, 1)


def crossed(alerts: Iterable[float], before_micro: int, after_micro: int, amount_micro: int) -> list[float]:
    """Shares of the amount that are reached now and were not before.

    >>> crossed([0.5, 0.8, 1.0], 40, 85, 100), crossed([0.5], 50, 60, 100)
    ([0.5, 0.8], [])
    """
    return sorted(share for share in alerts if before_micro < share * amount_micro <= after_micro)


def check_alerts(alerts: Sequence[float]) -> list[float]:
    if len(alerts) > 10 or any(not 0 < share <= 1 for share in alerts):
        raise SpecError(
            "alerts are at most 10 shares above 0 and up to 1.", remedy="Write for example 0.5, 0.8, 1."
        )
    return sorted(set(alerts))


@dataclass(frozen=True)
class Wanted:
    """What something would use, by unit. `unknown`: units that it uses too and nobody can say how much of; of these a first part is
    promised, and further parts while it runs. `basis` says in words what the figures rest on."""

    amounts_micro: Mapping[str, int]
    unknown: Mapping[str, int]
    basis: tuple[str, ...] = ()

    @property
    def first_micro(self) -> dict[str, int]:
        """What is promised at first."""
        return {**self.unknown, **self.amounts_micro}


def spent(seconds: float, gpus: int, hourly: tuple[float, str] | None) -> dict[str, int]:
    """What so long a time uses: GPU hours, and money where an hour has a price.

    >>> spent(1800, 2, (3.0, "EUR"))
    {'gpu_hours': 1000000, 'money:EUR': 1500000}
    """
    hours = seconds / 3600
    found = {GPU_HOURS: micro(hours * gpus)} if gpus else {}
    if hourly is not None:
        found[f"{MONEY}{hourly[1]}"] = micro(hours * hourly[0])
    return found
