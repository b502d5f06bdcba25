"""Check digits and structures: what tells a number that means something from any other number.

All take strings of digits (or letters where said) without separators. Sources: ISO/IEC 7812-1 (Luhn, issuer numbers),
ISO 13616 (IBAN), ISO/IEC 7064 (mod 97-10, mod 11-10, mod 11-2), Verhoeff 1969, RFC 5737 and 3849 (addresses that
documents use).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from operator import mul

_TWICE = str.maketrans("0123456789", "0246813579")
"""Each digit twice, and the digits of that added up."""


def luhn(digits: str) -> bool:
    """
    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    return (sum(map(int, digits[::-2])) + sum(map(int, digits[-2::-2].translate(_TWICE)))) % 10 == 0


_TIMES = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043", "8765932104", "9876543210")  # fmt: skip
_TURNS = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")  # fmt: skip


def verhoeff(digits: str) -> bool:
    """
    >>> verhoeff("2363"), verhoeff("2364")
    (True, False)
    """
    check = 0
    for n, digit in enumerate(reversed(digits)):
        check = int(_TIMES[check][int(_TURNS[n % 8][int(digit)])])
    return check == 0


def mod_11_10(digits: str) -> bool:
    """ISO 7064, the pure system with two moduli (German tax ids, Croatian ids).

    >>> mod_11_10("36574261809"), mod_11_10("36574261890")
    (True, False)
    """
    product = 10
    for digit in digits[:-1]:
        product = (int(digit) + product) % 10 or 10
        product = product * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of digits times weights; the shorter decides how many.

    >>> weighted("123", (3, 2, 1))
    10
    """
    return sum(map(mul, weights, map(int, digits)))  # weights first: letters may come after them


def is_date(year: int, month: int, day: int) -> bool:
    """Whether a calendar has it; the year only matters for 29 February.

    >>> is_date(2024, 2, 29), is_date(2023, 2, 29), is_date(1, 13, 1)
    (True, False, False)
    """
    if not 1 <= month <= 12 or day < 1:
        return False
    if month == 2:
        return day <= (29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28)
    return day <= (30 if month in (4, 6, 9, 11) else 31)


# Issuer numbers: (lowest, highest of the leading digits, lengths).
_ISSUERS = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (300, 305, (14, 16, 17, 18, 19)),  # Diners
    (3095, 3095, (14, 16, 17, 18, 19)),
    (36, 36, (14, 16, 17, 18, 19)),
    (38, 39, (14, 16, 17, 18, 19)),
    (3528, 3589, (16, 17, 18, 19)),  # JCB
    (6011, 6011, (16, 17, 18, 19)),  # Discover
    (644, 659, (16, 17, 18, 19)),
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (2200, 2204, (16, 17, 18, 19)),  # Mir
    (5018, 5018, (13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (5020, 5020, (13, 14, 15, 16, 17, 18, 19)),
    (5038, 5038, (13, 14, 15, 16, 17, 18, 19)),
    (5893, 5893, (13, 14, 15, 16, 17, 18, 19)),
    (6304, 6304, (13, 14, 15, 16, 17, 18, 19)),
    (6759, 6759, (13, 14, 15, 16, 17, 18, 19)),
    (6761, 6763, (13, 14, 15, 16, 17, 18, 19)),
    (9792, 9792, (16,)),  # Troy
    (6062, 6062, (16,)),  # Hipercard
    (6363, 6363, (16,)),  # Elo, RuPay and others of India
    (60, 60, (16,)),
    (81, 82, (16,)),
)


def card(digits: str) -> bool:
    """A payment card: issuer, length and Luhn.

    >>> card("378282246310005"), card("1234567812345670")
    (True, False)
    """
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2 or not luhn(digits):
        return False
    known = any(
        low <= int(digits[: len(str(low))]) <= high and len(digits) in lengths
        for low, high, lengths in _ISSUERS
    )
    if not known:
        return False
    return len(digits) != 13 or not article(digits)  # a Visa of 13 digits is rarer than an article number


def article(digits: str) -> bool:
    """An EAN or ISBN of 13 digits.

    >>> article("9783161484100")
    True
    """
    return weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
"""Characters of an IBAN by country (SWIFT's registry)."""


def iban(text: str) -> bool:
    """Length of its country and mod 97; letters and digits, any case.

    >>> iban("DE89370400440532013000"), iban("DE89370400440532013001")
    (True, False)
    """
    text = text.upper()
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not 2 <= int(text[2:4]) <= 98:
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


_NOBODY = [
    ipaddress.ip_network(net)
    for net in (
        "0.0.0.0/8", "127.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
        "::/127", "2001:db8::/32", "3fff::/20", "ff00::/8",
    )
]  # fmt: skip
"""Loopback, documentation, multicast and masks: addresses that are no one's."""
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+")


def ip(text: str) -> str | None:
    """The address in its shortest form, or None where it is none, or no one's.

    >>> ip("10.20.30.40"), ip("2A00:0:0::1"), ip("127.0.0.1"), ip("1.2.3.256"), ip("2001:db8::1")
    ('10.20.30.40', '2a00::1', None, None, None)
    """
    if _FINGERPRINT.fullmatch(text):
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if any(address in net for net in _NOBODY):
        return None
    return str(address)


def entropy(text: str) -> float:
    """Bits per character by how often each occurs in it.

    >>> entropy("aaaa"), entropy("abcd")
    (0.0, 2.0)
    """
    from math import log2

    counts = [text.count(c) for c in sorted(set(text))]
    return sum(-n / len(text) * log2(n / len(text)) for n in counts) + 0.0
