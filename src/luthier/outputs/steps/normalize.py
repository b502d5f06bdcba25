"""normalize: dates, numbers and units in one form, where there is one reading only.

    March 5, 2024 · 5. März 2024 · 2024/3/5          2024-03-05       (ISO 8601)
    25/12/2024                                        2024-12-25       no month is the 25th
    05/03/2024                                        05/03/2024       may be March or May: left, unless `order` says which
    1,234,567.89 · 1.234.567,89 · 1'234'567.89        1234567.89
    1,234 · 1.234                                     as it stands     may be a decimal: left, unless `decimal` says which
    12 kilometres · 12 KM                             12 km            names of units become their symbols (SI Brochure, 9th ed.)

In an answer that is JSON only strings are looked at. Never: a year of two digits, a conversion from one unit to another.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec

from ..step import About, Said, Step
from ..texts import edited

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero",
            "february feb februar février fevrier febrero",
            "march mar märz maerz mars marzo",
            "april apr avril abril",
            "may mai mayo",
            "june jun juni juin junio",
            "july jul juli juillet julio",
            "august aug août aout agosto",
            "september sep sept septembre septiembre",
            "october oct oktober okt octobre octubre",
            "november nov novembre noviembre",
            "december dec dezember dez décembre decembre diciembre",
        ),
        1,
    )
    for name in names.split()
}
"""English, German, French, Spanish."""
UNITS = {
    name: symbol
    for symbol, names in {
        "mm": "millimeter millimeters millimetre millimetres",
        "cm": "centimeter centimeters centimetre centimetres zentimeter",
        "m": "meter meters metre metres",
        "km": "kilometer kilometers kilometre kilometres kms",
        "mg": "milligram milligrams milligramm",
        "g": "gram grams gramm",
        "kg": "kilogram kilograms kilogramm kilo kilos kgs",
        "t": "tonne tonnes",
        "ml": "milliliter milliliters millilitre millilitres",
        "l": "liter liters litre litres",
        "ms": "millisecond milliseconds",
        "s": "second seconds sec secs",
        "min": "minute minutes mins",
        "h": "hour hours hr hrs",
        "W": "watt watts",
        "kW": "kilowatt kilowatts",
        "V": "volt volts",
        "A": "ampere amperes amp amps",
        "Hz": "hertz",
        "%": "percent",
    }.items()
    for name in names.split()
}
_CASES = {symbol.lower(): symbol for symbol in ("mm", "cm", "km", "mg", "kg", "ml", "kW", "Hz")}
"""Symbols that are also written in other cases; M, G, T and the like mean other things."""

_NAME = "|".join(sorted(MONTHS, key=len, reverse=True))
_YEAR_FIRST = re.compile(r"(?<![\w/.-])([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})(?![\w/-]|\.[0-9])")
_YEAR_LAST = re.compile(r"(?<![\w/.-])([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4})(?![\w/-]|\.[0-9])")
_DAY_NAME = re.compile(
    rf"(?<![\w/.-])([0-9]{{1,2}})(?:st|nd|rd|th|er|\.)? (?:de )?({_NAME})\.?,? (?:de )?([0-9]{{4}})(?!\w)",
    re.I,
)
_NAME_DAY = re.compile(rf"(?<!\w)({_NAME})\.? ([0-9]{{1,2}})(?:st|nd|rd|th)?,? ([0-9]{{4}})(?!\w)", re.I)
_NUMBER = re.compile(
    r"(?<![\w.,'’])[0-9]{1,15}(?:[.,'’\u00a0\u202f\u2009][0-9]{1,15}){1,12}(?![\w'’]|[.,][0-9])"
)
_UNIT = re.compile(r"(?<![\w.,])([0-9]+(?:[.,][0-9]+)*)([ \u00a0\u202f]?)([A-Za-zµ]{1,12})(?!\w)")
_SPACES = "\u00a0\u202f\u2009'’"


class Normalize(Spec):
    dates: bool = True
    """Write dates as YYYY-MM-DD."""
    order: Literal["day_first", "month_first"] | None = None
    """How 05/03/2024 is read; without it such a date is left as it stands."""
    numbers: bool = True
    """Take the separators of thousands out, and write the decimal point as a point."""
    decimal: Literal[".", ","] | None = None
    """Which sign separates decimals, for numbers such as 1,234; without it they are left."""
    units: bool = False
    """Write the symbols of units for their names, as in `12 km`: lengths, masses, volumes, times, and a few more."""
    fields: list[str] | None = Field(default=None, min_length=1)
    """Of an answer that is JSON: only strings under these keys; without it all."""

    @model_validator(mode="after")
    def _something(self) -> Normalize:
        if not (self.dates or self.numbers or self.units):
            raise ValueError(
                "dates, numbers and units are all off, so nothing would be done; leave the step out"
            )
        return self


def _run(text: str, settings: Normalize, _: About) -> Said:
    notes: set[str] = set()

    def edit(part: str) -> str:
        for name, wanted, change in (
            ("date", settings.dates, lambda t: dated(t, settings.order)),
            ("number", settings.numbers, lambda t: numbered(t, settings.decimal)),
            ("unit", settings.units, united),
        ):
            if wanted and (told := change(part)) != part:
                notes.add(name)
                part = told
        return part

    return Said(edited(text, edit, settings.fields), notes=tuple(sorted(notes)))


def dated(text: str, order: str | None) -> str:
    """
    >>> dated("due 25/12/2024, not 05/03/2024", None), dated("05/03/2024", "day_first")
    ('due 2024-12-25, not 05/03/2024', '2024-03-05')
    """
    text = _YEAR_FIRST.sub(lambda m: _iso(m, m[1], m[3], m[4]), text)
    text = _DAY_NAME.sub(lambda m: _iso(m, m[3], MONTHS[m[2].lower()], m[1]), text)
    text = _NAME_DAY.sub(lambda m: _iso(m, m[3], MONTHS[m[1].lower()], m[2]), text)
    return _YEAR_LAST.sub(lambda m: _ordered(m, order), text)


def _ordered(match: re.Match[str], order: str | None) -> str:
    first, second, year = int(match[1]), int(match[3]), match[4]
    if order is None:
        order = "day_first" if first > 12 or first == second else "month_first" if second > 12 else None
    if order is None:
        return match[0]
    day, month = (first, second) if order == "day_first" else (second, first)
    return _iso(match, year, month, day)


def _iso(match: re.Match[str], year: str, month: int | str, day: int | str) -> str:
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return match[0]


def numbered(text: str, decimal: str | None) -> str:
    """
    >>> numbered("1,234,567.89 and 1.234.567,89, but 1,234", None), numbered("1.234 and 3,5", ",")
    ('1234567.89 and 1234567.89, but 1,234', '1234 and 3.5')
    """
    return _NUMBER.sub(lambda match: _number(match[0], decimal), text)


def _number(text: str, decimal: str | None) -> str:
    signs = re.sub(r"[0-9]", "", text)
    groups = re.split(r"[^0-9]", text)
    kinds = list(dict.fromkeys(signs))
    if len(kinds) > 2 or (len(kinds) == 2 and (signs.count(kinds[1]) > 1 or kinds[1] in _SPACES)):
        return text
    point = _decimal_sign(signs, kinds, decimal)
    thousands = [sign for sign in kinds if sign != point]
    whole = groups[:-1] if point else groups
    if thousands and not (
        1 <= len(whole[0]) <= 3 and whole[0][0] != "0" and all(len(g) == 3 for g in whole[1:])
    ):
        return text
    if not point and not thousands:
        return text
    if point is None and kinds[0] not in _SPACES and len(groups) == 2 and decimal is None:
        return text  # 1,234: one thousand or one
    if kinds == ["."] and len(groups) == 4 and all(int(group) < 256 for group in groups):
        return text  # may be an address
    return "".join(whole) + (f".{groups[-1]}" if point else "")


def _decimal_sign(signs: str, kinds: list[str], told: str | None) -> str | None:
    """The sign before the decimals; None: there are none, or nobody knows."""
    if len(kinds) == 2:
        return kinds[1] if told in (None, kinds[1]) else None
    only = kinds[0]
    if only in _SPACES or signs.count(only) > 1:
        return None
    return only if told == only else None


def united(text: str) -> str:
    """
    >>> united("12 kilometres, 3 KG and 5 apples")
    '12 km, 3 kg and 5 apples'
    """

    def symbol(match: re.Match[str]) -> str:
        word = match[3]
        told = UNITS.get(word.lower()) or _CASES.get(word.lower())
        return match[0] if told is None or told == word else f"{match[1]} {told}"

    return _UNIT.sub(symbol, text)


normalize = Step(
    "normalize", 1, Normalize, "Dates, numbers and units in one form, where there is one reading only.", _run
)
