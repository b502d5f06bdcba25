"""Which groups of digits are a telephone number: those with a country's code and its length, those with an area's rules,
and any of 7 to 15 digits right after a word such as "phone" or "call me at".

Not here: whether the number is in use, and national numbers without either sign ("0171 1234567" alone), which nothing
tells from an order number; those are found where the same number stands elsewhere in the record with its sign.
"""

from __future__ import annotations

import re

# Digits after the country's code (ITU-T E.164 and national plans); others take DEFAULT.
_LENGTHS = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9),
    "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9), "41": (9, 9), "43": (5, 13),
    "44": (9, 10), "45": (8, 8), "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (6, 12), "51": (8, 9),
    "52": (10, 11), "54": (10, 11), "55": (10, 11), "56": (9, 9), "57": (8, 10), "60": (8, 10), "61": (9, 9),
    "62": (8, 12), "63": (8, 10), "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10),
    "84": (9, 10), "86": (10, 11), "90": (10, 10), "91": (10, 10), "92": (9, 10), "351": (9, 9), "352": (6, 11),
    "353": (7, 9), "358": (6, 11), "359": (8, 9), "370": (8, 8), "371": (8, 8), "372": (7, 8), "380": (9, 9),
    "385": (8, 9), "386": (8, 8), "420": (9, 9), "421": (9, 9), "852": (8, 8), "971": (8, 9), "972": (8, 9),
}  # fmt: skip
_DEFAULT = (7, 12)
_TWO = frozenset("20 27 28 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86 90 91 92 93 94 95 98".split())  # fmt: skip  # noqa: SIM905
_THREE = ("21", "22", "23", "24", "25", "26", "29", "35", "37", "38", "42", "50", "59", "67", "68", "69", "80", "85", "87", "88", "96", "97", "99")  # fmt: skip

WORDS = frozenset(
    (  # noqa: SIM905
        "phone phones telephone tel mobile cell cellphone call calling dial ring sms fax whatsapp reach landline "
        "telefon telefonnummer handy handynummer mobil mobilnummer rufnummer anrufen anruf anrufe ruf "
        "téléphone tél appeler appelez appelle teléfono telefono móvil movil celular llama llamar llame "
        "llámame llámeme llamame cellulare chiama chiamami telefoonnummer telefoon mobiel bel telefone telemóvel ligue "
        "телефон телефону"
    ).split()
)
_UNSPACED = ("电话", "電話", "手机", "手機", "携帯", "전화")
_WORD = re.compile(r"[^\W\d_]+")
_CLOSE = 24
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2}"
)


def is_said(before: str) -> bool:
    """Whether what stands before a number says that one can call it.

    >>> is_said("or call me at "), is_said("we recall "), is_said("call 30 of them, ")
    (True, False, False)
    """
    before = re.split(r"[0-9\n]", before)[-1]
    for match in _WORD.finditer(before.lower()):
        if match[0] in WORDS and len(before) - match.end() <= _CLOSE:
            return True
    return not before.isascii() and any(word in before for word in _UNSPACED)


def country_code(digits: str) -> str | None:
    """
    >>> country_code("4930123456"), country_code("35312345"), country_code("0301234")
    ('49', '353', None)
    """
    if digits[:1] in ("1", "7"):
        return digits[0]
    if digits[:2] in _TWO:
        return digits[:2]
    return digits[:3] if digits[:2] in _THREE and len(digits) > 2 else None


def lengths(code: str) -> tuple[int, int]:
    """The fewest and the most digits behind a country's code."""
    return _LENGTHS.get(code, _DEFAULT)


def is_international(digits: str) -> bool:
    """Country's code and a length it uses.

    >>> is_international("12015550123"), is_international("1201555012"), is_international("493012345")
    (True, False, True)
    """
    code = country_code(digits)
    if code is None:
        return False
    low, high = lengths(code)
    if not low <= len(digits) - len(code) <= high or len(digits) > 15:
        return False
    return code != "1" or is_north_american(digits[1:], strict=False)


def is_north_american(digits: str, *, strict: bool) -> bool:
    """Ten digits by the rules of area and exchange; 555 is what made-up numbers use, and is taken unless `strict`.

    >>> is_north_american("2015550123", strict=True), is_north_american("1115550123", strict=True)
    (True, False)
    """
    if len(digits) != 10 or digits[0] in "01":
        return False
    fits = digits[1:3] != "11" and digits[3] not in "01" and digits[4:6] != "11"
    return fits or (not strict and "555" in (digits[:3], digits[3:6])) or digits[:3] == "555"


def is_date(text: str) -> bool:
    """
    >>> is_date("2024-05-01"), is_date("01.05.2024 12"), is_date("030-1234567")
    (True, True, False)
    """
    return _DATE.match(text) is not None


def first_of(groups: list[str], between: list[str], *, lengths: tuple[int, int]) -> int:
    """How many of the groups belong to one number, when a word before says that it is one; 0 for none."""
    total = 0
    for n, group in enumerate(groups):
        gap = between[n - 1] if n else ""
        if n and (len(gap) > 2 or total >= 10 or total + len(group) > lengths[1]):
            break
        if n and total >= 7 and gap == " " and (len(group) < 2 or total + len(group) > 12):
            break
        total += len(group)
    else:
        n = len(groups)
    return n if lengths[0] <= total <= lengths[1] else 0
