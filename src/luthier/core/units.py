"""Numbers with units: read from what a person writes, print as a person reads. No arithmetic lives here.

Inside the program a duration is seconds (`_s`), a size is bytes (`_bytes`), a share is 0..1, money is a
`Money`. `None` means "no limit"; there is no -1.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

_NUMBER = r"(?P<n>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_DURATION = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
             "day": 86400.0, "days": 86400.0, "d": 86400.0, "week": 604800.0, "weeks": 604800.0}  # fmt: skip
_SIZE = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}

_COUNT = {"k": 10**3, "m": 10**6, "b": 10**9}


def _split(text: str, units: dict[str, Any], what: str, example: str) -> tuple[float, str]:
    match = re.fullmatch(_NUMBER + r"\s*(?P<u>[A-Za-z%]+)", text.strip())
    if not match or match["u"].lower() not in units:
        raise ValueError(f"{text!r} is not a {what}; write for example {example} (units: {', '.join(units)})")
    return float(match["n"]), match["u"].lower()


def seconds(value: Any) -> float:
    """Seconds from `30 min`, `1 h`, `90 s`, or a plain number of seconds.

    >>> seconds("30 min"), seconds("1.5 h"), seconds(90)
    (1800.0, 5400.0, 90.0)
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a duration; write for example '30 min'")
    if isinstance(value, str):
        number, unit = _split(value, _DURATION, "duration", "'30 min' or '1 h'")
        return number * _DURATION[unit]
    return _finite(float(value), "duration")


def size_bytes(value: Any) -> int:
    """Bytes from `4 GB`, `512 MiB`, or a plain number of bytes.

    >>> size_bytes("4 GB"), size_bytes("1 KiB")
    (4000000000, 1024)
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a size; write for example '4 GB'")
    if isinstance(value, str):
        number, unit = _split(value, _SIZE, "size", "'4 GB'")
        return int(number * _SIZE[unit])
    return int(_finite(float(value), "size"))


def share(value: Any) -> float:
    """A share in 0..1 from `0.1` or `10%`.

    >>> share("10%"), share(0.25)
    (0.1, 0.25)
    """
    if isinstance(value, str):
        number, _ = _split(value, {"%": 1}, "share", "0.1 or '10%'")
        value = number / 100
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a share; write 0.1 or '10%'")
    if not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1; write 0.1 or '10%'")
    return float(value)


def count(value: Any) -> int:
    """A whole number from `2M`, `500k`, or a plain number.

    >>> count("2M"), count("1.5 k"), count(300)
    (2000000, 1500, 300)
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a number; write for example 300 or '2M'")
    if isinstance(value, str):
        number, unit = _split(value, _COUNT, "number", "300 or '2M'")
        return round(number * _COUNT[unit])
    if value != int(_finite(float(value), "number")):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def _finite(value: float, what: str) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a {what}: it must be finite and not negative")
    return value


class Money(NamedTuple):
    """An amount in one currency (ISO 4217).

    >>> str(Money(5, "USD"))
    '5.00 USD'
    """

    amount: float
    currency: str

    def __str__(self) -> str:
        # Below a cent, as many digits as show two that count.
        digits = 2 if self.amount == 0 or self.amount >= 0.01 else 1 - math.floor(math.log10(self.amount))
        return f"{self.amount:.{digits}f} {self.currency}"


def money(value: Any) -> Money:
    """Money from `5 USD`.

    >>> money("5 USD")
    Money(amount=5.0, currency='USD')
    """
    if isinstance(value, list | tuple) and len(value) == 2:
        return Money(_finite(float(value[0]), "amount of money"), str(value[1]))
    match = re.fullmatch(_NUMBER + r"\s*(?P<u>[A-Z]{3})", value.strip()) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"{value!r} is not an amount of money; write for example '5 USD'")
    return Money(float(match["n"]), match["u"])


Seconds = Annotated[float, BeforeValidator(seconds)]
Bytes = Annotated[int, BeforeValidator(size_bytes)]
Count = Annotated[int, BeforeValidator(count)]
Share = Annotated[float, BeforeValidator(share)]
MoneyField = Annotated[Money, BeforeValidator(money)]


def plain_number(value: float) -> str:
    """A number as an answer: six significant digits, an exponent only where it is needed.

    >>> plain_number(3.25), plain_number(1 / 3), plain_number(120.0)
    ('3.25', '0.333333', '120')
    """
    return f"{value:.6g}"


def show_seconds(value_s: float) -> str:
    """
    >>> show_seconds(0.25), show_seconds(75), show_seconds(7300)
    ('0.2 s', '1 min 15 s', '2 h 01 min')
    """
    if value_s < 60:
        return f"{value_s:.1f} s"
    whole = round(value_s)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_bytes(value_bytes: float) -> str:
    """
    >>> show_bytes(512), show_bytes(3_200_000_000)
    ('512 B', '3.2 GB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value_bytes >= factor:
            return f"{value_bytes / factor:.1f} {unit}"
    return f"{int(value_bytes)} B"


def show_count(value: float) -> str:
    """
    >>> show_count(950), show_count(12_400), show_count(134_515_008)
    ('950', '12.4k', '134.5M')
    """
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f}{unit}"
    return f"{value:.0f}"
