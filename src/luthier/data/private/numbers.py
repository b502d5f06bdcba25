"""Cards, telephone numbers and national ids: what hides in groups of digits.

    "ring +49 (0)30 1234567 or 078-05-1120"
           49 · 0 · 30 · 1234567            078 · 05 · 1120      chains of groups with what stands between
                                            3-2-4                a layout, looked up in one table

A chain is cut at each place where a layout of the table fits, so many kinds cost one pass. Linear in the text: groups are
matched against beginnings of layouts, of which the longest has eight groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from . import checks, national, phones
from .found import Found

_GROUP = re.compile("[0-9]+")
_CHAIN = re.compile(r"(?<![A-Za-z0-9_])[0-9]++(?:[ ().\-/]{1,3}+[0-9]++)*+")
SIEVE = r"[0-9](?:[ ().\-/]{0,3}[0-9]){6,}"
"""What a text must have, as Rust reads it: seven digits with at most three signs between."""

_CARDS = [str(n) for n in range(13, 20)] + ["8 8"]
for _sign in " -.":
    _CARDS += [
        _sign.join(form.split())
        for form in (
            "4 4 4 4",
            "4 6 5",
            "4 6 4",
            "4 4 4 4 1",
            "4 4 4 4 2",
            "4 4 4 4 3",
            "4 3 3 3",
            "4 4 4 1",
            "4 4 5",
        )
    ]
_PHONES = ("3-3-4", "3.3.4", "3) 3-4", "3)3-4", "3) 3 4", "3)-3-4", "1-3-3-4", "1.3.3.4", "1 (3) 3-4", "1-3) 3-4", "3 3 4?", "10?", "1 3 3 4?", "3 3-4", "3-3 4?")  # fmt: skip
_FRENCH = ("2 2 2 2 2", "2.2.2.2.2", "2-2-2-2-2")

# Right before a number: what it is a number of, when it is none of a person.
_OTHER = re.compile(
    r"\b(?:(?:(?-i:ISBN(?:-1[03])?|ISSN|EAN|GTIN|UPC|DOI|ASIN|SKU|IMEI|ATA|RFC|ISO|DIN|UUID|GUID)|isbn|p/n|s/n|order|invoice|bestell\w*|rechnung\w*"
    r"|commande|facture|pedido|factura|part|serial|serien\w*|tracking|sendung\w*|shipment|ticket|case|reference|article|artikel\w*|item|model"
    r"|batch|version|build|revision|chapter|section|timestamp|epoch|unix time|hash|checksum|commit|transaction|barcode|patent|bug|issue"
    r"|customer|kunden\w*|client|account|konto|contract|vertrag\w*)"
    r"(?:[ _-]?(?:no|nr|num|number|nummer|id|code|num[ée]ro|n[úu]mero)\b)?|(?:ref|rev|lot)(?:[.:#]| (?:no|nr|number)\b))"
    r"[ .:#=°\"'(-]{0,4}\Z",
    re.IGNORECASE,
)
_NEAR = 48
FEWEST = 7
"""Digits that the shortest number has: one of a telephone."""
MANY = 12
"""Groups of a chain from which on what fits is not remembered."""


@dataclass(frozen=True)
class Row:
    kind: str
    national: national.National | None
    weak: bool
    french: bool = False


@lru_cache(maxsize=1)
def layouts() -> dict[str, list[Row]]:
    """What a number that is written so may be."""
    rows: dict[str, list[Row]] = {}

    def add(written: str, kind: str, of: national.National | None = None) -> None:
        layout = written.strip().removesuffix("?")
        row = Row(kind, of, written.strip().endswith("?"), written in _FRENCH)
        rows.setdefault(layout, []).append(row)

    for form in _CARDS:
        add(form, "card")
    for form in (*_PHONES, *_FRENCH):
        add(form, "phone")
    for one in national.NATIONAL:
        for form in filter(None, one.layouts.split(",")):
            add(form, "national_id", one)
    return rows


def pieces_of(layout: str) -> list[str]:
    """
    >>> pieces_of("3) 3-4")
    ['3', ') ', '3', '-', '4']
    """
    return re.findall(r"[0-9]+|[^0-9]+", layout)


@lru_cache(maxsize=1)
def _starts() -> frozenset[str]:
    """Every beginning of a layout."""
    starts = {""}
    for layout in layouts():
        pieces = pieces_of(layout)
        starts |= {"".join(pieces[:n]) for n in range(1, len(pieces) + 1, 2)}
    return frozenset(starts)


def numbers(text: str, kinds: Set[str]) -> Iterator[Found]:
    """Candidates of `kinds`, with overlaps, by place."""
    for match in _CHAIN.finditer(text):
        start, end = match.span()
        if end - start < 7:
            continue
        if end < len(text) and (text[end] == "_" or (text[end].isascii() and text[end].isalnum())):
            # The last group goes on as a word.
            end = max(start, _before_last_group(text, start, end))
            if end - start < 7:
                continue
        yield from _chain(text, start, end, kinds)


def _before_last_group(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1].isdigit():
        end -= 1
    while end > start and not text[end - 1].isdigit():
        end -= 1
    return end


def _chain(text: str, start: int, end: int, kinds: Set[str]) -> Iterator[Found]:
    groups = _GROUP.findall(text, start, end)
    if sum(map(len, groups)) < FEWEST:
        return
    spans = [match.span() for match in _GROUP.finditer(text, start, end)]
    between = [text[one[1] : other[0]] for one, other in pairwise(spans)]
    if "phone" in kinds:
        yield from _phones(text, spans, groups, between)
    ask = _fitting if len(groups) <= MANY else _fitting.__wrapped__
    for first, last, rows in ask(tuple(map(len, groups)), tuple(between)):
        yield from _fit(text, spans, groups, between, first, last, rows, kinds)


@lru_cache(maxsize=1 << 11)
def _fitting(lengths: tuple[int, ...], between: tuple[str, ...]) -> list[tuple[int, int, list[Row]]]:
    """(first group, last group, rows) of every layout that fits groups of these lengths."""
    rows, starts = layouts(), _starts()
    found = []
    for first in range(len(lengths)):
        if first and not _apart(between[first - 1]):
            continue
        layout = ""
        for last in range(first, len(lengths)):
            layout += (between[last - 1] if last > first else "") + str(lengths[last])
            if layout not in starts:
                break
            if layout in rows and (last + 1 == len(lengths) or _apart(between[last])):
                found.append((first, last, rows[layout]))
    return found


def _apart(gap: str) -> bool:
    """Whether what stands between may be the end of one number and the beginning of another."""
    return gap == " " or gap == "/" or len(gap) > 1 or gap in "()"


def _fit(
    text: str, spans: list[tuple[int, int]], groups: list[str], between: list[str], first: int, last: int,
    rows: list[Row], kinds: Set[str],
) -> Iterator[Found]:  # fmt: skip
    """What groups first..last are, by the rows of their layout."""
    start, end = spans[first][0], spans[last][1]
    digits = "".join(groups[first : last + 1])
    around = ([between[first - 1]] if first else []) + ([between[last]] if last + 1 < len(groups) else [])
    # Three of four blocks that stand with blanks between are no number of three blocks.
    inside = "/" in around or (last > first and " " in around and " " in between[first:last])
    if _is_attached(text, start, end):
        return
    for row in rows:
        if row.kind not in kinds:
            continue
        if row.kind == "card":
            if checks.card(digits) and (last > first or not _is_other(text, start)):
                yield Found(start, end, "card", digits, checked=True)
        elif row.kind == "phone":
            if (
                not inside
                and (value := _area(digits, row))
                and not _is_other(text, start)
                and not _is_amount(text, start)
            ):
                yield Found(_open(text, start), end, "phone", value, sure=not row.weak)
        elif row.national is not None and row.national.check(digits):
            one = row.national
            named = is_named(text, start, end, one)
            if named or not (inside or _is_other(text, start)):
                value = f"{one.country}:{digits}"
                yield Found(start, end, "national_id", value, one.checked, named or not row.weak)


def _area(digits: str, row: Row) -> str | None:
    """The canonical form, where the rules of an area hold."""
    if row.french:
        counted = digits[0::2] == "00000"  # 01 02 03 ...
        return digits if digits[0] == "0" and digits[1] != "0" and not counted else None
    own = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    return "+1" + own if phones.is_north_american(own, strict=row.weak) else None


def _open(text: str, start: int) -> int:
    """With the bracket before an area's digits, as in "(201) 555-0123"."""
    return start - 1 if start and text[start - 1] == "(" else start


def _phones(
    text: str, spans: list[tuple[int, int]], groups: list[str], between: list[str]
) -> Iterator[Found]:
    """Numbers with a country's code at the chain's beginning; others after a word that says so."""
    start = spans[0][0]
    if text[start - 1 : start] == "+" and not text[max(0, start - 2) : start - 1].isalnum():
        yield from _international(spans, groups, between, plus=True, said=False)
        return
    before = text[max(0, start - _NEAR) : start]
    if groups[0].startswith("00") and len(groups[0]) > 3 and not _is_other(text, start):
        yield from _international(spans, groups, between, plus=False, said=phones.is_said(before))
        return
    n = phones.first_of(groups, between, lengths=(7, 15))
    if not n or _is_amount(text, start) or phones.is_date(text[start : spans[n - 1][1]]):
        return
    digits = "".join(groups[:n])
    if len(set(digits)) < 3 or _is_attached(text, start, spans[n - 1][1]):
        return
    value = "+1" + digits if phones.is_north_american(digits, strict=True) else digits
    yield Found(_open(text, start), spans[n - 1][1], "phone", value, sure=phones.is_said(before))


def _international(
    spans: list[tuple[int, int]], groups: list[str], between: list[str], *, plus: bool, said: bool
) -> Iterator[Found]:
    digits = groups[0] if plus else groups[0][2:]
    found: tuple[int, str] | None = None
    for n, group in enumerate(groups):
        if n:
            gap = between[n - 1]
            if gap.endswith("(") and group == "0" and n + 1 < len(groups) and between[n].startswith(")"):
                continue  # "(0)" is dialled only inside the country
            digits += group
        if len(digits) > 15:
            break
        if phones.is_international(digits):
            found = n, digits
    if found is None:
        return
    n, digits = found
    if not plus and not said and n < 2:
        return
    yield Found(spans[0][0] - plus, spans[n][1], "phone", "+" + digits)


def is_named(text: str, start: int, end: int, one: national.National) -> bool:
    """Whether what the number is called stands near."""
    near = text[max(0, start - _NEAR) : start] + " " + text[end : end + 16]
    return _names(one.names).search(near) is not None


@lru_cache(maxsize=64)
def _names(names: str) -> re.Pattern[str]:
    return re.compile(f"{names}|{national.ANY_NAME}", re.IGNORECASE)


def _is_other(text: str, start: int) -> bool:
    return _OTHER.search(text[max(0, start - _NEAR) : start]) is not None


def is_of_another_kind(text: str, start: int, end: int) -> bool:
    """Whether what stands before or around says that it is no number of a person."""
    return _is_other(text, start) or _is_attached(text, start, end)


def _is_attached(text: str, start: int, end: int) -> bool:
    """Whether it is a piece of something longer: of a UUID, a part number, a path."""
    if (
        start > 1
        and text[start - 1] in "-/\\"
        and text[start - 2].isalnum()
        and not _is_fraction(text, start - 1)
    ):
        return True
    return (
        end + 1 < len(text) and text[end] in "-/" and text[end + 1].isalnum() and not _is_fraction(text, end)
    )


def _is_fraction(text: str, at: int) -> bool:
    """A slash between two numbers, which may be two things."""
    return text[at] == "/" and text[at - 1].isdigit() and text[at + 1].isdigit()


def _is_amount(text: str, start: int) -> bool:
    return start > 0 and text[start - 1] in "#$€£+"
